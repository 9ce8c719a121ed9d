"""The flight booking example over HTTP, in one process and in one for each service, with a real mail server."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from antiphon.demo.audit import audit
from antiphon.policy.choreography import check
from antiphon.store.desk import Desk
from examples.flight_booking import app
from examples.flight_booking.demo import subject
from examples.flight_booking.events import SeatAssigned, TicketIssued
from tests.examples.kit import Mailbox, in_a_process_each, in_one_process, mail_server, process_of, shown

pytestmark = pytest.mark.anyio

CARD, DECLINED = "4242 4242 4242 4242", "4000-0000-0000-0002"
APP = "examples.flight_booking:app"
ENDED = ("TICKETED", "CANCELLED")
SERVICES = list(app.services)


@pytest.fixture
async def mailbox(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Mailbox]:
    """The mail server that the notification service is told of."""
    async with mail_server() as (mailbox, port):
        monkeypatch.setenv("SMTP_HOST", "127.0.0.1")
        monkeypatch.setenv("SMTP_PORT", str(port))
        monkeypatch.setenv("SMTP_FROM", "tickets@airline.example")
        yield mailbox


async def book(client: httpx.AsyncClient, flight: str, card: str = CARD, **more: Any) -> dict[str, Any]:
    """Post a booking; the body of the 202."""
    body = {"flight": flight, "passenger": "Ada Lovelace", "card": card, "price": "199.50"}
    answer = await client.post("/bookings", json=body, **more)
    assert answer.status_code == 202, answer.text
    accepted: dict[str, Any] = answer.json()
    return accepted


async def ended(client: httpx.AsyncClient, booking_id: str) -> dict[str, Any]:
    """The booking, once it is ticketed or cancelled."""
    booking: dict[str, Any] = await shown(client, f"/bookings/{booking_id}", lambda seen: seen["status"] in ENDED)
    return booking


async def flights_by_seats(client: httpx.AsyncClient) -> list[dict[str, Any]]:
    """All flights, the smallest first."""
    return sorted((await client.get("/flights")).json(), key=lambda flight: flight["seats"])


def received(mailbox: Mailbox) -> Counter[str]:
    """How often each e-mail came."""
    return Counter(str(message["Message-ID"]) for message in mailbox.messages)


def rows(data: Path, service: str, sql: str) -> list[tuple[Any, ...]]:
    """Rows of a service's database, which nobody has open."""
    with closing(sqlite3.connect(data / f"{service}.db")) as connection:
        return connection.execute(sql).fetchall()


async def all_that_can_happen(client: httpx.AsyncClient, mailbox: Mailbox, data: Path) -> list[str]:
    """Books in every way, and says in words what became of each; the smallest flight is asked for twice too often."""
    smallest, *_, largest = await flights_by_seats(client)
    keys = {"Idempotency-Key": "the same"}
    accepted = [
        await book(client, largest["flight"]),
        await book(client, largest["flight"], DECLINED),
        *[await book(client, largest["flight"], headers=keys) for _ in range(2)],
        *await asyncio.gather(*(book(client, smallest["flight"]) for _ in range(smallest["seats"] + 2))),
    ]
    ids = [each["booking_id"] for each in accepted]
    assert ids[2] == ids[3]
    bookings = [await ended(client, each) for each in ids]
    tickets = {each["ticket"] for each in bookings if each["status"] == "TICKETED"}
    await mailbox.holding(len(tickets))
    left = {flight["flight"]: flight["seats_left"] for flight in await flights_by_seats(client)}
    assert left[smallest["flight"]] == 0
    assert left[largest["flight"]] == largest["seats"] - 2
    crowd = sorted(f"{each['status']} {each['reason']}" for each in bookings[4:])
    full = f"CANCELLED flight {smallest['flight']} is full"
    assert crowd == sorted([full] * 2 + ["TICKETED None"] * smallest["seats"])
    return [f"{each['status']} {each['reason']} {each['seat']}" for each in bookings[:3]]


EXPECTED = ["TICKETED None 1A", "CANCELLED the card ending in 0002 was declined None", "TICKETED None 1B"]


async def test_in_one_process(tmp_path: Path, mailbox: Mailbox) -> None:
    """Ticketed, declined, repeated and raced bookings all end as they should, and the databases agree."""
    async with in_one_process(app, tmp_path) as client:
        assert await all_that_can_happen(client, mailbox, tmp_path) == EXPECTED
    assert_sound(tmp_path, mailbox)


async def test_in_a_process_for_each_service(tmp_path: Path, mailbox: Mailbox) -> None:
    """The same comes out when each of the five services runs in a process of its own."""
    async with in_a_process_each(APP, SERVICES, tmp_path) as client:
        assert await all_that_can_happen(client, mailbox, tmp_path) == EXPECTED
    assert_sound(tmp_path, mailbox)


def assert_sound(data: Path, mailbox: Mailbox) -> None:
    """Nothing lost, nothing twice; the two who found no seat have their money back."""
    ids = [booking_id for (booking_id,) in rows(data, "booking", "SELECT booking_id FROM bookings")]
    found = audit(subject(), data, ids, received(mailbox))
    assert found.findings == {}
    assert found.figures["refunded"] == 2
    assert set(received(mailbox).values()) == {1}
    assert rows(data, "payment", "SELECT DISTINCT amount FROM charges") == [("199.50",)]


async def test_a_service_that_is_down_delays_nobody_else(tmp_path: Path, mailbox: Mailbox) -> None:
    """While the seat service is away a booking is taken and paid; it goes on when the service comes."""
    others = [service for service in SERVICES if service != "seat"]
    async with in_a_process_each(APP, others, tmp_path) as client:
        flight = "UA1545" if "UA1545" in flights_here() else "XX101"
        booking_id = (await book(client, flight))["booking_id"]
        await shown(client, f"/bookings/{booking_id}", lambda seen: seen["status"] == "PAID")
        async with process_of(APP, "seat", tmp_path):
            assert (await ended(client, booking_id))["status"] == "TICKETED"
            await mailbox.holding(1)


def flights_here() -> set[str]:
    """The numbers of all flights."""
    from examples.flight_booking.timetable import timetable

    return set(timetable())


async def test_the_ticket_comes_by_email(tmp_path: Path, mailbox: Mailbox) -> None:
    """The e-mail goes to the passenger, says ticket, seat and flight, and has the event's id in its Message-ID."""
    async with in_one_process(app, tmp_path) as client:
        flight = (await flights_by_seats(client))[-1]
        body = {"flight": flight["flight"], "passenger": "Ada", "card": CARD, "price": 99, "email": "ada@example.com"}
        accepted = (await client.post("/bookings", json=body)).json()
        booking = await ended(client, accepted["booking_id"])
        (message,) = await mailbox.holding(1)
        trace = (await client.get(accepted["events"])).json()
    issued = next(event for event in trace["events"] if event["type"] == "TicketIssued")
    assert message["Message-ID"] == f"<{issued['id']}@flights.example>"
    assert (message["To"], message["From"]) == ("ada@example.com", "tickets@airline.example")
    text = message.get_content()
    for part in ("Ada", booking["ticket"], f"seat is {booking['seat']}", flight["flight"], flight["destination"]):
        assert part in text


async def test_a_mail_server_that_is_busy_is_tried_again(tmp_path: Path, mailbox: Mailbox) -> None:
    """The booking is ticketed without waiting for the e-mail, which comes later as the same message."""
    mailbox.refusing = 1
    async with in_one_process(app, tmp_path) as client:
        flight = (await flights_by_seats(client))[-1]
        booking_id = (await book(client, flight["flight"]))["booking_id"]
        assert (await ended(client, booking_id))["status"] == "TICKETED"
        (message,) = await mailbox.holding(1)
    assert [each["Message-ID"] for each in mailbox.refused] == [message["Message-ID"]]
    assert message["To"] == "desk@flights.example"


async def test_the_card_number_is_kept_nowhere(tmp_path: Path, mailbox: Mailbox) -> None:
    """Of a card its last four digits are in tables and events, and no more, whether it is accepted or refused."""
    async with in_one_process(app, tmp_path) as client:
        flight = (await flights_by_seats(client))[-1]["flight"]
        accepted = await book(client, flight, "4539 1488 0343 6467", headers={"Idempotency-Key": "k"})
        await ended(client, accepted["booking_id"])
        wrong = {"flight": flight, "passenger": "", "card": "4539148803436467", "price": "1"}
        refused = [await client.post("/bookings", json={**wrong, "passenger": name}) for name in ("", "Ada")]
        refused.append(await client.post("/bookings", json={**wrong, "passenger": "Ada", "card": "4539-1488-034x"}))
        assert [answer.status_code for answer in refused] == [422, 202, 422]
        assert not any("4539" in answer.text for answer in refused)
        await ended(client, refused[1].json()["booking_id"])
        await mailbox.holding(2)
    kept = b"".join(dump(tmp_path / f"{name}.db") for name in (*SERVICES, "bus"))
    assert b"6467" in kept
    # Four digits alone may be those of a time or an id.
    assert not re.search(rb"4539\D?14|1488\D?03|0343\D?64", kept)


def dump(database: Path) -> bytes:
    """Everything in a database, as text; the events' data, which is kept as bytes, in the clear."""
    with closing(sqlite3.connect(database)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        found = [row for table in tables for row in connection.execute(f'SELECT * FROM "{table}"')]
    return b"\n".join(cell if isinstance(cell, bytes) else str(cell).encode() for row in found for cell in row)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"flight": "ZZ9999"}, "ZZ9999"),
        ({"price": "-1"}, "price"),
        ({"price": "NaN"}, "price"),
        ({"price": "1.005"}, "price"),
        ({"passenger": " "}, "passenger"),
        ({"card": "12"}, "card"),
        ({"email": "nobody"}, "email"),
    ],
)
async def test_a_wrong_booking_is_refused(tmp_path: Path, change: dict[str, str], named: str) -> None:
    """An unknown flight, a price that is none and the like are refused with 422 and named; nothing is kept."""
    async with in_one_process(app, tmp_path) as client:
        flight = (await flights_by_seats(client))[-1]["flight"]
        body = {"flight": flight, "passenger": "Ada", "card": CARD, "price": "10.00", **change}
        answer = await client.post("/bookings", json=body)
        assert answer.status_code == 422
        assert answer.headers["content-type"].startswith("application/problem+json")
        assert named in answer.text
        assert (await client.get("/bookings/nobody")).status_code == 404
    assert rows(tmp_path, "booking", "SELECT count(*) FROM bookings") == [(0,)]


async def test_prices_are_exact(tmp_path: Path, mailbox: Mailbox) -> None:
    """A price given as a JSON number or as text is a decimal number, shown as text and charged to the cent."""
    async with in_one_process(app, tmp_path) as client:
        flight = (await flights_by_seats(client))[-1]["flight"]
        prices = [0.1, "0.30", 1234567.89, 100]
        for price in prices:
            body = {"flight": flight.lower(), "passenger": "Ada", "card": CARD, "price": price}
            accepted = (await client.post("/bookings", json=body)).json()
            booking = await ended(client, accepted["booking_id"])
            assert Decimal(booking["price"]) == Decimal(str(price))
        await mailbox.holding(len(prices))
    charged = [Decimal(amount) for (amount,) in rows(tmp_path, "payment", "SELECT amount FROM charges ORDER BY 1")]
    assert sorted(charged) == sorted(Decimal(str(price)) for price in prices)


async def test_the_end_of_a_booking_may_come_before_what_led_to_it(tmp_path: Path) -> None:
    """As on a bus that keeps no order: a ticket tells the seat too, and stays the end."""
    seated = SeatAssigned(booking_id="b", flight="UA1", seat="1A", passenger="Ada", email=None)
    ticketed = TicketIssued(
        **msgspec.to_builtins(seated),
        ticket="t",
        origin="EWR",
        destination="ORD",
        departs=datetime(2027, 1, 1, tzinfo=UTC),
    )
    async with app.run_in(tmp_path, services=["booking"]) as runtime:
        async with runtime.transaction("booking") as tx:
            values = ("b", "UA1", "Ada", "10.00", "4242", tx.now.isoformat())
            await tx.execute(
                "INSERT INTO bookings (booking_id, flight, passenger, price, card_last4, created_at)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                *values,
            )
            tx.publish(ticketed)
            tx.publish(seated)
        store = runtime.store_of("booking")
        async with asyncio.timeout(30):
            while (await Desk(store).status())[0].lag:
                await runtime.clock.sleep(0.02)
        rows = await store.fetch_all("SELECT status, seat, ticket FROM bookings")
    assert [tuple(row) for row in rows] == [("TICKETED", "1A", "t")]


def test_nothing_is_wrong_with_the_choreography() -> None:
    """`antiphon check` finds nothing: every failure is handled, the call outside has its retry policy."""
    assert check(app.specs) == []
