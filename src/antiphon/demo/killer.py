"""Kills processes of the demo while it is fed, and starts them again."""

from __future__ import annotations

import asyncio

from antiphon.demo.chance import Chance
from antiphon.demo.fleet import Fleet
from antiphon.ports import Clock

#: In this share of crashes all processes die at once.
_ALL_AT_ONCE = 0.25
_LOOK_EVERY_S = 0.05


class Killer:
    """``kill -9``, every so many seconds, for one member of *fleet* or all. *killed* counts processes."""

    def __init__(self, fleet: Fleet, every_s: float, chance: Chance, clock: Clock) -> None:
        self.killed = 0
        self._fleet = fleet
        self._every_s = every_s
        self._chance = chance
        self._clock = clock
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        """Kill nobody more; `run` returns when all run again."""
        self._stopped.set()

    async def run(self) -> None:
        """Kill until stopped. Raises AntiphonError for a process that ended by itself."""
        crashes = 0
        while await self._time_comes():
            names = self._fleet.names
            together = self._chance.of("all at once", crashes) < _ALL_AT_ONCE
            dying = names if together else [self._chance.pick(names, "who dies", crashes)]
            await self._fleet.kill(dying)
            await self._fleet.start(dying)
            await self._fleet.ready()
            self.killed += len(dying)
            crashes += 1

    async def _time_comes(self) -> bool:
        due = self._clock.boot_ms() + self._every_s * 1000
        while not self._stopped.is_set() and self._clock.boot_ms() < due:
            await self._clock.sleep(_LOOK_EVERY_S)
        return not self._stopped.is_set()
