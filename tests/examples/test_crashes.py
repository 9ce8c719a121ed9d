"""A crash after any commit of the examples changes nothing at the end, and each effect is there once.

That of securecart is in ``test_securecart.py``.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from antiphon import seconds
from antiphon.testing import World
from examples.enrollment import app as enrollment
from examples.flight_booking import app as flight_booking
from examples.flight_booking.timetable import timetable
from tests.examples.crashing import Life, crash_after_every_commit
from tests.examples.kit import mail_server

pytestmark = pytest.mark.anyio

A_WHILE = seconds(30)


async def test_enrollment() -> None:
    """One customer has the bonus once; the other is un-enrolled, and has none."""

    async def play(life: Life) -> None:
        for plan in ("gold", "basic"):
            await life.post("/enrollments", {"name": "Ada", "email": "ada@example.com", "plan": plan})
        await life.passes(A_WHILE)

    def look(world: World) -> Any:
        return (
            world.rows("customer", "SELECT plan, status, points FROM customers ORDER BY plan"),
            world.rows("transaction", "SELECT kind, points FROM postings"),
            world.record().dead_letters(),
        )

    assert await crash_after_every_commit(enrollment, play, look) > 10


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.soak)])
async def test_flight_booking(every: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One is declined, and of those who want the last seat all but as many as there are have their money back."""
    smallest = min(timetable().values(), key=lambda flight: (flight.seats, flight.number))
    booked = {"flight": smallest.number, "card": "4242 4242 4242 4242", "price": "99.50"}

    async with mail_server() as (mailbox, port):
        monkeypatch.setenv("SMTP_HOST", "127.0.0.1")
        monkeypatch.setenv("SMTP_PORT", str(port))

        async def play(life: Life) -> None:
            for number in range(smallest.seats + 1):
                await life.post("/bookings", {**booked, "passenger": f"Passenger {number}"})
            await life.post("/bookings", {**booked, "passenger": "Nobody", "card": "4000 0000 0000 0002"})
            await life.passes(A_WHILE)

        def look(world: World) -> Any:
            messages = {str(message["Message-ID"]) for message in mailbox.messages}
            mailbox.messages.clear()
            return (
                Counter(world.rows("booking", "SELECT status, reason FROM bookings")),
                Counter(world.rows("payment", "SELECT amount, refunded_at IS NULL FROM charges")),
                world.rows("seat", "SELECT flight, seat FROM seats ORDER BY seat"),
                world.rows("ticket", "SELECT flight, seat FROM tickets ORDER BY seat"),
                world.rows("notification", "SELECT count(*) FROM emails"),
                len(messages),
                world.record().dead_letters(),
            )

        assert await crash_after_every_commit(flight_booking, play, look, every=every) > 20
