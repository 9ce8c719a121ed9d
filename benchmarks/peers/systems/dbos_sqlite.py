"""DBOS on SQLite: its tables and the effects in one file, with a write-ahead log."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from dbos import run_dbos_database_migrations

from benchmarks.peers import job
from benchmarks.peers.systems import dbos_workflows

DATABASE = job.database()
WORKER = ["-m", __name__]
EMBEDDED = False

_URL = f"sqlite:///{DATABASE}"


async def prepare() -> None:
    """The file, in the mode that suits several processes, with the tables of DBOS."""
    job.connection()
    run_dbos_database_migrations(_URL)


@asynccontextmanager
async def publishing(*, handling: bool) -> AsyncIterator[Callable[[list[dict[str, Any]]], Awaitable[object]]]:
    """Enqueue from here."""
    async with dbos_workflows.publishing(_URL) as publish:
        yield publish


async def clean() -> None:
    """Nothing outside the folder."""


if __name__ == "__main__":
    dbos_workflows.serve(_URL, at_once=8, isolation="SERIALIZABLE")
