"""Celery on Redis: tasks are acknowledged late, results are not kept."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from celery import Celery

from benchmarks.peers import job, servers

DATABASE = job.database()
WORKER = [
    *("-m", "celery", "-A", __name__, "worker", "--loglevel", "ERROR", "--concurrency", "2"),
    *("--without-gossip", "--without-mingle", "--without-heartbeat"),
]
EMBEDDED = False

app = Celery("orders", broker=servers.SERVERS["redis"].address)
app.conf.update(
    task_ignore_result=True,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=16,
    worker_enable_remote_control=False,
    broker_connection_retry_on_startup=True,
    broker_transport_options={
        "visibility_timeout": job.REDELIVERY_S,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
        "unacked_mutex_expire": job.REDELIVERY_S,
        "global_keyprefix": job.place().prefix,
    },
)


@app.task
def bill(order: dict[str, Any]) -> None:
    """One upsert, then the follow-up."""
    count.delay(job.bill(order))


@app.task
def count(billed: dict[str, Any]) -> None:
    """Count it."""
    job.count(billed)


async def prepare() -> None:
    """Nothing: queues are made when they are used."""


@asynccontextmanager
async def publishing(*, handling: bool) -> AsyncIterator[Callable[[list[dict[str, Any]]], Awaitable[object]]]:
    """Publish one after the other over one connection."""
    with app.producer_pool.acquire(block=True) as producer:

        async def publish(orders: list[dict[str, Any]]) -> None:
            for order in orders:
                bill.apply_async((order,), producer=producer)

        yield publish


async def clean() -> None:
    """Delete the queues."""
    servers.clean_redis(job.place().prefix)
