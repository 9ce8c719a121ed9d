"""FastStream on Kafka: consumer groups, an offset committed after each message, confirmed publishing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from confluent_kafka import Producer
from faststream import AckPolicy, FastStream
from faststream.confluent import KafkaBroker

from benchmarks.peers import job, servers
from benchmarks.peers.systems.faststream_models import OrderBilled, OrderPlaced

DATABASE = job.database()
WORKER = ["-m", __name__]
EMBEDDED = False

_PREFIX = job.place().prefix
PLACED, BILLED = f"{_PREFIX}.placed", f"{_PREFIX}.billed"
_BOOTSTRAP = servers.SERVERS["kafka"].address.partition("//")[2]
_ASK_S = 10.0

broker = KafkaBroker(_BOOTSTRAP, acks="all", enable_idempotence=True, logger=None)
app = FastStream(broker, logger=None)


@broker.subscriber(
    PLACED, group_id=f"{_PREFIX}.billing", auto_offset_reset="earliest", ack_policy=AckPolicy.NACK_ON_ERROR
)
@broker.publisher(BILLED)
async def bill(order: OrderPlaced) -> OrderBilled:
    """One upsert, then the follow-up; the offset is committed afterwards."""
    return OrderBilled(**job.bill(order.model_dump()))


@broker.subscriber(
    BILLED, group_id=f"{_PREFIX}.counter", auto_offset_reset="earliest", ack_policy=AckPolicy.NACK_ON_ERROR
)
async def count(billed: OrderBilled) -> None:
    """Count it."""
    job.count(billed.model_dump())


async def prepare() -> None:
    """Have the topics made, so that nothing is published before: a cluster makes what it is asked for."""
    asking = Producer({"bootstrap.servers": _BOOTSTRAP, "allow.auto.create.topics": True})
    for topic in (PLACED, BILLED):
        asking.list_topics(topic, timeout=_ASK_S)


@asynccontextmanager
async def publishing(*, handling: bool) -> AsyncIterator[Callable[[list[dict[str, Any]]], Awaitable[object]]]:
    """Publish, each from a task of its own; confirmed by all replicas."""
    async with KafkaBroker(_BOOTSTRAP, acks="all", enable_idempotence=True, logger=None) as shop:

        async def publish(order: dict[str, Any]) -> None:
            await shop.publish(OrderPlaced(**order), PLACED, key=order["customer"].encode())

        yield lambda orders: job.concurrently(publish, orders)


async def clean() -> None:
    """Nothing: the cluster is the benchmark's own, and ends with it."""


if __name__ == "__main__":
    asyncio.run(app.run())
