"""The flight booking as ``antiphon demo`` shows it: most bookings are fine, some are declined, some flights fill up."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from antiphon.demo.chance import Chance
from antiphon.demo.subject import Subject

from . import app
from .timetable import Flight, timetable

GOOD_CARD, DECLINED_CARD = "4242 4242 4242 4242", "4000 0000 0000 0002"
DECLINED_SHARE = 0.08
#: So many bookings are for the few flights with the fewest seats, which are soon full.
POPULAR_SHARE, POPULAR_FLIGHTS = 0.15, 3

_FIRST_NAMES = ("Ada", "Alan", "Barbara", "Edsger", "Frances", "Grace", "Jim", "Leslie", "Radia", "Tony")
_LAST_NAMES = ("Allen", "Dijkstra", "Gray", "Hoare", "Hopper", "Lamport", "Liskov", "Lovelace", "Perlman", "Turing")


class Passengers:
    """Who books what: the same for the same chance."""

    def __init__(self, flights: Sequence[Flight]) -> None:
        self._flights = [flight.number for flight in flights]
        smallest = sorted(flights, key=lambda flight: flight.seats)[:POPULAR_FLIGHTS]
        self._popular = [flight.number for flight in smallest]

    def booking(self, chance: Chance, number: int) -> dict[str, Any]:
        """The *number*-th request."""
        popular = chance.of("popular", number) < POPULAR_SHARE
        declined = chance.of("declined", number) < DECLINED_SHARE
        first = chance.pick(_FIRST_NAMES, "first name", number)
        last = chance.pick(_LAST_NAMES, "last name", number)
        return {
            "flight": chance.pick(self._popular if popular else self._flights, "flight", number),
            "passenger": f"{first} {last}",
            "email": f"{first}.{last}.{number}@passengers.example".lower(),
            "card": DECLINED_CARD if declined else GOOD_CARD,
            "price": f"{49 + 900 * chance.of('price', number):.2f}",
        }


def subject() -> Subject:
    """What the demo is told."""
    flights = list(timetable().values())
    return Subject(
        app=app,
        noun="booking",
        path="/bookings",
        id_field="booking_id",
        request=Passengers(flights).booking,
        progress=("booking", "SELECT status, count(*) FROM bookings GROUP BY status"),
        statuses=("CREATED", "PAID", "SEATED", "TICKETED", "CANCELLED"),
        ends={"TICKETED": "green", "CANCELLED": "yellow"},
        last_events=("TicketIssued", "PaymentRefunded", "PaymentFailed"),
        audit_sql=Path(__file__).with_name("audit.sql").read_text(encoding="utf-8"),
        summary=_summary,
        addresses=(("/flights", "the flights, and the seats left"),),
        hint=f"book {flights[0].number} in the API with a card that ends in 0002: it is declined",
        counters={"e-mails": ("notification", "SELECT count(*) FROM emails")},
        at_rest=lambda statuses, counters: counters["e-mails"] >= statuses["TICKETED"],
    )


def _summary(facts: Mapping[str, Any]) -> list[str]:
    lines = [
        f"{facts['accepted']} bookings accepted in {facts['seconds']:.1f} s: {facts['ticketed']} ticketed, "
        f"{facts['cancelled']} cancelled, of these {facts['refunded']} with their payment refunded; "
        f"{facts['emails']} e-mails.",
    ]
    if facts["emails_repeated"]:
        lines.append(
            f"{facts['emails_repeated']} e-mails were sent again after a failure; their Message-ID says that they are "
            "the same."
        )
    return lines
