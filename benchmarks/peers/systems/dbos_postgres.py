"""DBOS on PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from dbos import run_dbos_database_migrations

from benchmarks.peers import job, servers
from benchmarks.peers.systems import dbos_workflows

DATABASE = servers.postgres_database(job.place().prefix)
WORKER = ["-m", __name__]
EMBEDDED = False


async def prepare() -> None:
    """A database of its own, with the tables of DBOS."""
    servers.create_postgres(job.place().prefix)
    run_dbos_database_migrations(DATABASE)


@asynccontextmanager
async def publishing(*, handling: bool) -> AsyncIterator[Callable[[list[dict[str, Any]]], Awaitable[object]]]:
    """Enqueue from here."""
    async with dbos_workflows.publishing(DATABASE) as publish:
        yield publish


async def clean() -> None:
    """Drop the database."""
    servers.drop_postgres(job.place().prefix)


if __name__ == "__main__":
    dbos_workflows.serve(DATABASE, at_once=16, isolation="READ COMMITTED")
