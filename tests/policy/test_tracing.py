"""One tree of events from what several stores know."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.model.delivery import Status
from antiphon.model.views import DeliveryView, LoggedView, TracePart
from antiphon.policy.tracing import depth_first, merge


def event(
    name: str, cause: str | None = None, *, store: str = "shop", at: int = 0, origin: str = "published"
) -> LoggedView:
    """An event of the correlation ``c``."""
    return LoggedView(
        store=store,
        seq=1,
        id=name,
        type="T",
        version=1,
        key=None,
        service="shop",
        time_ms=at,
        correlation_id="c",
        causation_id=cause,
        traceparent="",
        origin=origin,
    )


def delivery(event_id: str, handler: str, store: str, at: int = 0) -> DeliveryView:
    """A delivery that went well."""
    return DeliveryView(
        store=store,
        event_id=event_id,
        handler=handler,
        service="s",
        status=Status.COMPLETED,
        attempts=1,
        updated_ms=at,
    )


def part(*events: LoggedView, deliveries: tuple[DeliveryView, ...] = (), truncated: bool = False) -> TracePart:
    """What one store knows."""
    return TracePart(correlation_id="c", events=events, deliveries=deliveries, truncated=truncated)


def shape(*events: LoggedView) -> list[tuple[int, str]]:
    """Depth and id, in the order of reading."""
    return [(depth, each.id) for depth, each in depth_first(events)]


def test_each_event_stands_below_its_cause() -> None:
    """Depth first; siblings by time, then by id, whatever order they come in."""
    events = [
        event("a1", "a", at=5),
        event("a", at=1),
        event("a0", "a", at=5),
        event("a0x", "a0", at=9),
        event("b", at=2),
    ]
    assert shape(*events) == [(0, "a"), (1, "a0"), (2, "a0x"), (1, "a1"), (0, "b")]


def test_an_event_with_an_unknown_cause_begins_a_tree() -> None:
    """What caused it was pruned, or lies in a store that was not asked."""
    assert shape(event("b", "gone", at=1), event("c", "b", at=2)) == [(0, "b"), (1, "c")]


def test_circles_are_cut() -> None:
    """Envelopes made elsewhere may name any cause, even each other, or themselves."""
    assert shape(event("a", "a")) == [(0, "a")]
    assert shape(event("a", "b", at=1), event("b", "a", at=2), event("c", "b", at=3)) == [(0, "a"), (1, "b"), (2, "c")]


@given(st.lists(st.tuples(st.integers(0, 12), st.none() | st.integers(0, 12), st.integers(0, 3)), max_size=12))
def test_each_event_is_there_once(rows: list[tuple[int, int | None, int]]) -> None:
    """Whatever the causes say, nothing is lost and nothing is shown twice."""
    events = {str(name): event(str(name), None if cause is None else str(cause), at=at) for name, cause, at in rows}
    placed = [each.id for _, each in depth_first(events.values())]
    assert sorted(placed) == sorted(events)


def test_a_long_chain_is_no_problem() -> None:
    """Five thousand steps deep: nothing recurses, not even on the way to JSON."""
    chain = [event(f"{n:05}", f"{n - 1:05}" if n else None) for n in range(5_000)]
    trace = merge([part(*chain)])
    assert trace.nodes[-1].depth == 4_999
    assert len(msgspec.json.decode(msgspec.json.encode(trace))["nodes"]) == 5_000


def test_copies_become_one() -> None:
    """The producer's is shown, with all logs that have it, and with everybody's deliveries in order."""
    trace = merge(
        [
            part(
                event("a", store="billing", origin="received"),
                deliveries=(delivery("a", "billing.bill", "billing", 9),),
            ),
            part(event("a"), deliveries=(delivery("a", "shop.note", "shop", 3),)),
            part(event("a", store="bus"), truncated=True),
        ]
    )
    (node,) = trace.nodes
    assert (node.event.store, node.event.origin) == ("shop", "published")
    assert node.stores == ("billing", "shop", "bus")
    assert [each.handler for each in node.deliveries] == ["shop.note", "billing.bill"]
    assert trace.truncated


def test_correlations_are_not_mixed() -> None:
    """A trace is of one correlation; none, or two, is the caller's mistake."""
    with pytest.raises(ValueError, match="not 2"):
        merge([part(), TracePart(correlation_id="d", events=(), deliveries=())])
    with pytest.raises(ValueError, match="not 0"):
        merge([])
