"""What belongs together: one tree of events from what several stores know of a correlation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from antiphon.model.views import DeliveryView, LoggedView, Trace, TraceNode, TracePart
from antiphon.policy.sagas import saga_of


def merge(parts: Sequence[TracePart]) -> Trace:
    """The trace of one correlation, each event below the one that caused it.

    *parts* come from the logs of several stores and of the bus, which hold the same events: one with the
    same id is shown once, as its producer logged it. Raises ValueError for none, or for several correlations.
    """
    correlations = {part.correlation_id for part in parts}
    if len(correlations) != 1:
        raise ValueError(f"one correlation is merged at a time, not {len(correlations)}")
    copies: dict[str, list[LoggedView]] = {}
    deliveries: dict[str, list[DeliveryView]] = {}
    for part in parts:
        for event in part.events:
            copies.setdefault(event.id, []).append(event)
        for delivery in part.deliveries:
            deliveries.setdefault(delivery.event_id, []).append(delivery)
    events = {event_id: _original(found) for event_id, found in copies.items()}
    nodes = tuple(
        TraceNode(
            depth=depth,
            event=event,
            deliveries=tuple(sorted(deliveries.get(event.id, ()), key=lambda each: (each.updated_ms, each.handler))),
            stores=tuple(dict.fromkeys(copy.store for copy in copies[event.id])),
        )
        for depth, event in depth_first(events.values())
    )
    runs = tuple(sorted((run for part in parts for run in part.runs), key=lambda run: (run.started_ms, run.id)))
    return Trace(
        correlation_id=correlations.pop(),
        nodes=nodes,
        truncated=any(part.truncated for part in parts),
        saga=saga_of(nodes, runs),
        runs=runs,
    )


def depth_first(events: Iterable[LoggedView]) -> list[tuple[int, LoggedView]]:
    """Each event once, right below its cause, with its depth; siblings by time.

    An event whose cause is not among *events* begins a tree. So does the earliest of a circle, which only
    envelopes made elsewhere can form.
    """
    ordered = sorted(events, key=lambda event: (event.time_ms, event.id))
    known = {event.id for event in ordered}
    caused: dict[str, list[LoggedView]] = {}
    for event in ordered:
        if event.causation_id is not None:
            caused.setdefault(event.causation_id, []).append(event)
    starts = [event for event in ordered if event.causation_id not in known]
    placed: set[str] = set()
    result: list[tuple[int, LoggedView]] = []
    for start in (*starts, *ordered):
        waiting = [(0, start)]
        while waiting:
            depth, event = waiting.pop()
            if event.id in placed:
                continue
            placed.add(event.id)
            result.append((depth, event))
            waiting += [(depth + 1, child) for child in reversed(caused.get(event.id, ()))]
    return result


def _original(copies: Sequence[LoggedView]) -> LoggedView:
    """The copy in its producer's log, if that is among them."""
    return next((copy for copy in copies if copy.origin != "received"), copies[0])
