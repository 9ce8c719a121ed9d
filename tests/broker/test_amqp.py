"""The client of AMQP, against a server."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import aiormq
import pytest
from pamqp.commands import Basic

from antiphon.broker.amqp import Channel, Connection, Incoming, Lost, Outgoing
from antiphon.broker.amqp_url import parameters
from antiphon.errors import DeclarationError
from antiphon.testing.conformance.engines import ENGINES
from antiphon.testing.line import line_to
from tests.broker.engines import required

pytestmark = pytest.mark.anyio
RABBITMQ = next(engine for engine in ENGINES if engine.name == "rabbitmq")


async def test_what_no_queue_would_get_is_named_and_the_rest_is_taken() -> None:
    """Each call is told of its own messages."""
    async with _queue(await required(RABBITMQ)) as (channel, queue):
        nowhere = Outgoing(b"1", "", f"{queue}_not", "", None, is_mandatory=True)
        assert (await channel.publish([nowhere, _message(queue, b"2")])).unroutable == {f"{queue}_not"}
        assert not (await channel.publish([_message(queue, b"3")])).unroutable
        assert [each.body for each in await _first(channel, queue, 2)] == [b"2", b"3"]


async def test_a_body_of_many_frames_and_one_of_none() -> None:
    """As they were sent."""
    bodies = [b"", bytes(range(256)) * 8_192, b"x"]
    async with _queue(await required(RABBITMQ)) as (channel, queue):
        await channel.publish(_message(queue, body) for body in bodies)
        assert [each.body for each in await _first(channel, queue, 3)] == bodies


async def test_fractions_in_headers_stay_fractions() -> None:
    """pika alone makes whole numbers of them."""
    url = await required(RABBITMQ)
    async with _queue(url) as (channel, queue):
        foreign = await aiormq.connect(url)
        properties = Basic.Properties(headers={"share": 0.75, "of": {"each": [1.5]}})
        await (await foreign.channel()).basic_publish(b"", routing_key=queue, properties=properties)
        await foreign.close()
        (came,) = await _first(channel, queue, 1)
        assert came.headers == {"share": 0.75, "of": {"each": [1.5]}}


async def test_what_the_server_refuses_is_said_in_its_words() -> None:
    """And the channel has ended."""
    async with _queue(await required(RABBITMQ)) as (channel, queue):
        with pytest.raises(Lost, match="NOT_FOUND"):
            await channel.find_queue(f"{queue}_not")
        assert channel.is_closed
        with pytest.raises(Lost, match="NOT_FOUND"):
            await channel.publish([_message(queue, b"1")])


async def test_behind_a_server_that_takes_nothing_nothing_piles_up() -> None:
    """What was given up is waited for before more is sent."""
    sent: list[bytes] = []

    def later() -> Iterator[Outgoing]:
        sent.append(b"2")
        yield _message(queue, b"2")

    url = await required(RABBITMQ)
    async with line_to(url) as line, _queue(url) as (_, queue):
        connection = await Connection.to(parameters(line.url))
        channel = await connection.channel()
        line.close_way("there")
        first = asyncio.ensure_future(channel.publish([_message(queue, b"1")]))
        await line.lost()
        first.cancel()
        second = asyncio.ensure_future(channel.publish(later()))
        await asyncio.wait([first])
        await line.cut()
        with pytest.raises(Lost):
            await second
        assert not sent
        await connection.close()


async def test_a_connection_may_be_given_up_amid_its_handshake() -> None:
    """As when a server says nothing more: no error is left to the loop."""
    async with line_to(await required(RABBITMQ)) as line:
        line.close_way("back", after=1)
        connecting = asyncio.ensure_future(Connection.to(parameters(line.url)))
        await line.lost()
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        # What pika does at the end of a connection, it does a turn later.
        for _ in range(3):
            await asyncio.sleep(0)


async def test_who_cannot_connect_is_told_why() -> None:
    """The innermost reason, without the password."""
    url = await required(RABBITMQ)
    with pytest.raises(Lost, match="refused"):
        await Connection.to(parameters("amqp://me:secret@127.0.0.1:1/"))
    with pytest.raises(Lost, match="ACCESS_REFUSED") as error:
        await Connection.to(parameters(url.replace("guest:guest@", "nobody:secret@")))
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ("heartbeat=often", "heartbeat is in seconds, and 'often' is no number of them"),
        ("timeout=soon", "timeout is in seconds, and 'soon' is no number of them"),
        ("auth=kerberos", "auth=kerberos; there are plain, external"),
        ("heartbeat=-1", "heartbeat is in seconds, and '-1' is no number of them"),
        ("timeout=nan", "timeout is in seconds, and 'nan' is no number of them"),
        ("timeout=0", "an option cannot be used"),
    ],
)
def test_an_option_that_cannot_be_used_is_refused(options: str, wrong: str) -> None:
    """Before anything is connected."""
    with pytest.raises(DeclarationError, match=wrong):
        parameters(f"amqp://me:secret@h/?{options}")


def test_certificates_that_are_not_there_are_refused() -> None:
    """Before anything is connected."""
    with pytest.raises(DeclarationError, match="No such file"):
        parameters("amqps://h/?cafile=/nowhere/ca.pem")


def test_what_a_url_says() -> None:
    """With what it does not say as it is usual."""
    plain, full = parameters("amqp://h"), parameters("amqps://me:sec%2Fret@h:1/%2Fmine?heartbeat=9&no_verify_ssl=1")
    assert (plain.host, plain.port, plain.virtual_host, plain.credentials.username) == ("h", 5672, "/", "guest")
    assert (full.port, full.virtual_host, full.credentials.password, full.heartbeat) == (1, "/mine", "sec/ret", 9)


@asynccontextmanager
async def _queue(url: str) -> AsyncIterator[tuple[Channel, str]]:
    """A channel, and a queue of its own."""
    connection = await Connection.to(parameters(url))
    queue = f"test_{uuid.uuid4().hex}"
    try:
        channel = await connection.channel()
        await channel.make_queue(queue)
        yield channel, queue
    finally:
        await (await connection.channel()).delete_queue(queue)
        await connection.close()


def _message(queue: str, body: bytes) -> Outgoing:
    return Outgoing(body, "", queue, "", None)


async def _first(channel: Channel, queue: str, count: int) -> list[Incoming]:
    """The first messages of a queue, or an error after half a minute."""
    came: asyncio.Queue[Incoming] = asyncio.Queue()
    await channel.consume([queue], lambda _, message: came.put_nowait(message), prefetch=10)
    async with asyncio.timeout(30):
        return [await came.get() for _ in range(count)]
