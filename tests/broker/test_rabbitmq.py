"""What is RabbitMQ's own: numbers that hold for one receiver in one process."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiormq
import msgspec
import pytest
from pamqp import encode
from pamqp.commands import Basic

from antiphon.broker.naming import quoted
from antiphon.errors import BusError
from antiphon.ports import Bus, LoggedEvent, Unreadable
from antiphon.runtime.clock import SystemClock
from antiphon.testing.conformance.bus import A, B, Reader, opened
from antiphon.testing.conformance.engines import buses_of
from antiphon.testing.conformance.kit import envelope
from antiphon.testing.conformance.load import insist
from antiphon.testing.line import line_to
from antiphon.wire import STRUCTURED, to_structured
from tests.broker.engines import BROKERS, required

pytestmark = pytest.mark.anyio
RABBITMQ = next(engine for engine in BROKERS if engine.name == "rabbitmq")


@pytest.mark.parametrize("elsewhere", [{A: 10**15, B: 10**15}, {A: 500, B: 0}])
async def test_a_position_that_another_process_has_reached_acknowledges_nothing(
    tmp_path: Path, elsewhere: dict[str, int]
) -> None:
    """A receiver that begins anew, from what its store holds by now, is given what it has not taken."""
    async with buses_of(RABBITMQ, await required(RABBITMQ)) as make, opened(make, tmp_path) as (bus,):
        await bus.send("s", 0, 3, [envelope(n) for n in (1, 2, 3)])
        assert await Reader(bus, takes=False).until(3) == [1, 2, 3]
        again = Reader(bus)
        again.after = dict(elsewhere)
        assert await again.until(3) == [1, 2, 3]


async def test_properties_that_cannot_be_read_block_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A time beyond all years, texts that are no UTF-8, a name of a header that is none: the connection stays, and what
    comes after them comes."""
    known, table = encode.METHODS["shortstr"], encode.METHODS["table"]
    monkeypatch.setitem(encode.METHODS, "timestamp", lambda _: b"\x7f" + 7 * b"\xff")
    monkeypatch.setitem(encode.METHODS, "shortstr", lambda text: b"\x02\xff\xfe" if text == "bad" else known(text))
    monkeypatch.setitem(
        encode.METHODS, "table", lambda each: b"\0\0\0\x04\x01\xfft\x01" if "bad" in each else table(each)
    )
    hostile = [
        Basic.Properties(timestamp=datetime(2026, 1, 1, tzinfo=UTC), content_type=STRUCTURED),
        Basic.Properties(message_id="bad", content_type=STRUCTURED),
        Basic.Properties(content_type="bad"),
        Basic.Properties(headers={"bad": 1}, content_type=STRUCTURED),
    ]
    async with buses_of(RABBITMQ, await required(RABBITMQ)) as make, opened(make, tmp_path) as (bus,):
        for properties in hostile:
            await _publish(bus, to_structured(envelope(1)), properties)
        await bus.send("s", 0, 1, [envelope(2)])
        assert [isinstance(each, LoggedEvent) for each in await _received(bus, 5)] == [True, True, False, True, True]


async def test_the_content_type_says_that_the_body_is_the_event(tmp_path: Path) -> None:
    """Also where the message has attributes as properties, as the binding for AMQP says."""
    headers: Any = {"cloudEvents:id": "other", "cloudEvents:type": "other"}
    async with buses_of(RABBITMQ, await required(RABBITMQ)) as make, opened(make, tmp_path) as (bus,):
        await _publish(
            bus,
            to_structured(envelope(1)),
            Basic.Properties(headers=headers, content_type=f"{STRUCTURED}; charset=utf-8"),
        )
        assert await Reader(bus).until(1) == [1]


async def test_an_id_that_is_too_long_for_a_message_is_sent(tmp_path: Path) -> None:
    """A message's own has 255 bytes; the event has its own as it is."""
    event = msgspec.structs.replace(envelope(1), id="\xe9" * 200)
    async with buses_of(RABBITMQ, await required(RABBITMQ)) as make, opened(make, tmp_path) as (bus,):
        await bus.send("s", 0, 1, [event])
        (found,) = await _received(bus, 1)
        assert isinstance(found, LoggedEvent)
        assert found.envelope == event


async def test_a_queue_that_was_removed_is_made_again(tmp_path: Path) -> None:
    """The broker ends what consumes it, on a connection that goes on: the receiver is told, and has another one."""
    lost = asyncio.Event()
    async with buses_of(RABBITMQ, await required(RABBITMQ)) as make, opened(make, tmp_path) as (bus,):
        mine: Any = bus
        await bus.send("s", 0, 1, [envelope(1)])
        reader = Reader(bus)
        assert await reader.until(1) == [1]
        bus.listen([A, B], lost.set)
        await (await mine._channel()).delete_queue(mine._queue("receiver"))
        async with asyncio.timeout(30):
            await lost.wait()
        with pytest.raises(BusError):
            await reader.read()
        await insist(reader.read)
        await bus.expect({"receiver": [A, B]})
        await bus.send("s", 1, 2, [envelope(2)])
        assert await reader.until(2) == [1, 2]


async def _received(bus: Bus, count: int) -> list[LoggedEvent | Unreadable]:
    """The first *count* of whatever comes."""
    found: list[LoggedEvent | Unreadable] = []
    after = {A: 0, B: 0}
    woken = asyncio.Event()
    undo = bus.listen([A, B], woken.set)
    try:
        async with asyncio.timeout(30):
            while len(found) < count:
                woken.clear()
                came = await bus.receive("receiver", dict(after), 10)
                found += came
                if came:
                    after = dict.fromkeys(after, came[-1].seq)
                else:
                    await woken.wait()
    finally:
        undo()
    return found


async def _publish(bus: Any, body: bytes, properties: Basic.Properties) -> None:
    """As somebody who knows the exchange alone."""
    connection = await aiormq.connect(await required(RABBITMQ))
    try:
        channel = await connection.channel()
        await channel.basic_publish(body, exchange=bus._exchange, routing_key=quoted(A), properties=properties)
    finally:
        await connection.close()


async def test_what_cannot_be_acknowledged_any_more_comes_again(tmp_path: Path) -> None:
    """The line breaks after a receiver has stored what it was given: it goes on over another connection."""
    lost = asyncio.Event()
    async with (
        line_to(await required(RABBITMQ)) as line,
        buses_of(RABBITMQ, line.url) as make,
        opened(make, tmp_path, clock=SystemClock()) as (bus,),
    ):
        await bus.send("s", 0, 3, [envelope(n) for n in (1, 2, 3)])
        reader = Reader(bus)
        assert await reader.until(3) == [1, 2, 3]
        bus.listen([A, B], lost.set)
        await line.cut()
        await lost.wait()
        await line.mend()
        with pytest.raises(BusError):
            await reader.read()
        await insist(lambda: bus.send("s", 3, 4, [envelope(4)]))
        while len(reader.firsts()) < 4:
            await insist(reader.read)
            await asyncio.sleep(0)
        assert reader.firsts() == [1, 2, 3, 4]
