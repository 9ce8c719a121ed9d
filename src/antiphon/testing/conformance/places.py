"""Where the checks make their stores and buses: at places of nobody else's, which are gone at the end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antiphon.ports import Clock, MakeBus
from antiphon.runtime.clock import SystemClock
from antiphon.store.sqlite.bus import SqliteBus
from antiphon.store.sqlite.store import SqliteStore
from antiphon.testing.clock import ServerTime
from antiphon.testing.conformance.kit import MakeStore

if TYPE_CHECKING:
    from antiphon.store.postgres.connection import Address
    from antiphon.store.postgres.store import PostgresStore


def unique_name() -> str:
    """A name that nobody else has."""
    return f"conformance_{SystemClock().new_id().replace('-', '_')}"


@asynccontextmanager
async def files_of_stores(url: str) -> AsyncIterator[MakeStore]:
    """Stores in SQLite files."""

    def make(path: Path, *, clock: Clock, owner: str) -> SqliteStore:
        return SqliteStore(path / "store.db", clock=clock, owner=owner)

    yield make


@asynccontextmanager
async def files_of_buses(url: str) -> AsyncIterator[MakeBus]:
    """Buses in SQLite files."""

    def make(path: Path, *, clock: Clock, owner: str, **place: Any) -> SqliteBus:
        return SqliteBus(path / "bus.db", clock=clock, owner=owner)

    yield make


@asynccontextmanager
async def schemas_of_stores(url: str) -> AsyncIterator[MakeStore]:
    """Stores in schemas of the PostgreSQL database at *url*."""
    from antiphon.store.postgres.store import PostgresStore

    times: dict[Path, ServerTime] = defaultdict(ServerTime)
    async with _schemas(url) as schemas:

        def make(path: Path, *, clock: Clock, owner: str) -> PostgresStore:
            return PostgresStore(schemas[path], clock=clock, owner=owner, server_ms=times[path].ms(clock))

        yield make


@asynccontextmanager
async def schemas_of_buses(url: str) -> AsyncIterator[MakeBus]:
    """Buses in schemas of the PostgreSQL database at *url*."""
    from antiphon.store.postgres.bus import PostgresBus

    async with _schemas(url) as schemas:

        def make(path: Path, *, clock: Clock, owner: str, **place: Any) -> PostgresBus:
            return PostgresBus(schemas[path], clock=clock, owner=owner)

        yield make


class _Schemas(defaultdict[Path, "Address"]):
    """A schema for each path, of a name that is nobody else's."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url

    def __missing__(self, path: Path) -> Address:
        from antiphon.store.postgres.connection import address

        self[path] = found = address(self._url, unique_name())
        return found


@asynccontextmanager
async def _schemas(url: str) -> AsyncIterator[_Schemas]:
    from psycopg import AsyncConnection, sql

    schemas = _Schemas(url)
    try:
        yield schemas
    finally:
        async with await AsyncConnection.connect(url, autocommit=True) as server:
            for each in schemas.values():
                await server.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(each.schema)))
