"""What `antiphon simulate examples.flight_booking:app` is told: who books, and what must hold whatever goes wrong."""

from random import Random  # noqa: TID251  the simulator's, seeded
from typing import Any

from antiphon import Look

from .. import mail  # noqa: TID252  in a wheel the package above has another name
from . import app
from .bank import DECLINED
from .timetable import timetable


@app.traffic(weight=3)
def booking(random: Random) -> tuple[str, str, dict[str, Any]]:
    """A seat on one of a few flights; now and then the card is declined."""
    flight = random.choice(sorted(timetable())[:5])
    return _booking(random, flight, f"4000 0000 0000 {random.choice(['4242', '1881', DECLINED])}")


@app.traffic(weight=2)
def booking_on_a_small_plane(random: Random) -> tuple[str, str, dict[str, Any]]:
    """A seat on the smallest plane, which fills up."""
    flight = min(timetable().values(), key=lambda flight: (flight.seats, flight.number))
    return _booking(random, flight.number, "4000 0000 0000 4242")


app.stand_in("127.0.0.1", 1025)(mail.sink)


@app.invariant
def no_seat_is_sold_twice(look: Look) -> None:
    """Each seat of a flight belongs to one booking, and no flight has more seats sold than its plane holds."""
    seats = [(row["flight"], row["seat"]) for row in look.rows("seat", "SELECT flight, seat FROM seats")]
    assert len(seats) == len(set(seats)), f"sold twice: {sorted({each for each in seats if seats.count(each) > 1})}"
    for row in look.rows("seat", "SELECT flight, sold FROM flights"):
        taken = sum(flight == row["flight"] for flight, _ in seats)
        capacity = timetable()[row["flight"]].seats
        assert taken == row["sold"] <= capacity, f"{row['flight']}: {taken} seats of {capacity}, {row['sold']} sold"


@app.invariant
def who_flies_has_paid(look: Look) -> None:
    """A booking is TICKETED only if it is paid for and the money was not given back."""
    paid = {
        row["booking_id"] for row in look.rows("payment", "SELECT booking_id FROM charges WHERE refunded_at IS NULL")
    }
    for row in look.rows("booking", "SELECT booking_id FROM bookings WHERE status = 'TICKETED'"):
        assert row["booking_id"] in paid, f"{row['booking_id']} flies for nothing"


@app.invariant
def who_is_cancelled_has_the_money(look: Look) -> None:
    """A booking is CANCELLED only if nothing was charged, or all of it was given back, and then it has no seat."""
    charges = {row["booking_id"]: row["refunded_at"] for row in look.rows("payment", "SELECT * FROM charges")}
    seated = {row["booking_id"] for row in look.rows("seat", "SELECT booking_id FROM seats")}
    for row in look.rows("booking", "SELECT booking_id, card_last4 FROM bookings WHERE status = 'CANCELLED'"):
        id_ = row["booking_id"]
        assert charges.get(id_, "nothing to give back") is not None, f"{id_} is cancelled, and was not refunded"
        assert (id_ not in charges) == (row["card_last4"] == DECLINED), f"{id_} was charged although it was declined"
        assert id_ not in seated, f"{id_} is cancelled, and has a seat"


@app.invariant(at="end")
def every_booking_ends(look: Look) -> None:
    """At rest a booking is TICKETED or CANCELLED, unless one of its events became a dead letter."""
    dead = look.dead_keys()
    mailed = {row["booking_id"] for row in look.rows("notification", "SELECT booking_id FROM emails")}
    for row in look.rows("booking", "SELECT booking_id, status FROM bookings"):
        if row["booking_id"] in dead:
            continue
        assert row["status"] in ("TICKETED", "CANCELLED"), f"{row['booking_id']} is {row['status']}"
        assert (row["booking_id"] in mailed) == (row["status"] == "TICKETED"), f"{row['booking_id']}: wrong mail"


def _booking(random: Random, flight: str, card: str) -> tuple[str, str, dict[str, Any]]:
    passenger = random.choice(["Ada", "Grace", "Edsger", "Barbara"])
    return "POST", "/bookings", {"flight": flight, "passenger": passenger, "card": card, "price": "99.50"}
