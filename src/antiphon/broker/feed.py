"""Receiving from a server: a task for each receiver reads ahead, and wakes who waits."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any

from antiphon.errors import BusError, PositionUnknown
from antiphon.ports import LoggedEvent, Unreadable

_READ_AHEAD = 1_024
_CANCEL_AGAIN_S = 0.05
#: Who has just taken all that there was waits so long before it is given more: events that come one by one share a
#: commit, and all that follows from it. One that comes alone is given at once.
_LINGER_S = 0.002
#: How long a server may take to answer.
PATIENCE_S = 5.0
AGAIN = "It is tried again once a second"


class Feed:
    """Events of the types in *after*, in order, from a position on. *fill* puts them in until it breaks."""

    def __init__(
        self,
        receiver: str,
        after: Mapping[str, int],
        fill: Callable[[Feed], Coroutine[Any, Any, None]],
        wake: Callable[[], None],
    ) -> None:
        self.receiver = receiver
        self.types = frozenset(after)
        #: The position up to which the bus has been read.
        self.position = self._taken = min(after.values())
        #: The highest of its positions.
        self.highest = max(after.values())
        self._waiting: deque[LoggedEvent | Unreadable] = deque()
        self._wake = wake
        self._room = asyncio.Event()
        self._moved = asyncio.Event()
        self._error: BaseException | None = None
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
        if self._error is not None or not self._filling.done() or self._filling.cancelled():
            return self._error
        return self._filling.exception()

    def fail(self, error: BaseException) -> None:
        """Read no more, because of *error*."""
        self._error = error
        self._filling.cancel()

    async def close(self) -> None:
        """Read no more."""
        while not self._filling.done():
            # More than once: redis-py swallows a cancellation that comes while it sends.
            self._filling.cancel()
            await asyncio.wait([self._filling], timeout=_CANCEL_AGAIN_S)

    def _broke(self, filling: asyncio.Future[None]) -> None:
        if not filling.cancelled():
            filling.exception()  # whoever receives next is told; nobody may do so any more
        self._moved.set()
        self._wake()


def type_of(event: LoggedEvent) -> str:
    """The type of an event."""
    return event.envelope.type


class Feeds(ABC):
    """What all buses (``ports.Bus``) at a server have in common: above all, receiving. Errors call it *where*."""

    def __init__(self, where: str) -> None:
        self._where = where
        #: Why the server may lose what it has confirmed, as far as it says so when it is opened.
        self.doubt = ""
        self._feeds: dict[str, Feed] = {}
        self._wakes: dict[object, Callable[[], None]] = {}
        self._closed = False
        # When each receiver was given less than it asked for.
        self._lately: dict[str, float] = {}

    async def receive(self, receiver: str, after: Mapping[str, int], limit: int) -> Sequence[LoggedEvent | Unreadable]:
        """The next events of each type after its position. Raises BusError."""
        if self._closed:
            raise BusError("it is closed", where=self._where)
        feed = self._feeds.get(receiver)
        if feed is not None and feed.error is not None:
            del self._feeds[receiver]
            if isinstance(feed.error, PositionUnknown):
                raise feed.error
            what = feed.error.what if isinstance(feed.error, BusError) else str(feed.error)
            raise BusError(f"it cannot be read: {what}", where=self._where, mend=AGAIN) from feed.error
        if feed is None or not feed.fits(after):
            if feed is not None:
                await feed.close()
            feed = self._feeds[receiver] = Feed(receiver, after, self._fill, self._wake)
        if self._lately.get(receiver, 0.0) + _LINGER_S > asyncio.get_running_loop().time():
            await asyncio.sleep(_LINGER_S)
        found = feed.take(after, limit)
        if not found:
            await feed.reach(await self._newest())
            found = feed.take(after, limit)
        if 0 < len(found) < limit:
            self._lately[receiver] = asyncio.get_running_loop().time()
        return found

    def listen(self, types: Iterable[str], wake: Callable[[], None]) -> Callable[[], None]:
        """Call *wake* when something may have arrived."""
        token = object()
        self._wakes[token] = wake

        def undo() -> None:
            self._wakes.pop(token, None)

        return undo

    @abstractmethod
    async def destroy(self, receivers: Iterable[str]) -> None:
        """Remove the bus of these receivers from its server, with all that it holds. Raises BusError."""

    @abstractmethod
    async def _fill(self, feed: Feed) -> None:
        """Put what comes into *feed*, from its position on, until it is cancelled or the connection breaks."""

    @abstractmethod
    async def _newest(self) -> int:
        """The position of the newest event, up to which a receiver has to read to know that there is none. Raises
        BusError."""

    def _wake(self) -> None:
        for wake in list(self._wakes.values()):
            wake()

    async def _close_feeds(self) -> None:
        """Read no more, whoever still asks for it."""
        self._closed = True
        await asyncio.gather(*(feed.close() for feed in self._feeds.values()))
        self._feeds.clear()

    @asynccontextmanager
    async def _translated(self, what: str, *errors: type[Exception]) -> AsyncIterator[None]:
        """Raise BusError for *errors*, and for a server that does not answer or is not there. A cancellation that a
        client swallows (redis-py does, while it sends) comes afterwards."""
        expected: tuple[type[Exception], ...] = (OSError, TimeoutError, *errors)
        task = asyncio.current_task()
        cancelled = task.cancelling() if task is not None else 0
        try:
            async with asyncio.timeout(PATIENCE_S):
                yield
        except expected as error:
            if task is not None and task.cancelling() > cancelled:
                raise asyncio.CancelledError from error
            reason = str(error) or type(error).__name__
            raise BusError(f"it {what}: {reason}", where=self._where, mend=AGAIN) from error
        if task is not None and task.cancelling() > cancelled:
            raise asyncio.CancelledError
