"""FastStream on Redis streams: consumer groups, and a subscriber for each that claims what was abandoned."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from faststream import FastStream
from faststream.redis import RedisBroker, StreamSub

from benchmarks.peers import job, servers
from benchmarks.peers.systems.faststream_models import OrderBilled, OrderPlaced

DATABASE = job.database()
WORKER = ["-m", __name__]
EMBEDDED = False

_PREFIX = job.place().prefix
PLACED, BILLED = f"{_PREFIX}.placed", f"{_PREFIX}.billed"

broker = RedisBroker(servers.SERVERS["redis"].address, logger=None)
app = FastStream(broker, logger=None)


def fresh(stream: str, group: str) -> StreamSub:
    """What is new in a stream, for one member of a group."""
    return StreamSub(stream, group=group, consumer="1", max_records=100, polling_interval=10)


def abandoned(stream: str, group: str) -> StreamSub:
    """What a member took and never acknowledged."""
    return StreamSub(stream, group=group, consumer="2", min_idle_time=job.REDELIVERY_S * 1000, polling_interval=1000)


@broker.subscriber(stream=fresh(PLACED, "billing"))
@broker.subscriber(stream=abandoned(PLACED, "billing"))
@broker.publisher(stream=BILLED)
async def bill(order: OrderPlaced) -> OrderBilled:
    """One upsert, then the follow-up; the message is acknowledged afterwards."""
    return OrderBilled(**job.bill(order.model_dump()))


@broker.subscriber(stream=fresh(BILLED, "counter"))
@broker.subscriber(stream=abandoned(BILLED, "counter"))
async def count(billed: OrderBilled) -> None:
    """Count it."""
    job.count(billed.model_dump())


async def prepare() -> None:
    """Nothing: streams and groups are made when they are used."""


@asynccontextmanager
async def publishing(*, handling: bool) -> AsyncIterator[Callable[[list[dict[str, Any]]], Awaitable[object]]]:
    """Publish, each from a task of its own."""
    async with RedisBroker(servers.SERVERS["redis"].address, logger=None) as shop:

        async def publish(order: dict[str, Any]) -> None:
            await shop.publish(OrderPlaced(**order), stream=PLACED)

        yield lambda orders: job.concurrently(publish, orders)


async def clean() -> None:
    """Delete the streams."""
    servers.clean_redis(_PREFIX)


if __name__ == "__main__":
    asyncio.run(app.run())
