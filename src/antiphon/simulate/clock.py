"""The clock of a simulated process: virtual time, a wall clock that may be wrong, seeded ids."""

from __future__ import annotations

import asyncio
import random  # noqa: TID251  seeded: it is the same in every run
from collections.abc import Callable
from typing import Any

from antiphon.model.ids import uuid7
from antiphon.simulate.loop import SimLoop
from antiphon.simulate.machine import Machine
from antiphon.simulate.process import Process

_TAIL_BITS = 74


class SimClock:
    """``ports.Clock`` for one process of a simulated machine."""

    def __init__(self, process: Process, machine: Machine, loop: SimLoop, seed: int) -> None:
        self._process = process
        self._machine = machine
        self._loop = loop
        self._random = random.Random(f"{seed}:{process.owner}")
        self._last_ms = 0
        self._tail = 0

    def now_ms(self) -> int:
        """What the process takes for the time: Unix milliseconds."""
        return self._machine.wall_ms() + self._process.skew_ms

    def boot_ms(self) -> int:
        """Milliseconds since the machine booted."""
        return self._machine.boot_ms()

    def boot_id(self) -> str:
        """Which boot of the machine this is."""
        return self._machine.boot_id

    def new_id(self) -> str:
        """A UUIDv7; ids of one process sort as they were made, whatever its wall clock does."""
        ms = self.now_ms()
        if ms > self._last_ms:
            self._last_ms = ms
            self._tail = self._random.getrandbits(_TAIL_BITS - 1)
        else:
            self._tail += 1 + self._random.getrandbits(32)
        return uuid7(self._last_ms, self._tail)

    def random(self) -> float:
        """The next number of the process's own sequence."""
        return self._random.random()

    async def sleep(self, seconds: float) -> None:
        """Sleep in virtual time."""
        await asyncio.sleep(seconds)

    async def idle(self, seconds: float) -> None:
        """Sleep, too: upkeep has its share in what may go wrong."""
        await asyncio.sleep(seconds)

    async def run_blocking(self, fn: Callable[[], Any]) -> Any:
        """Run *fn* in a thread in lockstep with the loop."""
        return await self._loop.run_in_executor(None, fn)
