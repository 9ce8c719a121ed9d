"""A clock that stands still until a test moves it."""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import random  # noqa: TID251  seeded: it is the same in every run
from collections.abc import Awaitable, Callable, Sized
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from antiphon.model.ids import uuid7
from antiphon.ports import Clock
from antiphon.runtime.clock import in_thread

#: 2026-01-01 00:00:00 UTC.
START_MS = 1_767_225_600_000
_BOOTED_BEFORE_MS = 3_600_000
# An event loop that does not tell what is ready (uvloop) gets so many rounds to come to rest.
_ROUNDS_TO_REST = 200
# What still runs after so many real seconds of looking for rest runs in a circle.
_UNREST_S = 30.0
# A call in a thread is waited for so long, in real seconds; one that takes longer waits for something itself.
_PATIENCE_S = 2.0


class VirtualClock:
    """Virtual time, seeded randomness, ids that count up (``ports.Clock``).

    ``await clock.advance(seconds)`` wakes every sleeper at its own moment, in order, and lets the
    work that follows come to rest before time goes on. A wall clock that jumps: `set_wall`.
    It begins at *start_ms*, Unix milliseconds.
    """

    def __init__(self, seed: int = 0, start_ms: int = START_MS) -> None:
        self._start_ms = start_ms
        self._elapsed_ms = 0
        self._wall_skew_ms = 0
        self._random = random.Random(seed)
        self._ids = 0
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []
        self._idlers: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = 0
        self._boot = f"virtual-{seed}"
        self._calls: dict[asyncio.Future[Any], float] = {}

    def now_ms(self) -> int:
        """Unix milliseconds."""
        return self._start_ms + self._elapsed_ms + self._wall_skew_ms

    def boot_ms(self) -> int:
        """Milliseconds since boot; a wall clock that is set leaves it alone."""
        return _BOOTED_BEFORE_MS + self._elapsed_ms

    def boot_id(self) -> str:
        """The same for the life of this clock."""
        return self._boot

    def new_id(self) -> str:
        """Ids sort in the order in which they were made."""
        self._ids += 1
        return uuid7(self._start_ms + self._elapsed_ms, self._ids << 32 | self._random.getrandbits(32))

    def random(self) -> float:
        """The next number of the seeded sequence."""
        return self._random.random()

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock has been moved that far."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        await self._until(self._sleepers, seconds)

    async def idle(self, seconds: float) -> None:
        """Wait about so long; ``advance(..., over_upkeep=True)`` may pass over it."""
        await self._until(self._idlers, seconds)

    def _until(self, waiting: list[tuple[int, int, asyncio.Future[None]]], seconds: float) -> asyncio.Future[None]:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._order += 1
        heapq.heappush(waiting, (self._elapsed_ms + max(1, round(seconds * 1000)), self._order, woken))
        return woken

    async def run_blocking(self, fn: Callable[[], Any]) -> Any:
        """Run *fn* in a real thread, in this context: what blocks is real even where time is not."""
        call = in_thread(partial(contextvars.copy_context().run, fn))
        self._calls[call] = asyncio.get_running_loop().time()
        call.add_done_callback(self._calls.pop)
        return await call

    async def rest(self) -> None:
        """Let everything that can run now run, calls in threads to their end.

        Raises TimeoutError if that never ends, as when two handlers answer each other's events for ever.
        """
        while True:
            await _until_nothing_is_ready()
            if not await self.threads_end():
                return

    async def threads_end(self) -> bool:
        """Wait until one of the calls in threads has ended. False, at once, if none is short enough to wait for."""
        now = asyncio.get_running_loop().time()
        calls = [call for call, started in self._calls.items() if now - started < _PATIENCE_S]
        if calls:
            await asyncio.wait(calls, timeout=_PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
        return bool(calls)

    async def advance(
        self, seconds: float, *, over_upkeep: bool = False, rest: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Move time forward, waking each sleeper at its moment, and come to *rest* (None: `rest`) before the next.

        *over_upkeep*: those that `idle` are woken less and less often while nobody else is due, so that a quiet
        day takes a moment. Not for tests in which two processes compete: their leases run out meanwhile.
        """
        target = self._elapsed_ms + round(seconds * 1000)
        stride = 1 if over_upkeep else 0
        come_to_rest = rest or self.rest
        await come_to_rest()
        while (due := self._next_ms(stride, target)) is not None:
            is_exact = bool(self._sleepers) and self._sleepers[0][0] <= due
            stride = stride and (1 if is_exact else 2 * stride)
            self._elapsed_ms = max(self._elapsed_ms, due)
            for waiting in (self._sleepers, self._idlers):
                while waiting and waiting[0][0] <= due:
                    woken = heapq.heappop(waiting)[2]
                    if not woken.done():
                        woken.set_result(None)
            await come_to_rest()
        self._elapsed_ms = target

    def _next_ms(self, stride: int, target: int) -> int | None:
        """The next moment at which somebody is due, up to *target*. *stride*: upkeep may be so many seconds late."""
        for waiting in (self._sleepers, self._idlers):
            while waiting and waiting[0][2].done():
                heapq.heappop(waiting)
        moments = [self._sleepers[0][0]] if self._sleepers else []
        if self._idlers:
            late_ms = 1_000 * (stride - 1) if stride else 0
            upkeep = self._idlers[0][0]
            moments.append(max(upkeep, min(upkeep + late_ms, target)))
        due = min(moments, default=target + 1)
        return due if due <= target else None

    async def jump(self, seconds: float) -> None:
        """Move time forward at once, as a machine that was suspended: every sleeper due wakes together."""
        self._elapsed_ms += round(seconds * 1000)
        await self.advance(0)

    def set_wall(self, skew_seconds: float) -> None:
        """Set the wall clock off by so much; leases and retries must not care."""
        self._wall_skew_ms = round(skew_seconds * 1000)


#: How many tasks of a loop wait for it to come to rest: they themselves are ready all the time.
_resting: WeakKeyDictionary[asyncio.AbstractEventLoop, int] = WeakKeyDictionary()


async def _until_nothing_is_ready() -> None:
    """Let the other tasks of the loop run until each of them waits for something."""
    loop = asyncio.get_running_loop()
    # Private, but the same since asyncio exists. It holds what runs next; what sockets and pipes have for us is
    # added when the loop turns, so it has to be found empty twice.
    ready: Sized | None = getattr(loop, "_ready", None)
    if ready is None:
        for _ in range(_ROUNDS_TO_REST):
            await asyncio.sleep(0)
        return
    quiet = 0
    deadline = loop.time() + _UNREST_S
    _resting[loop] = _resting.get(loop, 0) + 1
    try:
        while quiet < 2:
            if loop.time() > deadline:
                raise TimeoutError(f"no rest after {_UNREST_S:g} real seconds: something runs on without end")
            await asyncio.sleep(0)
            quiet = quiet + 1 if len(ready) < _resting[loop] else 0
    finally:
        _resting[loop] -= 1


class ServerTime:
    """A database server's clock where time is a test's own: it goes on with the clock that is asked, and never back."""

    def __init__(self) -> None:
        self._clock: Clock | None = None
        self._since_ms = 0
        self._base_ms = START_MS

    def ms(self, clock: Clock) -> Callable[[], int]:
        """What a store asks that has *clock*."""

        def now() -> int:
            if clock is not self._clock:
                if self._clock is not None:
                    self._base_ms += self._clock.boot_ms() - self._since_ms
                self._clock, self._since_ms = clock, clock.boot_ms()
            return self._base_ms + clock.boot_ms() - self._since_ms

        return now
