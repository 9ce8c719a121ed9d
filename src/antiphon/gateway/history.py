"""What has become of a process, and what happens to it next, from all the logs that are open here."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager

from antiphon.model.views import LoggedView, Trace
from antiphon.policy.tracing import merge
from antiphon.runtime.runtime import Runtime
from antiphon.runtime.signals import Waker
from antiphon.store.arrivals import Arrivals
from antiphon.store.desk import Desk

# How many events of a process are read at once.
_CHUNK = 500
# An event that another process has just published reaches the bus within this time.
_ON_ITS_WAY_S = 2.0


class History:
    """Reads processes by their correlation id.

    With *elsewhere* other processes run services too: their events arrive by the bus, a little later.
    """

    def __init__(self, runtime: Runtime, *, elsewhere: bool) -> None:
        self._clock = runtime.clock
        self._desks = [Desk(store) for store in runtime.logs]
        self._arrivals = [Arrivals(store) for store in runtime.logs]
        self._waits_for_bus = elsewhere and runtime.bus is not None

    async def trace(self, correlation_id: str) -> Trace:
        """Its events, each below its cause, with their deliveries."""
        return merge([await desk.trace_part(correlation_id) for desk in self._desks])

    async def exists(self, correlation_id: str) -> bool:
        """Whether it is known. One that another process may just have begun is waited for."""
        with self.watching(correlation_id) as waker:
            if await self._is_logged(correlation_id):
                return True
            if not self._waits_for_bus:
                return False
            try:
                async with asyncio.timeout(_ON_ITS_WAY_S):
                    await waker.wait()
            except TimeoutError:
                return False
            return True

    async def _is_logged(self, correlation_id: str) -> bool:
        for desk in self._desks:
            # The id of a later event of a process finds that event alone.
            if any(event.correlation_id == correlation_id for event in await desk.events_of(correlation_id, limit=1)):
                return True
        return False

    @contextmanager
    def watching(self, correlation_id: str) -> Iterator[Waker]:
        """A waker that is woken when events of the process have been committed."""
        waker = Waker(self._clock)
        undo = [arrivals.watch(correlation_id, waker.wake) for arrivals in self._arrivals]
        try:
            yield waker
        finally:
            for unwatch in undo:
                unwatch()

    async def reader(self, correlation_id: str, after: str) -> Reader:
        """Reads the process on from the place *after*; from its beginning if that is no place here."""
        reader = Reader(self._desks, correlation_id)
        parts = after.split("-")
        if len(parts) == len(self._desks) and all(part.isascii() and part.isdigit() for part in parts):
            await reader.skip([int(part) for part in parts])
        return reader


class Reader:
    """Reads one process, each event once although several logs have it.

    Its place is a position in each log, written joined by hyphens; with one log it is that position.
    """

    def __init__(self, desks: Sequence[Desk], correlation_id: str) -> None:
        self._desks = desks
        self._correlation_id = correlation_id
        self._seqs = [0] * len(desks)
        self._seen: set[str] = set()

    async def skip(self, seqs: list[int]) -> None:
        """Go to a place: what any log has up to there has been read."""
        for number, desk in enumerate(self._desks):
            while self._seqs[number] < seqs[number]:
                events = await desk.events_of(self._correlation_id, self._seqs[number], _CHUNK)
                self._seen.update(event.id for event in events if event.seq <= seqs[number])
                self._seqs[number] = events[-1].seq if len(events) == _CHUNK else seqs[number]
        self._seqs = seqs

    async def read(self) -> AsyncIterator[tuple[str, LoggedView]]:
        """All there is by now and has not been read, by time as far as the logs' own order allows."""
        full = True
        while full:
            batches = [
                [(number, event) for event in await desk.events_of(self._correlation_id, self._seqs[number], _CHUNK)]
                for number, desk in enumerate(self._desks)
            ]
            full = any(len(batch) == _CHUNK for batch in batches)
            for number, event in heapq.merge(*batches, key=lambda each: (each[1].time_ms, each[1].id)):
                self._seqs[number] = event.seq
                if event.id not in self._seen:
                    self._seen.add(event.id)
                    yield "-".join(map(str, self._seqs)), event
