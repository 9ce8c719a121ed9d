"""huey on SQLite: its tasks in one file, the effects in another."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from huey import SqliteHuey

from benchmarks.peers import job

DATABASE = job.database()
WORKER = [
    *("-m", "huey.bin.huey_consumer", f"{__name__}.huey", "--workers", "1", "--no-periodic", "--quiet"),
    *("--delay", "0.01", "--max-delay", "0.02"),
]
EMBEDDED = False

huey = SqliteHuey("orders", filename=str(job.place().folder / "huey.db"), fsync=True, results=False, timeout=60)


@huey.task()
def bill(order: dict[str, Any]) -> None:
    """One upsert, then the follow-up."""
    count(job.bill(order))


@huey.task()
def count(billed: dict[str, Any]) -> None:
    """Count it."""
    job.count(billed)


async def prepare() -> None:
    """Nothing: the file is made when it is used."""


@asynccontextmanager
async def publishing(*, handling: bool) -> AsyncIterator[Callable[[list[dict[str, Any]]], Awaitable[object]]]:
    """Publish one after the other."""

    async def publish(orders: list[dict[str, Any]]) -> None:
        for order in orders:
            bill(order)

    yield publish


async def clean() -> None:
    """Nothing outside the folder."""
