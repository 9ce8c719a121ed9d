"""The choreography as it is known from the declarations, and what ``check`` finds in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import aiosmtplib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon import Event, Retry, Service, Transaction, minutes
from antiphon.model.events import event_type_of
from antiphon.model.handlers import HandlerSpec, ServiceSpec
from antiphon.policy.choreography import Finding, check, graph, is_failure


class Placed(Event):
    order: str


class Paid(Event):
    order: str


class PaymentFailed(Event):
    order: str


class Counted(Event, domain=True):
    order: str


async def on_placed(placed: Placed) -> Paid | PaymentFailed:
    """Answers an order."""
    return Paid(placed.order)


async def on_paid(paid: Paid) -> None:
    """Ends it well."""


async def on_failed(failed: PaymentFailed) -> None:
    """Ends it otherwise."""


async def place(tx: Transaction) -> dict[str, str]:
    """A route whose response says nothing of what it publishes."""
    tx.publish(Placed("1"))
    return {}


async def place_again() -> list[Placed]:
    """A schedule."""
    return []


async def look() -> None:
    """A route that only reads."""


def service(*handlers: Callable[..., Any], name: str = "shop", fed: bool = True, **options: Any) -> Service:
    """A service with these handlers, and a route that publishes Placed if it is *fed*."""
    made = Service(name)
    for handler in handlers:
        made.on(**options)(handler)
    if fed:
        made.post("/orders")(place)
    return made


def found(*services: Service) -> list[Finding]:
    """What is found in these services."""
    return check([each.spec for each in services])


def codes(*services: Service) -> list[str]:
    """The codes of what is found in these services."""
    return [finding.code for finding in found(*services)]


def test_the_graph_holds_who_publishes_what_to_whom() -> None:
    """Routes, schedules, handlers and events are nodes; edges lead along the events; ticks are left out."""
    shop = service(on_placed, on_paid)
    shop.every(minutes(5))(place_again)
    shop.get("/orders")(look)
    drawn = graph([shop.spec])
    assert drawn.services == ("shop",)
    assert {(node.kind, node.label, node.service) for node in drawn.nodes} == {
        ("route", "POST /orders", "shop"),
        ("schedule", "place_again, every 5 min", "shop"),
        ("handler", "on_placed", "shop"),
        ("handler", "on_paid", "shop"),
        ("event", "Placed", ""),
        ("event", "Paid", ""),
        ("event", "PaymentFailed", ""),
    }
    edges = {(drawn.node(start).label, drawn.node(end).label) for start, end in drawn.edges}
    assert edges == {
        ("POST /orders", "Placed"),
        ("place_again, every 5 min", "Placed"),
        ("Placed", "on_placed"),
        ("on_placed", "Paid"),
        ("on_placed", "PaymentFailed"),
        ("Paid", "on_paid"),
    }
    with pytest.raises(KeyError):
        drawn.node("nobody")


def test_a_whole_choreography_has_no_findings() -> None:
    """Every event is fed and handled, every path ends."""
    assert found(service(on_placed, on_paid), service(on_failed, name="other", fed=False)) == []


def test_an_event_that_nobody_handles_is_found() -> None:
    """It is told at its publisher; a failure is an error, since what was done before is never undone."""
    failure, success = found(service(on_placed))
    assert (failure.code, failure.severity) == ("never-handled", "error")
    assert failure.what == "PaymentFailed is published by shop.on_placed and nothing handles it"
    assert failure.where == f"{__file__}:{on_placed.__code__.co_firstlineno}"
    assert (success.code, success.severity) == ("never-handled", "warning")


@pytest.mark.parametrize(
    ("name", "failure"),
    [
        ("PaymentFailed", True),
        ("SeatUnavailable", True),
        ("CardDeclined", True),
        ("order.Rejected", True),
        ("PaymentConfirmed", False),
        ("FailedInvocationsCounted", False),
    ],
)
def test_failures_are_known_by_their_names(name: str, failure: bool) -> None:
    """The past tense says how it ended."""
    assert is_failure(name) is failure


def test_a_handler_that_nothing_feeds_is_found() -> None:
    """It may be fed from outside, so it is a warning."""
    (finding,) = found(service(on_paid, fed=False))
    assert (finding.code, finding.severity) == ("never-fed", "warning")
    assert finding.what == "nothing publishes Paid, which shop.on_paid handles"


def test_a_domain_event_stays_inside_its_service() -> None:
    """Another service's handler of it is never fed, and the event is not handled where it stays."""

    async def count(placed: Placed) -> Counted:
        return Counted(placed.order)

    async def on_counted(counted: Counted) -> None: ...

    assert codes(service(count, on_counted)) == []
    apart = found(service(count), service(on_counted, name="other", fed=False))
    assert [finding.code for finding in apart] == ["never-handled", "never-fed"]
    assert "nothing in service shop, which it stays inside, handles it" in apart[0].what


def test_a_cycle_without_an_end_is_found() -> None:
    """Handlers that feed each other whatever they decide go on forever."""

    async def ping(placed: Placed) -> Paid:
        return Paid(placed.order)

    async def pong(paid: Paid) -> Placed:
        return Placed(paid.order)

    (finding,) = found(service(ping, pong))
    assert (finding.code, finding.severity) == ("endless-cycle", "error")
    assert finding.what == "shop.ping, shop.pong feed each other without an end"


def test_a_handler_that_feeds_itself_is_found() -> None:
    """The shortest cycle."""

    async def again(placed: Placed) -> Placed:
        return placed

    (finding,) = found(service(again))
    assert finding.what == "shop.again feeds itself without an end"


async def none_ends(paid: Paid) -> Placed | None:
    """May publish nothing."""


async def list_ends(paid: Paid) -> list[Placed]:
    """May publish an empty list."""
    return []


async def failure_ends(paid: Paid) -> Placed | PaymentFailed:
    """May publish what leads out."""
    return Placed(paid.order)


@pytest.mark.parametrize("way_out", [none_ends, list_ends, failure_ends])
def test_a_cycle_with_a_way_out_is_no_finding(way_out: Callable[..., Any]) -> None:
    """None, a list that may be empty, or an event that leads out ends it."""

    async def ping(placed: Placed) -> Paid:
        return Paid(placed.order)

    assert codes(service(ping, way_out, on_failed)) in ([], ["never-fed"])


def test_an_outside_call_without_a_retry_policy_is_found() -> None:
    """The default policy knows nothing of the other side; said explicitly, even as the default, it is fine."""

    async def mail(placed: Placed) -> None:
        await aiosmtplib.send("hello", hostname=placed.order)

    (finding,) = found(service(mail))
    assert (finding.code, finding.severity) == ("outside-without-retry", "warning")
    assert finding.what == "shop.mail calls aiosmtplib.send and says no retry policy"
    assert finding.where == f"{__file__}:{mail.__code__.co_firstlineno + 1}"
    assert codes(service(mail, retry=Retry())) == []


def test_a_publication_outside_the_annotation_is_found() -> None:
    """The line that publishes is told, and what the annotation names."""

    async def settle(placed: Placed, tx: Transaction) -> Paid:
        tx.publish(PaymentFailed(placed.order))
        return Paid(placed.order)

    findings = found(service(settle, on_paid, on_failed))
    assert [finding.code for finding in findings] == ["outside-annotation", "never-fed"]
    assert findings[0].severity == "error"
    assert findings[0].what == ("shop.settle publishes PaymentFailed, and its return annotation names Paid only")
    assert findings[0].where == f"{__file__}:{settle.__code__.co_firstlineno + 1}"


def test_a_publication_without_an_annotation_is_found() -> None:
    """No annotation publishes nothing, so a body that publishes contradicts it."""

    async def settle(placed: Placed):  # type: ignore[no-untyped-def]
        return Paid(placed.order)

    findings = found(service(settle, on_paid))
    assert findings[0].what == "shop.settle publishes Paid, and its return annotation names no event"


TYPES = [event_type_of(type(f"E{number}", (Event,), {})) for number in range(6)]
SIDES = st.lists(st.sampled_from(TYPES), min_size=1, max_size=3, unique=True)


async def opaque() -> Placed:  # type: ignore[empty-body]
    """Stands for a handler whose text says nothing and which always publishes."""


@st.composite
def choreographies(draw: st.DrawFn) -> ServiceSpec:
    """A service of handlers that always publish, bound to each other at random."""
    sides = draw(st.lists(st.tuples(SIDES, SIDES), max_size=6))
    handlers = tuple(
        HandlerSpec(f"s.h{number}", "s", opaque, tuple(takes), tuple(gives), (), True, f"file:{number}")
        for number, (takes, gives) in enumerate(sides)
    )
    return ServiceSpec("s", "", handlers, (), ())


@given(choreographies())
def test_every_finding_is_true_of_the_graph(spec: ServiceSpec) -> None:
    """Unhandled events have no edge out, unfed handlers miss an edge in, endless handlers only feed others."""
    drawn = graph([spec])
    findings = check([spec])
    labels = {(drawn.node(start).label, drawn.node(end).label) for start, end in drawn.edges}
    events = {node.label for node in drawn.nodes if node.kind == "event"}
    unhandled = {finding.what.split()[0] for finding in findings if finding.code == "never-handled"}
    assert unhandled == {event for event in events if event not in {start for start, _ in labels}}
    published = {gives.name for handler in spec.handlers for gives in handler.publishes}
    unfed = {handler.source for handler in spec.handlers if {takes.name for takes in handler.types} - published}
    assert {finding.where for finding in findings if finding.code == "never-fed"} == unfed


@given(choreographies())
def test_an_endless_cycle_exists_exactly_if_no_choice_ends(spec: ServiceSpec) -> None:
    """Against a plain search: a handler can end if some event that it may publish reaches nobody, or only those
    that can end."""
    can_end: set[str] = set()
    while True:
        more = {
            handler.name
            for handler in spec.handlers
            if any(all(to.name in can_end for to in spec.handlers if gives in to.types) for gives in handler.publishes)
        }
        if more == can_end:
            break
        can_end = more
    endless = [finding for finding in check([spec]) if finding.code == "endless-cycle"]
    assert bool(endless) == (len(can_end) < len(spec.handlers))
