"""FastStream on RabbitMQ: durable queues, persistent messages, publisher confirms."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from faststream import FastStream
from faststream.rabbit import Channel, RabbitBroker, RabbitQueue

from benchmarks.peers import job, servers
from benchmarks.peers.systems.faststream_models import OrderBilled, OrderPlaced

DATABASE = job.database()
WORKER = ["-m", __name__]
EMBEDDED = False

_PREFIX = job.place().prefix
PLACED = RabbitQueue(f"{_PREFIX}.placed", durable=True)
BILLED = RabbitQueue(f"{_PREFIX}.billed", durable=True)

broker = RabbitBroker(servers.SERVERS["rabbitmq"].address, default_channel=Channel(prefetch_count=100), logger=None)
app = FastStream(broker, logger=None)


@broker.subscriber(PLACED)
@broker.publisher(BILLED, persist=True)
async def bill(order: OrderPlaced) -> OrderBilled:
    """One upsert, then the follow-up; the message is acknowledged afterwards."""
    return OrderBilled(**job.bill(order.model_dump()))


@broker.subscriber(BILLED)
async def count(billed: OrderBilled) -> None:
    """Count it."""
    job.count(billed.model_dump())


async def prepare() -> None:
    """Declare the queues, so that nothing is published before they are there."""
    async with RabbitBroker(servers.SERVERS["rabbitmq"].address, logger=None) as admin:
        for queue in (PLACED, BILLED):
            await admin.declare_queue(queue)


@asynccontextmanager
async def publishing(*, handling: bool) -> AsyncIterator[Callable[[list[dict[str, Any]]], Awaitable[object]]]:
    """Publish, each from a task of its own; confirmed."""
    async with RabbitBroker(servers.SERVERS["rabbitmq"].address, logger=None) as shop:

        async def publish(order: dict[str, Any]) -> None:
            await shop.publish(OrderPlaced(**order), PLACED, persist=True)

        yield lambda orders: job.concurrently(publish, orders)


async def clean() -> None:
    """Delete the queues."""
    async with RabbitBroker(servers.SERVERS["rabbitmq"].address, logger=None) as admin:
        for queue in (PLACED, BILLED):
            await (await admin.declare_queue(queue)).delete(if_unused=False, if_empty=False)


if __name__ == "__main__":
    asyncio.run(app.run())
