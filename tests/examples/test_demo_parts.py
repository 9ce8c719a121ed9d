"""The parts of the demo: chance, the feeder's requests, faults, and what is shown."""

from __future__ import annotations

import io
from collections import Counter
from itertools import groupby

import pytest
from rich.console import Console

from antiphon.demo.chance import Chance
from antiphon.demo.faults import TransientFault, made_faulty
from antiphon.demo.figures import Figures, Trace
from antiphon.demo.subject import subject_of
from antiphon.demo.view import Heading, Scene, line_of, opened_view, rendered, trace_line
from antiphon.model.retry import seconds
from examples.flight_booking import app
from examples.flight_booking.bank import Answer
from examples.flight_booking.demo import DECLINED_CARD, DECLINED_SHARE, POPULAR_FLIGHTS, Passengers
from examples.flight_booking.timetable import invented_flights

SCENE = Scene(
    phase="feeding",
    seconds=12.3,
    accepted=600,
    accepted_per_s=50.4,
    events_per_s=290,
    figures=Figures(
        {"CREATED": 1, "PAID": 0, "SEATED": 2, "TICKETED": 540, "CANCELLED": 57},
        {"e-mails": 538},
        events=3480,
        failed_attempts=12,
        deliveries={"IN_PROGRESS": 2, "RETRY": 0},
        dead_letters=0,
        paused=("notification.send_ticket",),
        settled=False,
    ),
    traces=[Trace("01-abc", (("BookingCreated", 0), ("PaymentConfirmed", 12), ("TicketIssued", 31)))],
)


def test_chance_is_repeatable_and_even() -> None:
    """The same seed and question have the same answer; the answers to many questions are spread evenly."""
    answers = [Chance(1).of("q", number) for number in range(10_000)]
    assert answers == [Chance(1).of("q", number) for number in range(10_000)]
    assert answers != [Chance(2).of("q", number) for number in range(10_000)]
    tenths = Counter(int(answer * 10) for answer in answers)
    assert set(tenths) == set(range(10))
    assert all(900 < count < 1_100 for count in tenths.values())


def test_the_same_bookings_are_asked_for_again() -> None:
    """A seed says which bookings there are: flights that exist, some of them crowded, some cards declined."""
    flights = list(invented_flights().values())
    first, again = (Passengers(flights) for _ in range(2))
    bookings = [first.booking(Chance(3), number) for number in range(2_000)]
    assert bookings == [again.booking(Chance(3), number) for number in range(2_000)]
    asked = Counter(booking["flight"] for booking in bookings)
    assert set(asked) == {flight.number for flight in flights}
    smallest = sorted(flights, key=lambda flight: flight.seats)[:POPULAR_FLIGHTS]
    rest = [flight for flight in flights if flight not in smallest]
    assert min(asked[flight.number] for flight in smallest) > max(asked[flight.number] for flight in rest)
    declined = sum(booking["card"] == DECLINED_CARD for booking in bookings) / len(bookings)
    assert declined == pytest.approx(DECLINED_SHARE, abs=0.02)


class Booking:
    """As much of a booking as the payment handler looks at before it refuses."""

    card_last4, booking_id, price = "0002", "b1", 1


class Effects:
    """Stands in for the record of calls to the bank, which declines."""

    def key(self, name: str) -> str:
        """A key."""
        return name

    async def once(self, name: str, fn: object, *args: object, **how: object) -> Answer:
        """No call at all."""
        return Answer(declined="no bank here")


async def faults(rate: float, attempts: int) -> list[str]:
    """What so many attempts of the payment handler end with: a fault, or nothing."""
    handler = made_faulty(app, rate, Chance(5)).specs[1].handlers[0]
    ends = []
    for _ in range(attempts):
        try:
            await handler.fn(Booking(), None, Effects())
            ends.append("")
        except TransientFault as fault:
            ends.append(str(fault).partition(",")[0])
    return ends


@pytest.mark.anyio
async def test_faults_come_at_their_rate_before_and_after_the_work() -> None:
    """Of many attempts the asked share fails, half of them only after the handler has done its work."""
    ends = Counter(await faults(0.3, 2_000))
    assert 2_000 - ends[""] == pytest.approx(600, rel=0.15)
    assert ends["injected before the work"] == pytest.approx(ends["injected after the work"], rel=0.3)


@pytest.mark.anyio
async def test_faults_are_transient() -> None:
    """They never come five times in a row, which would look like a service that is down."""
    ends = await faults(0.5, 5_000)
    assert max(len(list(group)) for failed, group in groupby(ends, bool) if failed) == 4


def test_without_faults_handlers_are_as_they_were_but_for_their_retries() -> None:
    """The demo tries again within a second, and keeps what else the example says."""
    original, handler = (made.specs[1].handlers[0] for made in (app, made_faulty(app, 0, Chance(5))))
    assert handler.fn is original.fn
    assert handler.retry.cap <= seconds(1)
    assert handler.retry.max_age == original.retry.max_age
    assert app.specs[1].handlers[0].retry == original.retry


def test_without_a_terminal_a_scene_is_one_plain_line(capsys: pytest.CaptureFixture[str]) -> None:
    """What is elsewhere a table is a line on stderr, after the addresses and three things to try."""
    heading = Heading(subject_of("flight_booking"), "http://127.0.0.1:8000", "/data")
    with opened_view(heading) as show:
        show(SCENE)
    said = capsys.readouterr()
    assert said.out == ""
    *introduction, line = said.err.splitlines()
    assert line == line_of(SCENE)
    assert line.startswith("  12 s feeding: accepted 600 (50/s), CREATED 1 PAID 0 SEATED 2 TICKETED 540 CANCELLED 57")
    assert "e-mails 538, events 3480 (290/s), IN_PROGRESS 2, failed" in line
    assert line.endswith("paused notification.send_ticket")
    assert "http://127.0.0.1:8000/docs" in introduction[0]
    assert len(heading.things_to_try) == 3


def test_a_terminal_shows_a_table() -> None:
    """Rates, statuses, traces, addresses and things to try are all in it, and it fits a small terminal."""
    screen = io.StringIO()
    console = Console(file=screen, width=100)
    console.print(rendered(Heading(subject_of("flight_booking"), "http://127.0.0.1:8000", "/data"), SCENE))
    text = screen.getvalue()
    for part in ("3,480", "290/s", "TICKETED", "01-abc", "/metrics", "antiphon status", "paused: notification"):
        assert part in text
    lines = text.splitlines()
    assert len(lines) < 24
    assert all(len(line) <= 100 for line in lines)


def test_a_trace_says_what_a_booking_came_to_and_when() -> None:
    """The events after the first, and the time to the last."""
    assert trace_line(SCENE.traces[0]) == "   31 ms  PaymentConfirmed > TicketIssued"
    assert trace_line(Trace("1", (("BookingCreated", 0),))) == ""
