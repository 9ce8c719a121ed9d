"""FastStream on NATS JetStream: a stream in files, durable pull consumers, acknowledged publishing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from faststream import FastStream
from faststream.nats import JStream, NatsBroker, PullSub
from nats.js.api import ConsumerConfig, StorageType

from benchmarks.peers import job, servers
from benchmarks.peers.systems.faststream_models import OrderBilled, OrderPlaced

DATABASE = job.database()
WORKER = ["-m", __name__]
EMBEDDED = False

_PREFIX = job.place().prefix
PLACED, BILLED = f"{_PREFIX}.placed", f"{_PREFIX}.billed"
STREAM = JStream(_PREFIX, subjects=[PLACED, BILLED], storage=StorageType.FILE)
CONSUMER = ConsumerConfig(ack_wait=job.REDELIVERY_S, max_ack_pending=1000)

broker = NatsBroker(servers.SERVERS["nats"].address, logger=None)
app = FastStream(broker, logger=None)


@broker.subscriber(PLACED, stream=STREAM, durable="billing", pull_sub=PullSub(batch_size=100), config=CONSUMER)
@broker.publisher(BILLED, stream=STREAM)
async def bill(order: OrderPlaced) -> OrderBilled:
    """One upsert, then the follow-up; the message is acknowledged afterwards."""
    return OrderBilled(**job.bill(order.model_dump()))


@broker.subscriber(BILLED, stream=STREAM, durable="counter", pull_sub=PullSub(batch_size=100), config=CONSUMER)
async def count(billed: OrderBilled) -> None:
    """Count it."""
    job.count(billed.model_dump())


async def prepare() -> None:
    """Make the stream, so that nothing is published before it is there."""
    async with NatsBroker(servers.SERVERS["nats"].address, logger=None) as admin:
        await admin.config.connection_state.stream.add_stream(
            name=_PREFIX, subjects=[PLACED, BILLED], storage=StorageType.FILE
        )


@asynccontextmanager
async def publishing(*, handling: bool) -> AsyncIterator[Callable[[list[dict[str, Any]]], Awaitable[object]]]:
    """Publish, each from a task of its own; acknowledged by the server."""
    async with NatsBroker(servers.SERVERS["nats"].address, logger=None) as shop:

        async def publish(order: dict[str, Any]) -> None:
            await shop.publish(OrderPlaced(**order), PLACED, stream=STREAM.name)

        yield lambda orders: job.concurrently(publish, orders)


async def clean() -> None:
    """Delete the stream with its consumers."""
    async with NatsBroker(servers.SERVERS["nats"].address, logger=None) as admin:
        await admin.config.connection_state.stream.delete_stream(STREAM.name)


if __name__ == "__main__":
    asyncio.run(app.run())
