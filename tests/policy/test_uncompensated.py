"""Sagas: what a failure leaves done, compensations that nothing triggers, and a trace read as a saga."""

from pathlib import Path

import pytest

from antiphon import Command, Event, Refused, Reject, Retry, Service, TimedOut, Transaction, seconds
from antiphon.errors import DeclarationError
from antiphon.model.views import Trace
from antiphon.policy.choreography import check
from antiphon.store.desk import Desk
from tests.runtime.kit import World, running


class Booked(Event, key="id"):
    """Begins."""

    id: str


class Paid(Event, key="id"):
    """The charge is done."""

    id: str


class Seated(Event, key="id"):
    """All went well."""

    id: str


class SeatUnavailable(Event, key="id"):
    """The charge has to be undone."""

    id: str


class Reserve(Command[Seated], key="id", to="inventory"):
    """Asks for a seat."""

    id: str


def services(*, compensates: bool = True, trigger: type[Event] = SeatUnavailable) -> tuple[Service, Service]:
    """A payment that is charged, and a seat that may not be there."""
    payment, seat = Service("payment"), Service("seat")

    @payment.on(Booked)
    async def charge(booked: Booked, tx: Transaction) -> Paid:
        return Paid(booked.id)

    @seat.on(Paid)
    async def assign(paid: Paid, tx: Transaction) -> Seated | SeatUnavailable:
        return SeatUnavailable(paid.id) if paid.id.startswith("full") else Seated(paid.id)

    @payment.on(
        trigger, retry=Retry(attempts=2, first=seconds(60), jitter=False), compensates=charge if compensates else None
    )
    async def refund(event: Event, tx: Transaction) -> None:
        key = getattr(event, "id", "")
        if "stuck" in key:
            raise Reject("the card is gone")
        if "late" in key:
            raise ValueError("the bank is closed")

    return payment, seat


def codes(*declared: Service) -> list[tuple[str, str]]:
    """What check finds about compensations."""
    found = check([service.spec for service in declared])
    return [(each.code, each.what) for each in found if each.code in ("uncompensated", "never-triggered")]


def test_a_failure_that_nothing_compensates_is_found() -> None:
    """A failure event after a handler that keeps something: fine when one undoes it, named when none does."""
    assert codes(*services()) == []
    found = codes(*services(compensates=False))
    assert found == [("uncompensated", "SeatUnavailable, which seat.assign publishes, leaves what payment.charge did")]


def test_a_compensation_that_nothing_triggers_is_found() -> None:
    """It is bound to an event that does not follow from what it undoes."""
    found = codes(*services(trigger=Booked))
    assert (
        "never-triggered",
        "payment.refund compensates payment.charge, from which none of its events follows",
    ) in found


def test_what_only_passes_on_needs_no_compensation() -> None:
    """A handler without tables or calls has done nothing that could be undone; nor has one that undoes."""
    relay, seat = Service("relay"), Service("seat")

    @relay.on(Booked)
    async def pass_on(booked: Booked) -> Paid:
        return Paid(booked.id)

    @seat.on(Paid)
    async def assign(paid: Paid, tx: Transaction) -> SeatUnavailable:
        return SeatUnavailable(paid.id)

    @seat.on(SeatUnavailable)
    async def note(failed: SeatUnavailable) -> None:
        """Is told."""

    assert codes(relay, seat) == []


def test_an_outcome_of_a_request_may_trigger_a_compensation() -> None:
    """Refusals and time-outs follow from commands, though no annotation names them; check knows."""
    orders, inventory = Service("orders"), Service("inventory")

    @orders.on(Booked)
    async def place(booked: Booked, tx: Transaction) -> Reserve | None:
        await tx.request(Reserve(booked.id), timeout=seconds(5))
        return None

    @inventory.on(Reserve)
    async def reserve(asked: Reserve) -> Seated:
        return Seated(asked.id)

    @orders.on(Refused, compensates=place)
    async def refused(outcome: Refused) -> None:
        """Undoes."""

    @orders.on(TimedOut, compensates=place)
    async def late(outcome: TimedOut) -> None:
        """Undoes."""

    assert codes(orders, inventory) == []
    unfed = [each.what for each in check([orders.spec, inventory.spec]) if each.code == "never-fed"]
    assert [what for what in unfed if "antiphon." in what] == []


def test_a_route_may_be_compensated() -> None:
    """What a route did is named by its method and path; what is elsewhere cannot be named."""
    service, other = Service("customer"), Service("other")

    @service.post("/customers")
    async def enroll(tx: Transaction) -> Booked:
        return Booked("1")

    @service.on(Booked, compensates=enroll)
    async def unenroll(booked: Booked) -> None:
        """Undoes."""

    (handler,) = service.spec.handlers
    assert handler.compensates == "customer POST /customers"
    with pytest.raises(DeclarationError, match="no handler or route of service 'other'"):
        other.on(Booked, compensates=enroll)


async def saga(world: World, booking_id: str) -> tuple[str, list[tuple[str, str, str | None]]]:
    """The saga of a booking."""
    (event_id,) = await world.publish("payment", Booked(booking_id))
    found: Trace = await Desk(world.store).trace(event_id)
    assert found.saga is not None
    return found.saga.state, [(step.name, step.state, step.undone_by) for step in found.saga.steps]


@pytest.mark.anyio
async def test_a_trace_is_a_saga(tmp_path: Path) -> None:
    """Steps done, undone, being undone, stuck; and the state of the whole that follows from them."""
    async with running(tmp_path, *services()) as world:
        charged, seated = ("payment.charge", "done", None), ("seat.assign", "done", None)
        assert await saga(world, "a1") == ("completed", [charged, seated])
        undone = ("payment.charge", "undone", "payment.refund")
        assert await saga(world, "full") == ("compensated", [undone, seated])
        stuck = ("payment.charge", "stuck", "payment.refund")
        assert await saga(world, "full stuck") == ("stuck", [stuck, seated])
        undoing = ("payment.charge", "undoing", "payment.refund")
        assert await saga(world, "full late") == ("running", [undoing, seated])


@pytest.mark.anyio
async def test_what_is_still_expected_is_shown(tmp_path: Path) -> None:
    """A step that has not run yet is expected, and the saga goes on."""
    async with running(tmp_path, *services(), only=["payment"]) as world:
        assert await saga(world, "a1") == (
            "running",
            [("payment.charge", "done", None), ("seat.assign", "expected", None)],
        )
