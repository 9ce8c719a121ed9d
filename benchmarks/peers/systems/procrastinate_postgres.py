"""procrastinate on PostgreSQL: its jobs and the effects in one database, in transactions of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from procrastinate import App, JobContext, PsycopgConnector
from psycopg_pool import AsyncConnectionPool

from benchmarks.peers import job, servers

DATABASE = servers.postgres_database(job.place().prefix)
WORKER = ["-m", __name__]
EMBEDDED = False

_AT_ONCE = 20
_BILL, _COUNT = job.BILL.replace("?", "%s"), job.COUNT

app = App(connector=PsycopgConnector(conninfo=DATABASE, min_size=2, max_size=_AT_ONCE + 2))
effects = AsyncConnectionPool(DATABASE, min_size=2, max_size=_AT_ONCE, open=False, kwargs={"autocommit": True})


@app.task(name="bill")
async def bill(order: dict[str, Any]) -> None:
    """One upsert, then the follow-up."""
    async with effects.connection() as connection:
        await connection.execute(_BILL, (order["customer"], order["cents"]))
    await count.defer_async(billed=job.billed_of(order))


@app.task(name="count")
async def count(billed: dict[str, Any]) -> None:
    """Count it."""
    job.note(billed["sent_us"])
    async with effects.connection() as connection:
        await connection.execute(_COUNT)


@app.periodic(cron="* * * * * */5")
@app.task(name="retry_stalled_jobs", queueing_lock="retry_stalled_jobs", pass_context=True)
async def retry_stalled_jobs(context: JobContext, timestamp: int) -> None:
    """The documented recipe for the jobs of workers that died."""
    for stalled in await app.job_manager.get_stalled_jobs(seconds_since_heartbeat=job.REDELIVERY_S):
        await app.job_manager.retry_job(stalled)


async def serve() -> None:
    """Work until the process is killed."""
    async with effects, app.open_async():
        await app.run_worker_async(
            concurrency=_AT_ONCE, update_heartbeat_interval=2, stalled_worker_timeout=job.REDELIVERY_S
        )


async def prepare() -> None:
    """A database of its own, with the tables of procrastinate."""
    servers.create_postgres(job.place().prefix)
    async with app.open_async():
        await app.schema_manager.apply_schema_async()


@asynccontextmanager
async def publishing(*, handling: bool) -> AsyncIterator[Callable[[list[dict[str, Any]]], Awaitable[object]]]:
    """Defer a batch with one statement."""
    async with app.open_async():
        yield lambda orders: bill.batch_defer_async(*({"order": order} for order in orders))


async def clean() -> None:
    """Drop the database."""
    servers.drop_postgres(job.place().prefix)


if __name__ == "__main__":
    asyncio.run(serve())
