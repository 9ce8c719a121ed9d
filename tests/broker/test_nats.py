"""What is NATS's own: headers, and what the server takes for the same message."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from antiphon.ports import Bus, LoggedEvent, Unreadable
from antiphon.runtime.clock import SystemClock
from antiphon.runtime.inlet import Inlet
from antiphon.store.sqlite.store import SqliteStore
from antiphon.testing.conformance.bus import A, B, events_of, everything, opened
from antiphon.testing.conformance.engines import buses_of
from antiphon.testing.conformance.kit import envelope, numbers
from antiphon.wire import STRUCTURED
from tests.broker.engines import required
from tests.servers import engine_called

pytestmark = pytest.mark.anyio
NATS = engine_called("nats")


async def test_ids_that_differ_in_spaces_are_two_events(tmp_path: Path) -> None:
    """A header has none at its ends, and no ends of lines: taken as message ids, they were the same one."""
    sent = [
        msgspec.structs.replace(envelope(1), id=each) for each in ("a b", "a b ", "a\nb", "a\r\nb", "a  b", "\u00e9")
    ]
    async with buses_of(NATS, await required(NATS)) as make, opened(make, tmp_path) as (bus,):
        await bus.send("s", 0, len(sent), sent)
        while len(found := events_of(await bus.receive("receiver", {A: 0, B: 0}, 100))) < len(sent):
            pass
        assert [each.envelope for each in found] == sent


@pytest.mark.parametrize("places", ["0", "999999", "1,999999", "9" * 30, "9" * 5_000, "-1", "x"])
async def test_pieces_that_are_not_there_block_nobody(places: str, tmp_path: Path) -> None:
    """Whoever may publish may write anything into a header."""
    async with buses_of(NATS, await required(NATS)) as make, opened(make, tmp_path) as (bus,):
        mine: Any = bus
        headers = {"antiphon-pieces": places, "content-type": STRUCTURED}
        await mine._js().publish(f"{mine._prefix}.somebody.anything", b"", headers=headers)
        await bus.send("s", 0, 1, [envelope(1)])
        await _comes_after_what_cannot_be_read(bus)


#: The server's own words as somebody's message, headers that are no text, and fewer bytes than any header has.
HEADERS = {
    "no messages": b"NATS/1.0\r\nStatus: 404\r\n\r\n",
    "time-out": b"NATS/1.0\r\nStatus: 408\r\nNats-Pending-Messages: x\r\n\r\n",
    "nobody there": b"NATS/1.0 503\r\n\r\n",
    "a status that is no text": b"NATS/1.0 \xff\xfe\xff\r\n\r\n",
    "a description that is no text": b"NATS/1.0 404 \xff\xfe\xff\r\n\r\n",
    "a name that is no text": b"NATS/1.0\r\n\xff: x\r\nce-\x00: 1\r\n\r\n",
    "too short": b"NATS",
}


@pytest.mark.parametrize("headers", HEADERS.values(), ids=HEADERS)
async def test_headers_that_are_none_block_nobody(headers: bytes, tmp_path: Path) -> None:
    """The connection is read on, and what comes after them comes, confirmations too."""
    url = await required(NATS)
    async with buses_of(NATS, url) as make, opened(make, tmp_path) as (bus,):
        mine: Any = bus
        await put_raw(url, f"{mine._prefix}.somebody.anything", headers)
        await bus.send("s", 0, 1, [envelope(1)])
        await _comes_after_what_cannot_be_read(bus)


async def test_where_nothing_is_old_nothing_is_removed(tmp_path: Path) -> None:
    """Also from the stream's very first message on, which the server takes for all of them."""
    async with buses_of(NATS, await required(NATS)) as make, opened(make, tmp_path) as (bus,):
        mine: Any = bus
        await bus.send("s", 0, 2, [envelope(1), envelope(2)])
        await mine.purge(0)
        assert await everything(bus) == [1, 2]


async def test_a_stream_that_was_made_anew_is_read_from_its_beginning(tmp_path: Path) -> None:
    """Its numbers begin again, or are not those of the broker that was there before: nothing is passed over."""
    clock = SystemClock()
    store = SqliteStore(tmp_path / "store.db", clock=clock, owner="test")
    await store.open()
    async with buses_of(NATS, await required(NATS)) as make, opened(make, tmp_path) as (bus,):
        async with store.unit() as unit:
            await unit.move_position(f"read:{A}", 5_000)
        await bus.send("s", 0, 3, [envelope(n) for n in (1, 2, 3)])
        running = asyncio.create_task(Inlet("receiver", [A, B], store, bus, clock).run())
        try:
            async with asyncio.timeout(30):
                while await store.head() < 3 and not running.done():
                    await clock.sleep(0.02)
        finally:
            running.cancel()
            await asyncio.wait([running])
        assert sorted(numbers(await store.read_log(0, 10))) == [1, 2, 3]
        assert (await store.positions())[f"read:{A}"] == 3
    await store.close()


async def put_raw(url: str, subject: str, headers: bytes) -> None:
    """Publish a message without data, by the protocol alone."""
    reader, writer = await asyncio.open_connection(*url.rpartition("/")[2].split(":"))
    try:
        writer.write(b'CONNECT {"verbose":false,"headers":true}\r\n')
        writer.write(b"HPUB %s %d %d\r\n%s\r\nPING\r\n" % (subject.encode(), len(headers), len(headers), headers))
        while await reader.readline() != b"PONG\r\n":
            pass
    finally:
        writer.close()


async def _comes_after_what_cannot_be_read(bus: Bus) -> None:
    async with asyncio.timeout(30):
        while len(found := await bus.receive("receiver", {A: 0, B: 0}, 10)) < 2:
            pass
    hostile, good = found
    assert isinstance(hostile, Unreadable)
    assert isinstance(good, LoggedEvent)
