"""FastStream on core NATS: the server keeps nothing, and hands a message to who is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from faststream import FastStream
from faststream.nats import NatsBroker

from benchmarks.peers import job, servers
from benchmarks.peers.systems.faststream_models import OrderBilled, OrderPlaced

DATABASE = job.database()
WORKER = ["-m", __name__]
EMBEDDED = False

_PREFIX = job.place().prefix
PLACED, BILLED = f"{_PREFIX}.placed", f"{_PREFIX}.billed"

broker = NatsBroker(servers.SERVERS["nats"].address, logger=None)
app = FastStream(broker, logger=None)


@broker.subscriber(PLACED)
@broker.publisher(BILLED)
async def bill(order: OrderPlaced) -> OrderBilled:
    """One upsert, then the follow-up."""
    return OrderBilled(**job.bill(order.model_dump()))


@broker.subscriber(BILLED)
async def count(billed: OrderBilled) -> None:
    """Count it."""
    job.count(billed.model_dump())


async def prepare() -> None:
    """Nothing: core NATS has no queues to make."""


@asynccontextmanager
async def publishing(*, handling: bool) -> AsyncIterator[Callable[[list[dict[str, Any]]], Awaitable[object]]]:
    """Publish, each from a task of its own."""
    async with NatsBroker(servers.SERVERS["nats"].address, logger=None) as shop:

        async def publish(order: dict[str, Any]) -> None:
            await shop.publish(OrderPlaced(**order), PLACED)

        yield lambda orders: job.concurrently(publish, orders)


async def clean() -> None:
    """Nothing is left behind."""


if __name__ == "__main__":
    asyncio.run(app.run())
