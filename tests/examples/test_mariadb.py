"""The example systems on MariaDB, whole: in processes of their own, and with every connection broken on the way."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from antiphon.demo.audit import UNITED, questions
from examples.flight_booking import app
from examples.flight_booking.demo import subject
from tests.examples.kit import (
    CHECKOUT,
    ENDS_OF_ENROLLMENTS,
    PATIENCE_S,
    all_ended,
    booked,
    client_of,
    ends_of_enrollments,
    in_a_process_each,
    in_one_process,
    mail_server,
)
from tests.store.mariadb import asked, databases

pytestmark = pytest.mark.anyio

BOOKINGS, BREAKS = 60, 3


@pytest.fixture
def url() -> Iterator[str]:
    """An address for databases of the test's own."""
    with databases() as found:
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
                assert await all_broken(url) > 0
            await mailbox.holding((await all_ended(client, bookings, accepted))["TICKETED"])
    received = Counter(str(message["Message-ID"]) for message in mailbox.messages)
    answers = await audit(url, accepted, received)
    assert {finding: count for finding, count in answers.items() if ": " in finding and count} == {}
    assert answers["accepted"] == answers["ticketed"] + answers["cancelled"] == BOOKINGS


async def test_flight_booking_in_processes_that_are_killed(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process is ended by SIGKILL amid its bookings, the next one goes on: each booking comes to its one end."""
    bookings = subject()
    accepted: list[str] = []
    monkeypatch.setenv("ANTIPHON_STORE", url)
    async with mail_server() as (mailbox, port):
        monkeypatch.setenv("SMTP_HOST", "127.0.0.1")
        monkeypatch.setenv("SMTP_PORT", str(port))
        for part in range(BREAKS):
            is_last = part == BREAKS - 1
            async with a_process(tmp_path, killed=not is_last) as address, client_of(address) as client:
                accepted += await booked(client, bookings, part * BOOKINGS // BREAKS, BOOKINGS // BREAKS)
                if is_last:
                    await mailbox.holding((await all_ended(client, bookings, accepted))["TICKETED"])
    received = Counter(str(message["Message-ID"]) for message in mailbox.messages)
    answers = await audit(url, accepted, received)
    # An e-mail that was on its way when its process died comes again with the same Message-ID: SMTP cannot be asked.
    findings = {finding: count for finding, count in answers.items() if ": " in finding and count}
    assert findings == {}
    assert answers["accepted"] == answers["ticketed"] + answers["cancelled"] == BOOKINGS


@asynccontextmanager
async def a_process(folder: Path, *, killed: bool) -> AsyncIterator[str]:
    """``antiphon run`` of all services once it is ready: its gateway's address. It ends as it is told, or is killed."""
    command = ("-m", "antiphon", "run", "examples.flight_booking:app", "--data", str(folder), "--port", "0", "--json")
    with (folder / "stderr").open("ab") as told:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, cwd=CHECKOUT, stdout=asyncio.subprocess.PIPE, stderr=told
        )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            ready = await process.stdout.readline()
        assert ready, (folder / "stderr").read_text(encoding="utf-8")
        yield json.loads(ready)["url"]
    finally:
        if killed:
            process.kill()
        else:
            process.terminate()
        await process.communicate()


async def all_broken(url: str) -> int:
    """How many connections the server was told to end."""
    from antiphon.store.mariadb.connection import prefix_of

    prefix = prefix_of(url)
    found = await asked(
        url, f"SELECT id FROM information_schema.processlist WHERE left(db, {len(prefix)}) = '{prefix}'"
    )
    # One that has gone by itself meanwhile is broken already.
    ended = await asyncio.gather(
        *(asked(url, f"KILL CONNECTION {number}") for (number,) in found), return_exceptions=True
    )
    return sum(not isinstance(each, Exception) for each in ended)


async def audit(url: str, accepted: Iterable[str], received: Mapping[str, int]) -> dict[str, int]:
    """The answers to the questions of the demo's audit, each service's tables in the database of its name."""
    from antiphon.store.mariadb.connection import address, connect, prefix_of
    from antiphon.store.mariadb.statements import understood

    booked = subject()
    prefix = prefix_of(url)
    services = list(booked.app.services)
    session = await connect(address(url, services[0]))
    try:
        await session.ask(f"CREATE TEMPORARY TABLE accepted ({booked.id_field} VARCHAR(64) PRIMARY KEY)")
        await session.ask("CREATE TEMPORARY TABLE received (message_id VARCHAR(255) PRIMARY KEY, times INTEGER)")
        await session.run_many("INSERT INTO accepted VALUES (?)", [(each,) for each in accepted])
        await session.run_many("INSERT INTO received VALUES (?, ?)", list(received.items()))
        for name, rows in UNITED.items():
            every = " UNION ALL ".join(f"SELECT * FROM {prefix}{service}.{rows}" for service in services)
            await session.ask(f"CREATE VIEW {name} AS {every}")
        answers = {}
        for name, sql in questions(booked).items():
            for service in services:
                sql = sql.replace(f" {service}.", f" {prefix}{service}.")
            sql = sql.replace("total(", "sum(").replace("BY key", "BY `key`")
            found = (await session.run(understood(sql))).rows
            answers[name] = int(found[0][0] or 0)
        return answers
    finally:
        await session.close()
