"""The example systems on each broker, whole: in processes of their own, and with the line to the broker cut."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from antiphon.demo.audit import audit
from antiphon.demo.chance import Chance
from examples.flight_booking import app
from examples.flight_booking.demo import subject
from tests.broker.engines import ENGINES, Engine, app_of
from tests.broker.proxy import line_to
from tests.examples.kit import in_a_process_each, in_one_process, mail_server, shown

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name),
]

BOOKINGS, CUTS = 60, 3


@pytest.fixture
async def url(engine: Engine, tmp_path: Path) -> AsyncIterator[str]:
    """A bus on the engine that is nobody else's."""
    name = app_of(tmp_path)
    yield f"{engine.require()}?name={name}"
    await engine.remove(engine.url, name)


async def test_enrollment_in_a_process_for_each_service(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Services that share nothing but the broker enroll a customer, and take back what got no bonus."""
    monkeypatch.setenv("ANTIPHON_BUS", url)
    async with in_a_process_each("examples.enrollment:app", ["customer", "transaction"], tmp_path) as client:
        ends = {}
        for plan in ("gold", "basic"):
            body = {"name": "Ada Lovelace", "email": "ada@example.com", "plan": plan}
            customer = (await client.post("/enrollments", json=body)).raise_for_status().json()["customer_id"]
            seen = await shown(client, f"/customers/{customer}", lambda seen: seen["status"] != "PENDING")
            ends[plan] = (seen["status"], seen["points"])
    assert ends == {"gold": ("ENROLLED", 500), "basic": ("UNENROLLED", 0)}


async def test_flight_booking_with_the_line_cut(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bookings are accepted while the broker is away, and each comes to its one end when it is back."""
    booked = subject()
    accepted: list[str] = []
    async with mail_server() as (mailbox, port), line_to(url) as line:
        monkeypatch.setenv("SMTP_HOST", "127.0.0.1")
        monkeypatch.setenv("SMTP_PORT", str(port))
        async with in_one_process(app, tmp_path, line.url) as client:
            for cut in range(CUTS):
                accepted += await book(client, cut * BOOKINGS // CUTS, BOOKINGS // CUTS // 2)
                line.cut()
                accepted += await book(client, cut * BOOKINGS // CUTS + 100, BOOKINGS // CUTS // 2)
                line.mend()
            for booking in accepted:
                await shown(client, f"/bookings/{booking}", lambda seen: seen["status"] in booked.ends)
            tickets = [(await client.get(f"/bookings/{each}")).json()["status"] for each in accepted].count("TICKETED")
            await mailbox.holding(tickets)
        assert line.broken > 0
    found = audit(booked, tmp_path, accepted, Counter(str(message["Message-ID"]) for message in mailbox.messages))
    assert found.findings == {}
    assert len(accepted) == BOOKINGS


async def book(client: httpx.AsyncClient, first: int, count: int) -> list[str]:
    """Post *count* bookings at once; the ids of what was accepted, which is all of them."""
    bodies = [subject().request(Chance(1), number) for number in range(first, first + count)]
    answers = await asyncio.gather(*(client.post("/bookings", json=body) for body in bodies))
    return [answer.raise_for_status().json()["booking_id"] for answer in answers]
