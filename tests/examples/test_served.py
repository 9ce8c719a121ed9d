"""The example systems on each database server, whole: in processes of their own, and with every connection broken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import pytest

from examples.flight_booking import app
from examples.flight_booking.demo import subject
from tests.examples import mariadb, postgres
from tests.examples.kit import (
    ENDS_OF_ENROLLMENTS,
    all_ended,
    booked,
    ends_of_enrollments,
    in_a_process_each,
    in_one_process,
    mail_server,
)
from tests.store.mariadb import databases
from tests.store.postgres import database

pytestmark = pytest.mark.anyio

BOOKINGS, BREAKS = 60, 3


class Server(NamedTuple):
    """A database server: a place of the test's own there, its connections broken, the audit's answers."""

    name: str
    place: Callable[[], AbstractContextManager[str]]
    all_broken: Callable[[str], Awaitable[int]]
    audit: Callable[..., Awaitable[dict[str, int]]]


SERVERS = [
    Server("postgres", database, postgres.all_broken, postgres.audit),
    Server("mariadb", databases, mariadb.all_broken, mariadb.audit),
]


@pytest.fixture(params=SERVERS, ids=lambda server: server.name)
def server(request: pytest.FixtureRequest) -> Server:
    """Each of them."""
    found: Server = request.param
    return found


@pytest.fixture
def url(server: Server) -> Iterator[str]:
    """A database of the test's own, or an address for several."""
    with server.place() as found:
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
    server: Server, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
                assert await server.all_broken(url) > 0
            await mailbox.holding((await all_ended(client, bookings, accepted))["TICKETED"])
    received = Counter(str(message["Message-ID"]) for message in mailbox.messages)
    answers = await server.audit(url, accepted, received)
    assert {finding: count for finding, count in answers.items() if ": " in finding and count} == {}
    assert answers["accepted"] == answers["ticketed"] + answers["cancelled"] == BOOKINGS
