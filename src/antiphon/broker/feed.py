"""What has come for one receiver and is not taken yet, filled by a task that reads ahead."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from itertools import islice
from typing import Any

from antiphon.ports import LoggedEvent, Unreadable

_READ_AHEAD = 1_024
_CANCEL_AGAIN_S = 0.05


class Feed:
    """Events of the types in *after*, in order, from a position on. *fill* puts them in until it breaks."""

    def __init__(
        self, after: Mapping[str, int], fill: Callable[[Feed], Coroutine[Any, Any, None]], wake: Callable[[], None]
    ) -> None:
        self.types = frozenset(after)
        #: The position up to which the bus has been read.
        self.position = self._taken = min(after.values())
        self._waiting: deque[LoggedEvent | Unreadable] = deque()
        self._wake = wake
        self._room = asyncio.Event()
        self._moved = asyncio.Event()
        self._filling = asyncio.ensure_future(fill(self))
        self._filling.add_done_callback(self._broke)

    async def put(self, position: int, item: LoggedEvent | Unreadable | None) -> None:
        """Add what lies at *position* of the bus (None: nothing for this receiver). Waits while there is too much."""
        if item is not None:
            self._waiting.append(item)
            self._wake()
        self.position = position
        self._moved.set()
        while len(self._waiting) >= _READ_AHEAD:
            self._room.clear()
            await self._room.wait()

    def fits(self, after: Mapping[str, int]) -> bool:
        """Whether a receiver at *after* can go on reading here."""
        return self.types == frozenset(after) and min(after.values()) >= self._taken and not self._filling.done()

    def take(self, after: Mapping[str, int], limit: int) -> list[LoggedEvent | Unreadable]:
        """Forget what lies before *after*; the next events."""
        self._taken = min(after.values())
        while self._waiting and self._waiting[0].seq <= self._taken:
            self._waiting.popleft()
        if len(self._waiting) < _READ_AHEAD:
            self._room.set()
        wanted = (each for each in self._waiting if isinstance(each, Unreadable) or each.seq > after[type_of(each)])
        return list(islice(wanted, limit))

    async def reach(self, position: int) -> None:
        """Return when the bus has been read up to *position*, or enough of it, or no more of it can be."""
        while self.position < position and not self._waiting and not self._filling.done():
            self._moved.clear()
            await self._moved.wait()

    @property
    def error(self) -> BaseException | None:
        """Why it reads no more; None while it does."""
        if not self._filling.done() or self._filling.cancelled():
            return None
        return self._filling.exception()

    async def close(self) -> None:
        """Read no more."""
        while not self._filling.done():
            # More than once: redis-py swallows a cancellation that comes while it sends.
            self._filling.cancel()
            await asyncio.wait([self._filling], timeout=_CANCEL_AGAIN_S)

    def _broke(self, _: object) -> None:
        self._moved.set()
        self._wake()


def type_of(event: LoggedEvent) -> str:
    """The type of an event."""
    return event.envelope.type


class Listeners:
    """Who is to be woken when something may have come."""

    def __init__(self) -> None:
        self._wakes: dict[object, Callable[[], None]] = {}

    def add(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Wake it from now on; returns the undo."""
        token = object()
        self._wakes[token] = wake

        def undo() -> None:
            self._wakes.pop(token, None)

        return undo

    def wake(self) -> None:
        """Wake everybody."""
        for wake in list(self._wakes.values()):
            wake()
