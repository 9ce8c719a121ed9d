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
    from antiphon.store.mariadb.bus import MariaBus
    from antiphon.store.mariadb.connection import Address as Database
    from antiphon.store.mariadb.store import MariaStore
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


@asynccontextmanager
async def databases_of_stores(url: str) -> AsyncIterator[MakeStore]:
    """Stores in databases of the MariaDB server at *url*."""
    from antiphon.store.mariadb.store import MariaStore

    times: dict[Path, ServerTime] = defaultdict(ServerTime)
    async with _databases(url) as databases:

        def make(path: Path, *, clock: Clock, owner: str) -> MariaStore:
            return MariaStore(databases[path], clock=clock, owner=owner, server_ms=times[path].ms(clock))

        yield make


@asynccontextmanager
async def databases_of_buses(url: str) -> AsyncIterator[MakeBus]:
    """Buses in databases of the MariaDB server at *url*."""
    from antiphon.store.mariadb.bus import MariaBus

    async with _databases(url) as databases:

        def make(path: Path, *, clock: Clock, owner: str, **place: Any) -> MariaBus:
            return MariaBus(databases[path], clock=clock, owner=owner)

        yield make


class _Databases(defaultdict[Path, "Database"]):
    """A database for each path, of a name that is nobody else's."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = f"{url.rstrip('/')}/c{SystemClock().new_id().replace('-', '')}"

    def __missing__(self, path: Path) -> Database:
        from antiphon.store.mariadb.connection import address

        self[path] = found = address(self.url, f"s{len(self)}")
        return found


@asynccontextmanager
async def _databases(url: str) -> AsyncIterator[_Databases]:
    from antiphon.store.mariadb.connection import address, connect

    databases = _Databases(url)
    try:
        yield databases
    finally:
        server = await connect(address(databases.url, "none"), database=False)
        try:
            for each in databases.values():
                await server.say(f'DROP DATABASE IF EXISTS "{each.database}"')
        finally:
            await server.close()
