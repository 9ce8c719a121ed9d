"""Interpreters of their own to run worlds in: two sorts, which hash strings differently."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

import msgspec

from antiphon.errors import AntiphonError
from antiphon.simulate.worker import Job
from antiphon.simulate.world import Run

#: PYTHONHASHSEED of the two sorts. A run that is the same in both does not hang on the order of sets.
HASH_SEEDS = (0, 4242)
# A run with its timeline is one line.
_LONGEST_LINE = 256 << 20


class Runner(Protocol):
    """Runs worlds, in an interpreter of a *sort* (0 or 1)."""

    async def run(self, job: Job, sort: int) -> Run:
        """What came of *job*. Raises AntiphonError."""


class Interpreters:
    """A number of interpreters, at least one of each sort, of which *workers* work at a time."""

    def __init__(self, reference: str, workers: int) -> None:
        self._reference = reference
        self._workers = workers
        self._working = asyncio.Semaphore(workers)
        self._idle: tuple[asyncio.Queue[asyncio.subprocess.Process], ...] = (asyncio.Queue(), asyncio.Queue())
        self._all: list[asyncio.subprocess.Process] = []

    async def start(self) -> None:
        """Start them."""
        for number in range(max(2, self._workers)):
            sort = number % 2
            paths = os.pathsep.join(path or os.curdir for path in sys.path)
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "antiphon.simulate.worker",
                self._reference,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env={**os.environ, "PYTHONHASHSEED": str(HASH_SEEDS[sort]), "PYTHONPATH": paths},
                limit=_LONGEST_LINE,
            )
            self._all.append(process)
            self._idle[sort].put_nowait(process)

    async def run(self, job: Job, sort: int) -> Run:
        """What came of *job*. Raises AntiphonError when its interpreter ends."""
        process = await self._idle[sort].get()
        assert process.stdin is not None
        assert process.stdout is not None
        async with self._working:
            process.stdin.write(msgspec.json.encode(job) + b"\n")
            line = await process.stdout.readline()
        if not line:
            raise AntiphonError(
                f"the interpreter that ran seed {job.seed} ended with {await process.wait()}",
                where=self._reference,
                mend="What it said stands above",
            )
        self._idle[sort].put_nowait(process)
        return msgspec.json.decode(line, type=Run)

    async def stop(self) -> None:
        """End them, whatever they do."""
        for process in self._all:
            if process.returncode is None:
                process.kill()
            await process.wait()


@asynccontextmanager
async def interpreters(reference: str, workers: int) -> AsyncIterator[Interpreters]:
    """Interpreters for the length of the block, each with the app that *reference* names."""
    made = Interpreters(reference, workers)
    try:
        await made.start()
        yield made
    finally:
        await made.stop()
