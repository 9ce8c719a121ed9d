"""taskiq on Redis streams: one worker process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from taskiq_redis import RedisStreamBroker

from benchmarks.peers import job, servers

DATABASE = job.database()
WORKER = ["-m", "taskiq", "worker", f"{__name__}:broker", "--workers", "1", "--log-level", "ERROR"]
EMBEDDED = False

broker = RedisStreamBroker(
    servers.SERVERS["redis"].address,
    queue_name=job.place().prefix,
    consumer_group_name=f"{job.place().prefix}.workers",
    consumer_id="0",
    idle_timeout=job.REDELIVERY_S * 1000,
    unacknowledged_lock_timeout=job.REDELIVERY_S,
)


@broker.task
async def bill(order: dict[str, Any]) -> None:
    """One upsert, then the follow-up; acknowledged when it has ended."""
    await count.kiq(job.bill(order))


@broker.task
async def count(billed: dict[str, Any]) -> None:
    """Count it."""
    job.count(billed)


async def prepare() -> None:
    """Nothing: the stream and its group are made when they are used."""


@asynccontextmanager
async def publishing(*, handling: bool) -> AsyncIterator[Callable[[list[dict[str, Any]]], Awaitable[object]]]:
    """Publish, each from a task of its own."""
    await broker.startup()
    try:
        yield lambda orders: job.concurrently(bill.kiq, orders)
    finally:
        await broker.shutdown()


async def clean() -> None:
    """Delete the stream."""
    servers.clean_redis(job.place().prefix)
