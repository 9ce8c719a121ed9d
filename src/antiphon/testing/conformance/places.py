"""Where the checks make their stores and buses: at places of nobody else's, which are gone at the end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from antiphon.ports import Clock, MakeBus
from antiphon.runtime.clock import SystemClock
from antiphon.store.base import SqlStore
from antiphon.store.bus import LogBus
from antiphon.store.sqlite.bus import SqliteBus
from antiphon.store.sqlite.store import SqliteStore
from antiphon.testing.clock import ServerTime
from antiphon.testing.conformance.kit import MakeStore

if TYPE_CHECKING:
    from antiphon.store.mariadb.connection import Address as Database
    from antiphon.store.postgres.connection import Address

W = TypeVar("W")


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


class _Places(dict[Path, W]):
    """A place on a server for each path, made by *place_of* of how many there are."""

    def __init__(self, place_of: Callable[[int], W]) -> None:
        super().__init__()
        self._place_of = place_of

    def __missing__(self, path: Path) -> W:
        self[path] = found = self._place_of(len(self))
        return found

    def stores(self, kind: Callable[..., SqlStore]) -> MakeStore:
        """Makes stores there; those of one path have one server's time."""
        times: dict[Path, ServerTime] = defaultdict(ServerTime)

        def make(path: Path, *, clock: Clock, owner: str) -> SqlStore:
            return kind(self[path], clock=clock, owner=owner, server_ms=times[path].ms(clock))

        return make

    def buses(self, kind: Callable[..., LogBus]) -> MakeBus:
        """Makes buses there."""

        def make(path: Path, *, clock: Clock, owner: str, **place: Any) -> LogBus:
            return kind(self[path], clock=clock, owner=owner)

        return make


@asynccontextmanager
async def schemas_of_stores(url: str) -> AsyncIterator[MakeStore]:
    """Stores in schemas of the PostgreSQL database at *url*."""
    from antiphon.store.postgres.store import PostgresStore

    async with _schemas(url) as schemas:
        yield schemas.stores(PostgresStore)


@asynccontextmanager
async def schemas_of_buses(url: str) -> AsyncIterator[MakeBus]:
    """Buses in schemas of the PostgreSQL database at *url*."""
    from antiphon.store.postgres.bus import PostgresBus

    async with _schemas(url) as schemas:
        yield schemas.buses(PostgresBus)


@asynccontextmanager
async def _schemas(url: str) -> AsyncIterator[_Places[Address]]:
    """Schemas of names that are nobody else's."""
    from psycopg import AsyncConnection, sql

    from antiphon.store.postgres.connection import address

    schemas = _Places(lambda _: address(url, unique_name()))
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

    async with _databases(url) as databases:
        yield databases.stores(MariaStore)


@asynccontextmanager
async def databases_of_buses(url: str) -> AsyncIterator[MakeBus]:
    """Buses in databases of the MariaDB server at *url*."""
    from antiphon.store.mariadb.bus import MariaBus

    async with _databases(url) as databases:
        yield databases.buses(MariaBus)


@asynccontextmanager
async def _databases(url: str) -> AsyncIterator[_Places[Database]]:
    """Databases of names that are nobody else's."""
    from antiphon.store.mariadb.connection import address, connect

    own = f"{url.rstrip('/')}/c{SystemClock().new_id().replace('-', '')}"
    databases = _Places(lambda nr: address(own, f"s{nr}"))
    try:
        yield databases
    finally:
        server = await connect(address(own, "none"), database=False)
        try:
            for each in databases.values():
                await server.say(f'DROP DATABASE IF EXISTS "{each.database}"')
        finally:
            await server.close()
