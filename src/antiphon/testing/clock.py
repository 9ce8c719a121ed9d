"""A clock that stands still until a test moves it."""

from __future__ import annotations

import asyncio
import heapq
import random  # noqa: TID251  seeded: it is the same in every run
from collections.abc import Callable
from typing import Any

from antiphon.model.ids import uuid7
from antiphon.runtime.clock import in_thread

#: 2026-01-01 00:00:00 UTC.
START_MS = 1_767_225_600_000
_BOOTED_BEFORE_MS = 3_600_000
# Loops that a change wakes get so many rounds of the event loop to come to rest.
_ROUNDS_TO_REST = 200
# A call in a thread is waited for so long, in real seconds; one that takes longer waits for something itself.
_PATIENCE_S = 2.0


class VirtualClock:
    """Virtual time, seeded randomness, ids that count up (``ports.Clock``).

    ``await clock.advance(seconds)`` wakes every sleeper at its own moment, in order, and lets the
    work that follows come to rest before time goes on. A wall clock that jumps: `set_wall`.
    """

    def __init__(self, seed: int = 0) -> None:
        self._elapsed_ms = 0
        self._wall_skew_ms = 0
        self._random = random.Random(seed)
        self._ids = 0
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = 0
        self._boot = f"virtual-{seed}"
        self._calls: dict[asyncio.Future[Any], float] = {}

    def now_ms(self) -> int:
        """Unix milliseconds."""
        return START_MS + self._elapsed_ms + self._wall_skew_ms

    def boot_ms(self) -> int:
        """Milliseconds since boot; a wall clock that is set leaves it alone."""
        return _BOOTED_BEFORE_MS + self._elapsed_ms

    def boot_id(self) -> str:
        """The same for the life of this clock."""
        return self._boot

    def new_id(self) -> str:
        """Ids sort in the order in which they were made."""
        self._ids += 1
        return uuid7(START_MS + self._elapsed_ms, self._ids << 32 | self._random.getrandbits(32))

    def random(self) -> float:
        """The next number of the seeded sequence."""
        return self._random.random()

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock has been moved that far."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken = asyncio.get_running_loop().create_future()
        self._order += 1
        heapq.heappush(self._sleepers, (self._elapsed_ms + max(1, round(seconds * 1000)), self._order, woken))
        await woken

    async def run_blocking(self, fn: Callable[[], Any]) -> Any:
        """Run *fn* in a real thread: what blocks is real even where time is not."""
        call = in_thread(fn)
        self._calls[call] = asyncio.get_running_loop().time()
        call.add_done_callback(self._calls.pop)
        return await call

    async def rest(self) -> None:
        """Let everything that can run now run, calls in threads to their end."""
        while True:
            for _ in range(_ROUNDS_TO_REST):
                await asyncio.sleep(0)
            now = asyncio.get_running_loop().time()
            calls = [call for call, started in self._calls.items() if now - started < _PATIENCE_S]
            if not calls:
                return
            await asyncio.wait(calls, timeout=_PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)

    async def advance(self, seconds: float) -> None:
        """Move time forward, waking each sleeper at its moment."""
        target = self._elapsed_ms + round(seconds * 1000)
        await self.rest()
        while self._sleepers and self._sleepers[0][0] <= target:
            due = self._sleepers[0][0]
            self._elapsed_ms = max(self._elapsed_ms, due)
            while self._sleepers and self._sleepers[0][0] <= due:
                woken = heapq.heappop(self._sleepers)[2]
                if not woken.done():
                    woken.set_result(None)
            await self.rest()
        self._elapsed_ms = target

    async def jump(self, seconds: float) -> None:
        """Move time forward at once, as a machine that was suspended: every sleeper due wakes together."""
        self._elapsed_ms += round(seconds * 1000)
        await self.advance(0)

    def set_wall(self, skew_seconds: float) -> None:
        """Set the wall clock off by so much; leases and retries must not care."""
        self._wall_skew_ms = round(skew_seconds * 1000)
