"""Receiving from a broker that has no positions: messages are numbered as they come.

The numbers go on from the receiver's own position. A message is confirmed to the broker when the receiver asks for
what comes after it: by then it is in the receiver's store. What was not confirmed comes again, under new numbers, and
the inbox knows its ids.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Generic, NamedTuple, TypeVar

from antiphon.broker.feed import Feed, Feeds
from antiphon.errors import BusError
from antiphon.ports import Clock, LoggedEvent, Unreadable

_JUMP = 1 << 32

Tag = TypeVar("Tag")


class Open(NamedTuple, Generic[Tag]):
    """A message that is not confirmed: its number, the broker's *tag*, whether the receiver has no use for it."""

    seq: int
    tag: Tag
    is_skipped: bool


class NumberedFeeds(Feeds, Generic[Tag]):
    """What buses at a broker without positions have in common. A *Tag* is the broker's name of a message."""

    def __init__(self, where: str, clock: Clock) -> None:
        super().__init__(where)
        self._clock = clock
        # What came to each receiver and was not confirmed.
        self._open: dict[str, deque[Open[Tag]]] = {}
        # Where each receiver was at its last look, and the number of the last message that it was given then.
        self._given: dict[str, tuple[dict[str, int] | None, int]] = {}

    async def receive(self, receiver: str, after: Mapping[str, int], limit: int) -> Sequence[LoggedEvent | Unreadable]:
        """Confirm what lies before *after*, which the receiver has; what comes next. Raises BusError."""
        before, last = self._given.get(receiver, (None, -1))
        try:
            if before is None or dict(after) == before or set(after.values()) == {last}:
                await self._confirm_upto(receiver, -1 if dict(after) == before else last)
            else:
                # It begins anew, from a position that was not reached here: what these numbers stood for is not known
                # to be in its store.
                await self._begin_anew(receiver)
            found = await super().receive(receiver, after, limit)
        except BusError:
            # What can no more be confirmed, since what it came by is gone, comes again; else it is tried again.
            feed = self._feeds.get(receiver)
            if not self._closed and (feed is None or feed.error is not None):
                await self._begin_anew(receiver)
            raise
        self._given[receiver] = dict(after), found[-1].seq if found else last
        return found

    async def position(self, sender: str) -> int | None:
        """Nothing: the sender's note counts."""
        return None

    async def report(self, receiver: str, seq: int) -> None:
        """Nothing: what was taken has been confirmed."""

    @abstractmethod
    async def _confirm(self, receiver: str, tags: Sequence[Tag]) -> None:
        """Tell the broker that these need not come again: the first ones of those that came. Raises BusError."""

    async def _give_back(self, receiver: str, tags: Sequence[Tag]) -> None:
        """Let these come again, to whoever asks. Nothing to do where the end of a feed does that."""

    def _begin(self, feed: Feed) -> deque[Open[Tag]]:
        """Number what comes to *feed*; what of it is not confirmed."""
        # Beyond all of the receiver's positions, and by chance: the numbers of two processes never agree.
        feed.position = feed.highest + 1 + int(self._clock.random() * _JUMP)
        unconfirmed = self._open[feed.receiver] = deque()
        return unconfirmed

    async def _came(self, feed: Feed, tag: Tag, event: LoggedEvent | Unreadable | None) -> None:
        """Put what came as *tag*, under the number ``feed.position + 1``, into *feed* (None: it has no use for it)."""
        seq = feed.position + (event is not None)
        self._open[feed.receiver].append(Open(seq, tag, event is None))
        await feed.put(seq, event)
        if event is None:
            self._wake()

    async def _newest(self) -> int:
        """Nobody knows what is on its way; it wakes when it is here."""
        return 0

    async def _confirm_upto(self, receiver: str, seq: int) -> None:
        """Confirm what has a number up to *seq*, and what is not for this receiver."""
        unconfirmed = self._open.get(receiver, deque())
        taken = list(takewhile(lambda each: each.seq <= seq or each.is_skipped, unconfirmed))
        if taken:
            await self._confirm(receiver, [each.tag for each in taken])
            for _ in taken:
                unconfirmed.popleft()

    async def _begin_anew(self, receiver: str) -> None:
        """Give back what was not confirmed: it comes again, under new numbers."""
        self._given.pop(receiver, None)
        feed = self._feeds.pop(receiver, None)
        if feed is not None:
            await feed.close()
        unconfirmed = self._open.pop(receiver, deque())
        await self._give_back(receiver, [each.tag for each in unconfirmed])

    async def _close_feeds(self) -> None:
        self._closed = True
        await asyncio.gather(*(self._begin_anew(receiver) for receiver in {*self._feeds, *self._open}))
