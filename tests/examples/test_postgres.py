"""The example systems on PostgreSQL, whole: in processes of their own, and with every connection broken on the way."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from antiphon.demo.audit import UNITED, questions
from antiphon.demo.chance import Chance
from antiphon.testing.servers import PostgresServer, running
from examples.flight_booking import app
from examples.flight_booking.demo import subject
from tests.conftest import require
from tests.examples.kit import (
    ENDS_OF_ENROLLMENTS,
    all_ended,
    booked,
    ends_of_enrollments,
    in_a_process_each,
    in_one_process,
    mail_server,
)
from tests.store.postgres import database

pytestmark = pytest.mark.anyio

BOOKINGS, BREAKS = 60, 3


@pytest.fixture
def url() -> Iterator[str]:
    """A database of the test's own."""
    with database() as found:
        yield found


async def test_enrollment_in_a_process_for_each_service(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Services that share nothing but the database server enroll a customer, and take back what got no bonus."""
    monkeypatch.setenv("ANTIPHON_STORE", url)
    async with in_a_process_each("examples.enrollment:app", ["customer", "transaction"], tmp_path) as client:
        assert await ends_of_enrollments(client) == ENDS_OF_ENROLLMENTS
    assert not list(tmp_path.glob("*.db"))


async def test_flight_booking_with_every_connection_broken(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server ends all connections again and again while bookings are on their way: each comes to its one end."""
    bookings = subject()
    accepted: list[str] = []
    async with mail_server() as (mailbox, port):
        monkeypatch.setenv("SMTP_HOST", "127.0.0.1")
        monkeypatch.setenv("SMTP_PORT", str(port))
        async with in_one_process(app, tmp_path, store=url) as client:
            for part in range(BREAKS):
                accepted += await booked(client, bookings, part * BOOKINGS // BREAKS, BOOKINGS // BREAKS)
                assert asked(url, "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity" + OTHERS) > 0
            await mailbox.holding((await all_ended(client, bookings, accepted))["TICKETED"])
    received = Counter(str(message["Message-ID"]) for message in mailbox.messages)
    answers = audit(url, accepted, received)
    assert {finding: count for finding, count in answers.items() if ": " in finding and count} == {}
    assert answers["accepted"] == answers["ticketed"] + answers["cancelled"] == BOOKINGS


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
        answers = audit(server.url, accepted, Counter(str(message["Message-ID"]) for message in mailbox.messages))
    assert {finding: count for finding, count in answers.items() if ": " in finding and count} == {}
    assert answers["accepted"] == answers["ticketed"] + answers["cancelled"] == BOOKINGS


OTHERS = " WHERE datname = current_database() AND pid <> pg_backend_pid()"


def asked(url: str, sql: str) -> Any:
    """One value from the database."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(sql.encode()).fetchone()
    assert row is not None
    return row[0]


def audit(url: str, accepted: Iterable[str], received: Mapping[str, int]) -> dict[str, int]:
    """The answers to the questions of the demo's audit, each service's tables in the schema of its name."""
    import psycopg

    booked = subject()
    services = list(booked.app.services)
    with psycopg.connect(url) as connection:
        connection.execute(f"CREATE TEMP TABLE accepted ({booked.id_field} TEXT PRIMARY KEY)".encode())
        connection.execute(b"CREATE TEMP TABLE received (message_id TEXT PRIMARY KEY, times INTEGER)")
        with connection.cursor() as cursor:
            cursor.executemany(b"INSERT INTO accepted VALUES (%s)", [(each,) for each in accepted])
            cursor.executemany(b"INSERT INTO received VALUES (%s, %s)", list(received.items()))
        for name, rows in UNITED.items():
            every = " UNION ALL ".join(f"SELECT * FROM {service}.{rows}" for service in services)
            connection.execute(f"CREATE TEMP VIEW {name} AS {every}".encode())
        answers = {}
        for name, sql in questions(booked).items():
            row = connection.execute(sql.replace("total(", "sum(").encode()).fetchone()
            answers[name] = int(row[0] or 0) if row is not None else 0
        connection.rollback()
    return answers
