"""What is a broker's own in a channel: how it names messages, what it refuses, what it takes away."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import nats
import pytest

from antiphon import App, Service
from antiphon.channel.connecting import sink_at
from antiphon.errors import BusError
from antiphon.model.channels import Message
from antiphon.runtime.clock import SystemClock
from antiphon.runtime.runtime import Runtime
from tests.broker.test_nats import HEADERS, put_raw
from tests.channel.foreign import Foreign, Nats, RabbitMQ, RedisStreams, foreign
from tests.channel.kit import Got, Passed, body, relay_app, seen_in, until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def jetstream(tmp_path: Path) -> AsyncIterator[Nats]:
    """Streams that are nobody else's."""
    async with foreign(Nats, tmp_path) as ready:
        assert isinstance(ready, Nats)
        yield ready


async def test_headers_of_nats_that_are_none_block_nobody(jetstream: Nats, tmp_path: Path) -> None:
    """The server's own words as somebody's message, and headers that are no text: what comes after them comes."""
    app = relay_app(jetstream.url, jetstream.places, name=jetstream.app)
    for headers in HEADERS.values():
        await put_raw(jetstream.url, f"{jetstream.mark}.in.orders", headers)
    await jetstream.put([1])
    async with app.run_in(tmp_path / "data") as runtime:
        assert await until(seen_in, runtime) == [1]


async def test_the_same_message_id_in_two_streams_is_two_messages(jetstream: Nats, tmp_path: Path) -> None:
    """A stream of NATS knows the ids of its own messages, and those of no other."""
    places = [*jetstream.places, f"other_{jetstream.mark}.in"]
    client = await nats.connect(jetstream.url)
    js = client.jetstream()
    await js.add_stream(name=f"other_{jetstream.mark}", subjects=[places[1]])
    try:
        for n, subject in enumerate((f"{jetstream.mark}.in.orders", places[1])):
            await js.publish(subject, json.dumps(body(n)).encode(), headers={"Nats-Msg-Id": "42"})
        app = relay_app(jetstream.url, places, name=jetstream.app)
        async with app.run_in(tmp_path / "data") as runtime:
            await until(_has_seen, runtime, [0, 1])
    finally:
        await js.delete_stream(f"other_{jetstream.mark}")
        await client.close()


async def test_a_queue_that_is_removed_and_made_again_is_consumed_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """RabbitMQ ends what consumes it, on a connection that goes on."""
    async with foreign(RabbitMQ, tmp_path) as system:
        assert isinstance(system, RabbitMQ)
        app = relay_app(system.url, system.places, name=system.app)
        async with app.run_in(tmp_path / "data") as runtime:
            await system.put([0])
            await until(_has_seen, runtime, [0])
            await system.remove()
            await until(lambda: "upstream.receive waits" in caplog.text)
            await system.make()
            await system.put([1])
            await until(_has_seen, runtime, [0, 1])


@pytest.mark.parametrize("kind", [Nats, RabbitMQ, RedisStreams])
async def test_what_comes_after_a_refused_message_of_its_key_is_not_sent(kind: type[Foreign], tmp_path: Path) -> None:
    """A broker that refuses one of a batch, and would take the next of the same key, is not given it: that one would
    come first."""
    async with foreign(kind, tmp_path) as system:
        refuses, takes = await places_of(system)
        app = App(Service("relay"), name=system.app)
        app.channel(system.url, name="downstream", outbound={refuses: Passed, takes: Got})
        sink = sink_at(app.channels["downstream"], SystemClock())
        await sink.open()
        try:
            with pytest.raises(BusError):
                await sink.send([Message(topic=each, body=b"{}", key="k", id=each) for each in (refuses, takes)])
            assert await count_at(system, takes) == 0
            await sink.send([Message(topic=takes, body=b"{}", key="k", id="again")])
            while not await count_at(system, takes):
                pass
        finally:
            await sink.close()


async def places_of(system: Foreign) -> tuple[str, str]:
    """A place that refuses everything, and one that takes it."""
    if isinstance(system, Nats):
        return f"nobody_{system.mark}.x", f"{system.mark}.in.orders"
    if isinstance(system, RedisStreams):
        await system.make_none(system.places[0])
        return system.places[0], system.out
    return f"nobody_{system.mark}", system.places[0]


async def count_at(system: Foreign, place: str) -> int:
    """How many messages lie there."""
    if isinstance(system, Nats | RabbitMQ | RedisStreams):
        return await system.count(place)
    raise AssertionError(system)


async def _has_seen(runtime: Runtime, numbers: list[int]) -> bool:
    return sorted(await seen_in(runtime)) == numbers
