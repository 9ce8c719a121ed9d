"""Small things that loops wait on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from antiphon.ports import Clock


async def finish(work: Coroutine[Any, Any, None]) -> None:
    """Await *work* to its end although this task is cancelled meanwhile; the cancellation comes afterwards."""
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError
    task.result()


class Waker:
    """Wakes one loop. What rings between `clear` and `wait` is not missed."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._event = asyncio.Event()
        self.wake = self._event.set
        self.clear = self._event.clear

    async def wait(self, timeout_ms: int | None = None, *, look_again_ms: int | None = None) -> None:
        """Return when woken, or after *timeout_ms*; or after about *look_again_ms*, to see that all is well."""
        if self._event.is_set() or (timeout_ms is not None and timeout_ms <= 0):
            return
        waits = ((self._clock.sleep, timeout_ms), (self._clock.idle, look_again_ms))
        alarms = [asyncio.ensure_future(self._wake_after(wait, ms)) for wait, ms in waits if ms is not None]
        try:
            await self._event.wait()
        finally:
            for alarm in alarms:
                alarm.cancel()

    async def _wake_after(self, wait: Callable[[float], Coroutine[Any, Any, None]], ms: int) -> None:
        await wait(ms / 1000)
        self._event.set()


class Slots:
    """How many attempts of a handler run at once in this process, in all of its partitions together."""

    def __init__(self, size: int) -> None:
        self.free = size
        self._listeners: dict[Callable[[], None], None] = {}

    def take(self, most: int) -> int:
        """Take up to *most* that are free; returns how many."""
        taken = max(0, min(most, self.free))
        self.free -= taken
        return taken

    def give_back(self, count: int = 1) -> None:
        """So many are free again."""
        self.free += count
        if count:
            for wake in self._listeners:
                wake()

    def listen(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Call *wake* when some are given back; returns the undo."""
        self._listeners[wake] = None
        return lambda: self._listeners.pop(wake, None)


class Solo:
    """Lets many run together, or one alone: a suspected event must not take a bystander with it."""

    def __init__(self) -> None:
        self._together = 0
        self._alone = asyncio.Lock()
        self._empty = asyncio.Event()
        self._empty.set()

    @asynccontextmanager
    async def together(self) -> AsyncIterator[None]:
        """Run beside others; waits while somebody runs alone."""
        if self._alone.locked():
            async with self._alone:
                pass
        self.join()
        try:
            yield
        finally:
            self.leave()

    def join(self) -> None:
        """One more runs, started by one that runs beside others: so nobody runs alone now. It has to `leave`."""
        self._together += 1
        self._empty.clear()

    def leave(self) -> None:
        """One less runs."""
        self._together -= 1
        if not self._together:
            self._empty.set()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Run when everybody else has finished, and keep others out meanwhile."""
        async with self._alone:
            await self._empty.wait()
            yield
