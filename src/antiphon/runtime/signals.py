"""Small things that loops wait on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
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

    async def wait(self, timeout_ms: int | None = None) -> None:
        """Return when woken, or after *timeout_ms*."""
        if timeout_ms is None:
            await self._event.wait()
            return
        if timeout_ms <= 0 or self._event.is_set():
            return
        sleeper = asyncio.ensure_future(self._sleep(timeout_ms / 1000))
        try:
            await self._event.wait()
        finally:
            sleeper.cancel()

    async def _sleep(self, seconds: float) -> None:
        await self._clock.sleep(seconds)
        self._event.set()


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
        self._together += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._together -= 1
            if not self._together:
                self._empty.set()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Run when everybody else has finished, and keep others out meanwhile."""
        async with self._alone:
            await self._empty.wait()
            yield
