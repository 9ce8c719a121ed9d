"""While a world runs, the standard library's time, randomness and threads are the world's.

What cannot be taken over is reported, with the file and line of the application's code that uses it.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import random  # noqa: TID251  taken over while a world runs
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, date, datetime, tzinfo
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import anyio.to_thread
import msgspec

from antiphon.errors import AntiphonError
from antiphon.simulate import lockstep
from antiphon.simulate.loop import SimLoop
from antiphon.simulate.process import PROCESS

_LIBRARY = str(Path(__file__).parents[1])
_SIMULATOR = str(Path(__file__).parent)
_OTHERS = (_LIBRARY, str(Path(os.__file__).parent), "<frozen")
#: What Python tells an audit hook of, and what that means in the code of an application.
_TELLING = {
    "subprocess.Popen": "starts a program",
    "os.system": "starts a program",
    "os.posix_spawn": "starts a program",
    "os.exec": "starts a program",
    "os.fork": "forks",
    "os.listdir": "lists a folder, in an order that nobody promises",
    "os.scandir": "lists a folder, in an order that nobody promises",
    "socket.getaddrinfo": "asks for an address",
    "socket.gethostbyname": "asks for an address",
    "socket.sendto": "sends a datagram",
    "sqlite3.connect": "opens a database that no simulated disk holds",
}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
#: What the loop of a world cannot do.
_NOT_THERE = (
    "subprocess_exec",
    "subprocess_shell",
    "create_datagram_endpoint",
    "create_unix_connection",
    "sock_connect",
    "add_reader",
    "add_writer",
)


class Report(msgspec.Struct, frozen=True):
    """Something of the application's that no seed decides, or that blocks: *what*, and where."""

    what: str
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}"


class Ambient:
    """Takes over what a program can ask without naming a clock. *wall_ms* is the running process's wall clock."""

    def __init__(self, loop: SimLoop, seed: int, wall_ms: Callable[[], int]) -> None:
        self.reports: set[Report] = set()
        self._loop = loop
        self._seed = seed
        self._wall_ms = wall_ms
        self._random = random.Random(f"{seed}:ambient")

    @contextmanager
    def installed(self) -> Iterator[None]:
        """For the length of the block nothing else in this process should ask for the time."""
        state, collects = random.getstate(), gc.isenabled()
        with ExitStack() as undo:
            self._take_over(undo)
            for name in _NOT_THERE:
                setattr(self._loop, name, partial(self._not_there, name))
            undo.callback(random.setstate, state)
            random.seed(self._seed)
            if collects:
                # It would finalise what it finds at a step that no seed decides.
                gc.disable()
                undo.callback(gc.enable)
            undo.enter_context(_heard_by(self._heard))
            yield

    def report(self, what: str) -> None:
        """Note that the application's code that runs now does *what*. Anybody else's code may."""
        frame = sys._getframe(1) if PROCESS.get() is not None else None
        while frame is not None:
            file = frame.f_code.co_filename
            if not file.startswith(_OTHERS) and "site-packages" not in file:
                self.reports.add(Report(what, file, frame.f_lineno))
                return
            if file.startswith(_LIBRARY) and not file.startswith(_SIMULATOR):
                return
            if frame.f_code is SimLoop._run_once.__code__:
                return
            frame = frame.f_back

    # ------------------------------------------------------------------ what is taken over

    def _take_over(self, undo: ExitStack) -> None:
        loop, wall_ms, gmtime = self._loop, self._wall_ms, time.gmtime
        instead: dict[tuple[Any, str], Any] = {
            (time, "time"): lambda: wall_ms() / 1000,
            (time, "time_ns"): lambda: wall_ms() * 1_000_000,
            (time, "sleep"): self._sleep,
            (os, "urandom"): self._random.randbytes,
            (os, "getrandom"): lambda size, flags=0: self._random.randbytes(size),
            (random, "_urandom"): self._random.randbytes,
            (uuid, "_generate_time_safe"): None,
            (uuid, "_last_timestamp"): None,
            (uuid, "_node"): self._random.getrandbits(48),
            (socket, "getfqdn"): lambda name="": name or "simulated",
            (asyncio, "run_coroutine_threadsafe"): lockstep.run_coroutine_threadsafe,
            (anyio.to_thread, "run_sync"): self._in_thread,
        }
        for name in ("monotonic", "perf_counter", "process_time", "thread_time"):
            instead[time, name] = loop.time
            instead[time, f"{name}_ns"] = lambda: int(loop.time() * 1e9)
        for name in ("gmtime", "localtime"):
            # The zone of the machine is none of a seed's business.
            instead[time, name] = lambda seconds=None: gmtime(wall_ms() // 1000 if seconds is None else seconds)
        copies = {id(getattr(where, name)): new for (where, name), new in instead.items() if callable(new)}
        for module in _of_applications():
            for name, value in list(vars(module).items()):
                if id(value) in copies:  # ``from time import time``
                    _put(undo, module, name, copies[id(value)])
        for (where, name), new in instead.items():
            _put(undo, where, name, new)
        _put(undo, socket.socket, "connect", self._no_socket)
        start = threading.Thread.start

        def start_a_thread(thread: threading.Thread) -> None:
            self.report("starts a thread, which no seed decides")
            start(thread)

        _put(undo, threading.Thread, "start", start_a_thread)
        _put_into(undo, datetime, now=self._now, utcnow=self._utcnow, today=self._now)
        _put_into(undo, date, today=self._today)

    def _now(self, cls: type[datetime], tz: tzinfo | None = None) -> datetime:
        utc = cls.fromtimestamp(self._wall_ms() / 1000, UTC)
        return utc.replace(tzinfo=None) if tz is None else utc.astimezone(tz)

    def _today(self, cls: type[date]) -> date:
        now = self._now(datetime)
        return cls(now.year, now.month, now.day)

    def _utcnow(self, cls: type[datetime]) -> datetime:
        return self._now(cls)

    def _sleep(self, seconds: float) -> None:
        self.report(f"time.sleep({seconds:g}) blocks the event loop")
        self._loop.busy(seconds)

    def _no_socket(self, address: Any) -> NoReturn:
        self.report(f"connects a socket to {address}")
        raise ConnectionRefusedError(f"a simulated world has no network; {address} was asked for")

    def _not_there(self, name: str, *_: Any, **__: Any) -> NoReturn:
        self.report(f"asks the event loop for {name}")
        raise AntiphonError(
            f"a simulated world has no {name}", where="a handler", mend="Put it behind a function that a test replaces"
        )

    async def _in_thread(self, fn: Callable[..., Any], *args: Any, **_: Any) -> Any:
        return await self._loop.run_in_executor(None, fn, *args)

    # ------------------------------------------------------------------ what is only noticed

    def _heard(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = args
            writes = set(mode) & set("wax+") if isinstance(mode, str) else isinstance(flags, int) and flags & _WRITES
            if writes:
                self.report(f"writes the file {path}, which no transaction undoes")
        elif event in _TELLING:
            self.report(_TELLING[event])


#: Who is told of audit events now: a hook of Python's stays for ever.
_listeners: list[Callable[[str, tuple[Any, ...]], None]] = []
_hooked = False


@contextmanager
def _heard_by(listener: Callable[[str, tuple[Any, ...]], None]) -> Iterator[None]:
    """For the length of the block *listener* is told what Python tells audit hooks."""
    global _hooked  # noqa: PLW0603
    if not _hooked:
        _hooked = True
        sys.addaudithook(_tell)
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def _tell(event: str, args: tuple[Any, ...]) -> None:
    if _listeners and (event == "open" or event in _TELLING):
        _listeners[-1](event, args)


def _of_applications() -> Iterator[ModuleType]:
    """The modules that are neither Python's, nor installed, nor ours."""
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and not file.startswith(_OTHERS) and "site-packages" not in file:
            yield module


def _put(undo: ExitStack, where: Any, name: str, value: object) -> None:
    undo.callback(setattr, where, name, getattr(where, name))
    setattr(where, name, value)


def _put_into(undo: ExitStack, cls: type, **methods: Callable[..., Any]) -> None:
    """Replace class methods of a class that is written in C, which everybody may have imported by name.

    Python forbids to set them; the dictionary behind its read-only view does not. What was found in it once is
    remembered by the interpreter, until it is told that the class has changed.
    """
    attributes = gc.get_referents(vars(cls))[0]
    before = {name: attributes[name] for name in methods if name in attributes}

    def change(new: dict[str, Any]) -> None:
        for name in methods:
            attributes.pop(name, None)
        attributes.update(new)
        ctypes.pythonapi.PyType_Modified(ctypes.py_object(cls))

    undo.callback(change, before)
    change({name: classmethod(method) for name, method in methods.items()})
