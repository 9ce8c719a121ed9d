"""``antiphon run --workers N``: so many processes of one run, on one port; one that dies is started again."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any

from antiphon.cli import output
from antiphon.cli.exits import Exit

#: How a process is told that it is one of several: the descriptor of its line to the parent, and that of the port.
MEMBER = "--member-of"
# A process that dies is started again after this, each time after twice as long, unless it had lived for a while.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _STEADY_S = 0.5, 30.0, 30.0
# Beyond the grace, for what a process does at its end.
_PATIENCE_S = 15.0


def count(text: str) -> int:
    """A number of processes, as an argument."""
    if not text.isdecimal() or not 1 <= int(text) <= 64:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of processes from 1 to 64")
    return int(text)


def line_and_port(text: str) -> tuple[int, int | None]:
    """What `MEMBER` says: two descriptors; the second is missing where no HTTP is served."""
    line, _, port = text.partition(",")
    return int(line), int(port) if port else None


class Member:
    """One process of several, as it sees itself. Its parent learns when it is ready; without a parent it stops."""

    def __init__(self, descriptor: int) -> None:
        self._line = socket.socket(fileno=descriptor)
        self._line.setblocking(False)

    def stop_with_parent(self, stop: Callable[[], None]) -> None:
        """Call *stop* when the parent is gone."""
        loop = asyncio.get_running_loop()

        def heard() -> None:
            with suppress(BlockingIOError, OSError):
                if self._line.recv(64):
                    return
            loop.remove_reader(self._line)
            stop()

        loop.add_reader(self._line, heard)

    def is_ready(self, facts: dict[str, Any]) -> None:
        """Tell the parent."""
        import msgspec

        with suppress(OSError):
            self._line.send(msgspec.json.encode(facts) + b"\n")


class Crew:
    """*size* processes of the command line *arguments*. They listen on *port*, the same socket, if there is one."""

    def __init__(self, arguments: list[str], size: int, port: socket.socket | None, grace_s: float) -> None:
        self._command = [sys.executable, "-m", "antiphon", *arguments, "--workers", "1", MEMBER]
        self._size = size
        self._port = port
        self._grace_s = grace_s
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._facts: dict[int, dict[str, Any]] = {}
        self._stopping = asyncio.Event()
        self._all_ready = asyncio.Event()
        self._code = int(Exit.OK)

    async def run(self, announce: Callable[[dict[str, Any]], None]) -> int:
        """Keep all of them running until told to stop; returns the exit code. *announce* is called when all are ready.

        One that ends before that by itself ends all: it would do so again.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_stop, number)
        keepers = [asyncio.create_task(self._keep(number)) for number in range(self._size)]
        announcing = asyncio.create_task(self._announce(announce))
        try:
            await asyncio.gather(*keepers)
        finally:
            announcing.cancel()
            for process in self._processes.values():
                with suppress(ProcessLookupError):
                    process.kill()
        return self._code

    def _told_to_stop(self, number: int) -> None:
        if self._stopping.is_set():
            for process in self._processes.values():
                with suppress(ProcessLookupError):
                    process.kill()
            os._exit(128 + number)
        output.say(f"draining {len(self._processes)} workers")
        self._stop()

    def _stop(self) -> None:
        self._stopping.set()
        for process in self._processes.values():
            with suppress(ProcessLookupError):
                process.terminate()

    async def _announce(self, announce: Callable[[dict[str, Any]], None]) -> None:
        await self._all_ready.wait()
        workers = [self._facts[number]["pid"] for number in range(self._size)]
        announce({**self._facts[0], "pid": os.getpid(), "workers": workers})

    async def _keep(self, number: int) -> None:
        """Start a process again whenever it ends, until told to stop."""
        loop, pause_s = asyncio.get_running_loop(), _FIRST_PAUSE_S
        while not self._stopping.is_set():
            began = loop.time()
            code = await self._run_one(number)
            if self._stopping.is_set():
                # One that had not begun yet does not know the signal, and has nothing to drain.
                self._note(0 if code == -signal.SIGTERM else code)
                return
            if not self._all_ready.is_set() and code >= 0:
                self._note(code or Exit.REFUSED)
                self._stop()
                return
            pause_s = _FIRST_PAUSE_S if loop.time() - began > _STEADY_S else pause_s
            how = signal.Signals(-code).name if code < 0 else str(code)
            output.say(f"worker {number} has ended with {how}; it is started again in {pause_s:g} s")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _note(self, code: int) -> None:
        """The first that does not end well decides."""
        self._code = self._code or (code if code >= 0 else 128 - code)

    async def _run_one(self, number: int) -> int:
        """Start a process and return its exit code, the negative number of a signal that killed it."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with ours, theirs:
            passed = [theirs, *([self._port] if self._port is not None else [])]
            descriptors = ",".join(str(each.fileno()) for each in passed)
            process = await asyncio.create_subprocess_exec(
                *self._command,
                descriptors,
                pass_fds=[each.fileno() for each in passed],
                start_new_session=True,  # Ctrl-C is for this process, which lets them drain
            )
            theirs.close()
            self._processes[number] = process
            if self._stopping.is_set():
                process.terminate()
            listening = asyncio.create_task(self._listen(number, ours))
            killing = asyncio.create_task(self._kill_late(process))
            try:
                return await process.wait()
            finally:
                del self._processes[number]
                for task in (listening, killing):
                    task.cancel()
                await asyncio.gather(listening, killing, return_exceptions=True)

    async def _listen(self, number: int, line: socket.socket) -> None:
        """Take what a process says of itself when it is ready."""
        import msgspec

        loop, said = asyncio.get_running_loop(), b""
        while not said.endswith(b"\n"):
            some = await loop.sock_recv(line, 65_536)
            if not some:
                return
            said += some
        self._facts[number] = msgspec.json.decode(said)
        if len(self._facts) == self._size:
            self._all_ready.set()

    async def _kill_late(self, process: asyncio.subprocess.Process) -> None:
        """Nobody waits for ever for one that does not end."""
        await self._stopping.wait()
        await asyncio.sleep(self._grace_s + _PATIENCE_S)
        output.say(f"process {process.pid} does not end, and is killed")
        process.kill()


def run_crew(options: argparse.Namespace, port: int | None, announce: Callable[[dict[str, Any]], None]) -> int:
    """Run as many processes as *options* say, whose gateway listens on *port* (None: they have none)."""
    shared = None
    if port is not None:
        from antiphon.gateway.server import listen

        shared = listen(options.host, port)
    with shared or nullcontext():
        crew = Crew(options.arguments, options.workers, shared, options.grace.total_seconds())
        return asyncio.run(crew.run(announce))
