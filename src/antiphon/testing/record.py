"""What has happened in a world so far, read from its stores: events, deliveries, traces."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import msgspec

from antiphon.errors import InvalidEvent
from antiphon.model.delivery import DEAD
from antiphon.model.events import event_type_of
from antiphon.model.views import DeliveryView, LoggedView, Trace, TracePart
from antiphon.model.workflows import RunView
from antiphon.policy.tracing import merge
from antiphon.store.desk import Desk

E = TypeVar("E")
T = TypeVar("T")
Where = Callable[[E], object]

_PAGE = 1_000


class Record:
    """Everything that the stores behind *desks* know, as of now."""

    def __init__(self, desks: Sequence[Desk]) -> None:
        parts = [part for desk in desks for part in _parts(desk)]
        grouped: dict[str, list[TracePart]] = {}
        for part in parts:
            grouped.setdefault(part.correlation_id, []).append(part)
        #: Each process as a tree, in the order in which they began.
        self.traces: tuple[Trace, ...] = tuple(
            sorted(map(merge, grouped.values()), key=lambda trace: _moment(trace.nodes[0].event))
        )
        #: Every event once, in the order of publishing.
        self.events = sorted((node.event for trace in self.traces for node in trace.nodes), key=_moment)
        #: Every run of a workflow, those of each process in the order in which they began.
        self.runs = [run for trace in self.traces for run in trace.runs]
        #: Every delivery of every event.
        self.deliveries = [delivery for trace in self.traces for node in trace.nodes for delivery in node.deliveries]

    def published(self, cls: type[E], where: Where[E] | None = None) -> list[tuple[LoggedView, E]]:
        """The events of a class that fit *where*, with what is logged of each."""
        event_type = event_type_of(cls)
        found: list[tuple[LoggedView, E]] = []
        for view in self.events:
            if view.type != event_type.name or view.raw is not None:
                continue
            try:
                event = event_type.decode(msgspec.json.encode(view.data), view.version)
            except InvalidEvent:
                continue  # it is in the timeline, and a dead letter of whoever handles it
            if where is None or where(event):
                found.append((view, event))
        return found

    def dead_letters(self) -> list[DeliveryView]:
        """The deliveries that are set aside."""
        return [delivery for delivery in self.deliveries if delivery.status in DEAD and delivery.archived is None]

    def trace_of(self, event_id: str) -> Trace:
        """The trace that an event belongs to."""
        return next(trace for trace in self.traces if any(node.event.id == event_id for node in trace.nodes))


def at_once(reading: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that awaits nothing, as reading a SQLite store does."""
    try:
        reading.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    reading.close()
    raise RuntimeError("reading a store had to wait")


def _parts(desk: Desk) -> list[TracePart]:
    """What one store knows, by correlation."""
    events: list[LoggedView] = []
    while page := at_once(desk.tail(events[-1].seq if events else 0, _PAGE)):
        events += page
    correlations = {event.id: event.correlation_id for event in events}
    grouped_events: dict[str, list[LoggedView]] = {}
    for event in events:
        grouped_events.setdefault(event.correlation_id, []).append(event)
    grouped: dict[str, list[DeliveryView]] = {}
    for delivery in at_once(desk.deliveries_of(list(correlations))):
        grouped.setdefault(correlations[delivery.event_id], []).append(delivery)
    runs: dict[str, list[RunView]] = {}
    for run in at_once(desk.runs.begun_by(events)):
        runs.setdefault(run.correlation_id, []).append(run)
    return [
        TracePart(
            correlation_id=correlation,
            events=tuple(found),
            deliveries=tuple(grouped.get(correlation, ())),
            runs=tuple(runs.get(correlation, ())),
        )
        for correlation, found in grouped_events.items()
    ]


def _moment(event: LoggedView) -> tuple[int, str]:
    return event.time_ms, event.id
