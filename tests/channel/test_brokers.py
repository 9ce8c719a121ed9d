"""What is a broker's own in a channel: how it names messages, what it refuses, what it takes away."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import nats
import pytest

from antiphon.runtime.runtime import Runtime
from tests.broker.test_nats import HEADERS, put_raw
from tests.channel.foreign import Nats, RabbitMQ, foreign
from tests.channel.kit import body, relay_app, seen_in, until

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


async def _has_seen(runtime: Runtime, numbers: list[int]) -> bool:
    return sorted(await seen_in(runtime)) == numbers
