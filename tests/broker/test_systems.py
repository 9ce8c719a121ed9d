"""The example systems on each broker, whole: in processes of their own, and with the line to the broker cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from antiphon.demo.audit import audit
from antiphon.testing.conformance.engines import Engine, named_bus
from antiphon.testing.kafka import KafkaServer
from antiphon.testing.line import line_to
from antiphon.testing.servers import running
from examples.enrollment import app as enrollment
from examples.flight_booking import app
from examples.flight_booking.demo import subject
from tests.broker.engines import BROKERS, KAFKA, on_each, required
from tests.broker.tansu import Tansu
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

pytestmark = pytest.mark.anyio

BOOKINGS, CUTS = 60, 3
#: A server takes seconds to start.
ONCE_OR_OFTEN = pytest.mark.parametrize("times", [1, pytest.param(CUTS, marks=pytest.mark.soak)])
Step = Callable[[], Awaitable[None]]


@pytest.fixture
async def url(engine: Engine, tmp_path: Path) -> AsyncIterator[str]:
    """A bus on the engine that is nobody else's."""
    at = await required(engine)
    async with named_bus(at, {*app.services, *enrollment.services}) as url:
        yield url


@on_each
async def test_enrollment_in_a_process_for_each_service(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Services that share nothing but the broker enroll a customer, and take back what got no bonus."""
    monkeypatch.setenv("ANTIPHON_BUS", url)
    async with in_a_process_each("examples.enrollment:app", ["customer", "transaction"], tmp_path) as client:
        assert await ends_of_enrollments(client) == ENDS_OF_ENROLLMENTS


@pytest.mark.parametrize("engine", [each for each in BROKERS if each is not KAFKA], ids=lambda engine: engine.name)
async def test_flight_booking_with_the_line_cut(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bookings are accepted while the broker cannot be reached, and each comes to its one end when it can."""
    async with line_to(url) as line:
        await bookings_come_to_their_ends(line.url, tmp_path, monkeypatch, line.cut, line.mend)
        assert line.broken > 0


async def test_flight_booking_on_kafka_with_the_line_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, where clients go wherever the cluster tells them to."""
    require("Kafka's mock cluster", KafkaServer.is_there())
    server = KafkaServer()
    try:
        await server.start()
        async with line_to(server.url) as line:
            await server.advertise(line.port)
            await bookings_come_to_their_ends(line.url, tmp_path, monkeypatch, line.cut, line.mend)
            assert line.broken > 0
    finally:
        server.close()


@on_each
@ONCE_OR_OFTEN
async def test_flight_booking_with_the_broker_killed(
    engine: Engine, times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a broker has confirmed survives its own death; what it has not is sent again."""
    if engine.server is None:
        pytest.skip(f"{engine.name} is not started here")
    if engine.server.forgets:
        pytest.skip(f"{engine.server.__name__} keeps in memory what it confirms")
    require(f"a server of {engine.name}", engine.server.is_there())
    async with running(engine.server) as server:

        async def kill() -> None:
            await server.settle()
            await server.kill()

        await bookings_come_to_their_ends(server.url, tmp_path, monkeypatch, kill, server.start, times)


async def test_flight_booking_on_tansu_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same where Kafka's protocol is spoken by a broker that dies, and starts again with what it has stored.

    It dies while nothing is on its way: killed amid, Tansu 0.6 forgets records that it has confirmed, to any client.
    """
    require("Tansu", Tansu.is_there())
    async with running(Tansu) as server:
        await bookings_come_to_their_ends(
            server.url, tmp_path, monkeypatch, server.kill, server.start, when_all_is_quiet=True
        )


async def bookings_come_to_their_ends(
    url: str,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    break_it: Step,
    mend_it: Step,
    times: int = CUTS,
    *,
    when_all_is_quiet: bool = False,
) -> None:
    """Book, before the broker breaks and while it is broken, several times; then look into the databases."""
    bookings = subject()
    accepted: list[str] = []
    each = BOOKINGS // times // 2
    async with mail_server() as (mailbox, port):
        monkeypatch.setenv("SMTP_HOST", "127.0.0.1")
        monkeypatch.setenv("SMTP_PORT", str(port))
        async with in_one_process(app, data, url) as client:
            # The bus is in use before it breaks: to join it may take longer than all that follows.
            accepted += await booked(client, bookings, BOOKINGS, 1)
            await all_ended(client, bookings, accepted)
            for cut in range(times):
                accepted += await booked(client, bookings, 2 * cut * each, each)
                if when_all_is_quiet:
                    await all_ended(client, bookings, accepted)
                await break_it()
                accepted += await booked(client, bookings, (2 * cut + 1) * each, each)
                await mend_it()
            await mailbox.holding((await all_ended(client, bookings, accepted))["TICKETED"])
    found = audit(bookings, data, accepted, Counter(str(message["Message-ID"]) for message in mailbox.messages))
    assert found.findings == {}
    assert len(accepted) == BOOKINGS + 1
