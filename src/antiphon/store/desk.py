"""What a person asks of one store, while workers run in this or other processes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from antiphon.errors import NotFound
from antiphon.model.events import EventType
from antiphon.model.views import DeliveryView, Forgotten, HandlerStatus, LoggedView, PositionView, Trace, TracePart
from antiphon.policy.tracing import merge
from antiphon.ports import Clock
from antiphon.store import looking, maintenance
from antiphon.store.base import SqlStore
from antiphon.store.deadletters import DeadLetters
from antiphon.store.effects import EffectDesk
from antiphon.store.maintenance import Pruned
from antiphon.store.runs import Runs

_TYPE, _AFTER = "type = ?1", "seq > ?1"
_CORRELATION = "(id = ?1 OR correlation_id = ?1)"
#: More events of one correlation than this are not read for a trace.
TRACE_LIMIT = 1_000


class Desk:
    """Questions to, and acts on, one open store. *event_types*, by name, check what is edited."""

    def __init__(self, store: SqlStore, event_types: Mapping[str, EventType] | None = None) -> None:
        self.store = store
        self.name = store.name
        self.dead = DeadLetters(store, event_types or {})
        self.runs = Runs(store)
        self.effects = EffectDesk(store)

    # ------------------------------------------------------------------ handlers

    async def status(self) -> list[HandlerStatus]:
        """Every handler that the store knows, by name."""
        return await looking.handlers(self.store)

    async def positions(self) -> list[PositionView]:
        """How far inlets and outlets have come: in a bus, its senders and receivers."""
        return await looking.positions(self.store)

    async def forget(self, handler: str) -> Forgotten:
        """Forget a handler: it is owed nothing any more, and holds back no retention.

        On a bus, ``inlet:<service>`` is a service that receives. Meant for what is no longer in the code: a
        handler that still is begins anew at its next start.
        Raises NotFound, and AntiphonError while it runs.
        """
        return await maintenance.forget(self.store, handler)

    # ------------------------------------------------------------------ events

    async def tail(
        self, after_seq: int = 0, limit: int = 100, *, type: str | None = None, correlation_id: str | None = None
    ) -> list[LoggedView]:
        """The next events after a position, in the order of the log."""
        terms = [(_AFTER, after_seq), *_terms(type, correlation_id)]
        return await looking.events(self.store, terms, limit)

    async def latest(
        self, limit: int = 20, *, type: str | None = None, correlation_id: str | None = None
    ) -> list[LoggedView]:
        """The newest events, oldest of them first."""
        return await looking.events(self.store, _terms(type, correlation_id), limit, newest=True)

    async def wait_for_events(self, after_seq: int, timeout_s: float) -> bool:
        """Whether the log has something after a position, at once or within *timeout_s*.

        It wakes by the bell of whoever appends; one that is missed is made up for at the time-out.
        """
        woken = asyncio.Event()
        forget = self.store.listen((), woken.set)
        alarm = asyncio.ensure_future(self.store.clock.sleep(timeout_s))
        alarm.add_done_callback(lambda _: woken.set())
        try:
            while await self.store.head() <= after_seq and not alarm.done():
                await woken.wait()
                woken.clear()
        finally:
            forget()
            alarm.cancel()
        return await self.store.head() > after_seq

    async def event(self, event_id: str) -> LoggedView:
        """The event of an id, or of the unique beginning of one. Raises NotFound."""
        full = await looking.full_id(self.store, event_id)
        return (await looking.events(self.store, [("id = ?1", full)], 1))[0]

    async def events_of(self, correlation_id: str, after_seq: int = 0, limit: int = 1_000) -> list[LoggedView]:
        """The events of one correlation after a position, in the order of the log."""
        return await self.tail(after_seq, limit, correlation_id=correlation_id)

    # ------------------------------------------------------------------ deliveries and traces

    async def deliveries_of(self, event_ids: Sequence[str]) -> list[DeliveryView]:
        """What became of events, for each handler that is owed them."""
        return await looking.deliveries(self.store, event_ids)

    async def trace(self, event_id: str) -> Trace:
        """All events of the same correlation as far as this store knows. Raises NotFound."""
        return await trace([self], event_id)

    async def trace_part(self, correlation_id: str) -> TracePart:
        """What this store knows of a correlation, for `antiphon.policy.tracing.merge`."""
        events = await self.events_of(correlation_id, limit=TRACE_LIMIT + 1)
        truncated = len(events) > TRACE_LIMIT
        events = events[:TRACE_LIMIT]
        return TracePart(
            correlation_id=correlation_id,
            events=tuple(events),
            deliveries=tuple(await self.deliveries_of([event.id for event in events])),
            truncated=truncated,
            runs=tuple(run for run in await self.runs.begun_by(events) if run.correlation_id == correlation_id),
        )

    # ------------------------------------------------------------------ upkeep

    async def prune(self, before_ms: int) -> Pruned:
        """Remove what came before *before_ms* (wall) and nobody needs any more."""
        return await maintenance.prune(self.store, before_ms)


def _terms(type_: str | None, correlation_id: str | None) -> list[tuple[str, str]]:
    chosen = ((_TYPE, type_), (_CORRELATION, correlation_id))
    return [(sql, value) for sql, value in chosen if value is not None]


def desk_owner(clock: Clock) -> str:
    """A name for the one who sits at a desk: its store's owner."""
    return f"desk-{os.getpid()}-{clock.new_id()[-12:]}"


@asynccontextmanager
async def desks_on(
    stores: Iterable[SqlStore], event_types: Mapping[str, EventType] | None = None
) -> AsyncIterator[list[Desk]]:
    """A desk on each of *stores*, which are opened for it. Raises StoreError."""
    async with AsyncExitStack() as stack:
        desks = []
        for store in stores:
            await store.open()
            stack.push_async_callback(store.close)
            desks.append(Desk(store, event_types))
        yield desks


async def trace(desks: Sequence[Desk], event_id: str) -> Trace:
    """The trace of an event over several stores. Raises NotFound if none has it."""
    matching = {found for desk in desks for found in await looking.ids_from(desk.store, event_id)}
    if len(matching) > 1 and event_id not in matching:
        # Each store may know but one of them.
        raise NotFound(f"several events begin with {event_id!r}", mend=f"Say more of it: {', '.join(sorted(matching))}")
    correlations: set[str] = set()
    missing: NotFound | None = None
    for desk in desks:
        try:
            correlations.add((await desk.event(event_id)).correlation_id)
        except NotFound as error:
            missing = error
    if not correlations:
        raise missing or NotFound("there is no store", where=event_id)
    correlation_id = correlations.pop()
    return merge([await desk.trace_part(correlation_id) for desk in desks])
