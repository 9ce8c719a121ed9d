"""dramatiq on Redis: one worker process with threads."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from benchmarks.peers import job, servers

DATABASE = job.database()
WORKER = ["-m", "dramatiq", __name__, "--processes", "1", "--threads", "4"]
EMBEDDED = False

broker = RedisBroker(
    url=servers.SERVERS["redis"].address,
    namespace=job.place().prefix,
    heartbeat_timeout=job.REDELIVERY_S * 1000,
    maintenance_chance=100_000,  # look for abandoned messages at 10 % of the commands
)
dramatiq.set_broker(broker)


@dramatiq.actor
def bill(order: dict[str, Any]) -> None:
    """One upsert, then the follow-up."""
    count.send(job.bill(order))


@dramatiq.actor
def count(billed: dict[str, Any]) -> None:
    """Count it."""
    job.count(billed)


async def prepare() -> None:
    """Nothing: queues are made when they are used."""


@asynccontextmanager
async def publishing(*, handling: bool) -> AsyncIterator[Callable[[list[dict[str, Any]]], Awaitable[object]]]:
    """Publish one after the other over one connection."""

    async def publish(orders: list[dict[str, Any]]) -> None:
        for order in orders:
            bill.send(order)

    yield publish


async def clean() -> None:
    """Delete the queues."""
    servers.clean_redis(job.place().prefix)
