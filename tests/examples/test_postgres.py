"""An example system on a PostgreSQL that is killed; what else it must do is in ``test_served``."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import httpx
import pytest

from antiphon.demo.chance import Chance
from antiphon.testing.servers import PostgresServer, running
from examples.flight_booking import app
from examples.flight_booking.demo import subject
from tests.conftest import require
from tests.examples.kit import (
    all_ended,
    booked,
    in_one_process,
    mail_server,
)
from tests.examples.postgres import audit

pytestmark = pytest.mark.anyio

BOOKINGS, BREAKS = 60, 3


@pytest.mark.parametrize("times", [1, pytest.param(BREAKS, marks=pytest.mark.soak)])
async def test_flight_booking_with_the_server_killed(
    times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server of the test's own dies by SIGKILL while bookings are on their way, and starts again: what was accepted
    comes to its one end, and nothing is accepted while there is nothing to keep it in."""
    require("a PostgreSQL of one's own", PostgresServer.is_there())
    bookings = subject()
    accepted: list[str] = []
    each = BOOKINGS // times
    async with mail_server() as (mailbox, port), running(PostgresServer) as server:
        monkeypatch.setenv("SMTP_HOST", "127.0.0.1")
        monkeypatch.setenv("SMTP_PORT", str(port))
        async with in_one_process(app, tmp_path, store=server.url) as client:
            for part in range(times):
                accepted += await booked(client, bookings, part * each, each // 2)
                await server.kill()
                meanwhile = asyncio.create_task(booked(client, bookings, part * each + each // 2, each - each // 2))
                refused = await client.post(bookings.path, json=bookings.request(Chance(1), BOOKINGS))
                assert refused.status_code == httpx.codes.SERVICE_UNAVAILABLE
                await server.start()
                accepted += await meanwhile
            await mailbox.holding((await all_ended(client, bookings, accepted))["TICKETED"])
        answers = await audit(server.url, accepted, Counter(str(message["Message-ID"]) for message in mailbox.messages))
    assert {finding: count for finding, count in answers.items() if ": " in finding and count} == {}
    assert answers["accepted"] == answers["ticketed"] + answers["cancelled"] == BOOKINGS
