"""While a world runs, the standard library's time, randomness and threads are the world's.

What cannot be taken over is reported, with the file and line of the application's code that uses it.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random  # noqa: TID251  taken over while a world runs
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio.to_thread
import msgspec

from antiphon.simulate import lockstep
from antiphon.simulate.loop import SimLoop

_LIBRARY = str(Path(__file__).parents[1])
_OTHERS = (_LIBRARY, str(Path(os.__file__).parent), "<frozen")


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
        loop, wall_ms = self._loop, self._wall_ms
        state, collects = random.getstate(), gc.isenabled()
        with ExitStack() as undo:
            put = partial(_put, undo)
            put(time, "time", lambda: wall_ms() / 1000)
            put(time, "time_ns", lambda: wall_ms() * 1_000_000)
            for name in ("monotonic", "perf_counter"):
                put(time, name, loop.time)
                put(time, f"{name}_ns", lambda: int(loop.time() * 1e9))
            put(time, "sleep", self._sleep)
            put(os, "urandom", self._random.randbytes)
            put(random, "_urandom", self._random.randbytes)
            put(threading.Thread, "start", self._watched("starts a thread", threading.Thread.start))
            put(socket.socket, "connect", self._no_socket)
            put(socket, "getfqdn", lambda name="": name or "simulated")
            put(asyncio, "run_coroutine_threadsafe", lockstep.run_coroutine_threadsafe)
            put(anyio.to_thread, "run_sync", self._in_thread)
            undo.callback(random.setstate, state)
            random.seed(self._seed)
            if collects:
                # It would finalise what it finds at a step that no seed decides.
                gc.disable()
                undo.callback(gc.enable)
            yield

    def report(self, what: str) -> None:
        """Note that the application's code that runs now does *what*. Anybody else's code may."""
        frame = sys._getframe(1)
        while frame is not None:
            file = frame.f_code.co_filename
            if not file.startswith(_OTHERS) and "site-packages" not in file:
                self.reports.add(Report(what, file, frame.f_lineno))
                return
            if file.startswith(_LIBRARY) and not file.startswith(os.path.join(_LIBRARY, "simulate")):  # noqa: PTH118
                return
            frame = frame.f_back  # type: ignore[assignment]

    def _sleep(self, seconds: float) -> None:
        self.report(f"time.sleep({seconds:g}) blocks the event loop")
        self._loop.busy(seconds)

    def _watched(self, what: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **options: Any) -> Any:
            self.report(what)
            return original(*args, **options)

        return watched

    def _no_socket(self, _: socket.socket, address: Any) -> None:
        self.report(f"connects a socket to {address}")
        raise ConnectionRefusedError(f"a simulated world has no network; {address} was asked for")

    async def _in_thread(self, fn: Callable[..., Any], *args: Any, **_: Any) -> Any:
        return await self._loop.run_in_executor(None, fn, *args)


def _put(undo: ExitStack, where: Any, name: str, value: object) -> None:
    undo.callback(setattr, where, name, getattr(where, name))
    setattr(where, name, value)
