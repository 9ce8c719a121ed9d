"""Where the stores of an app are kept: in files of a directory, or in a database server."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from antiphon.errors import DeclarationError
from antiphon.model.events import EventType
from antiphon.ports import Clock
from antiphon.store.base import SqlStore
from antiphon.store.bus import LogBus
from antiphon.store.desk import Desk, desk_owner, desks_on
from antiphon.store.sqlite.place import LocalPlace, PlaceOf

if TYPE_CHECKING:
    from antiphon.store.mariadb.connection import Address as MariaAddress
    from antiphon.store.postgres.connection import Address as PostgresAddress

#: The name of the bus among the stores.
BUS = "bus"


class Engine(Protocol):
    """Makes the stores of one app, and the bus between them, where it is such a log. None of them is open yet."""

    #: What its SQL is called, where a service's tables are written for several.
    dialect: str

    def store(self, name: str, *, clock: Clock, owner: str, tables: dict[str, str]) -> SqlStore:
        """The store of a service, or of all of them."""

    def bus(self, *, clock: Clock, owner: str) -> LogBus:
        """The bus beside them."""

    def desks(
        self, clock: Clock, event_types: Mapping[str, EventType] | None
    ) -> AbstractAsyncContextManager[list[Desk]]:
        """A desk on each store that is there, the bus last."""


class Files:
    """A SQLite file each, in one directory."""

    dialect = "sqlite"

    def __init__(self, data: Path, place_of: PlaceOf = LocalPlace) -> None:
        self._data = data
        self._place_of = place_of

    def store(self, name: str, *, clock: Clock, owner: str, tables: dict[str, str]) -> SqlStore:
        """``<data>/<name>.db``."""
        from antiphon.store.sqlite.store import SqliteStore

        path = self._data / f"{name}.db"
        return SqliteStore(path, clock=clock, owner=owner, tables=tables, place_of=self._place_of)

    def bus(self, *, clock: Clock, owner: str) -> LogBus:
        """``<data>/bus.db``."""
        from antiphon.store.sqlite.bus import SqliteBus

        return SqliteBus(self._data / f"{BUS}.db", clock=clock, owner=owner, place_of=self._place_of)

    def desks(
        self, clock: Clock, event_types: Mapping[str, EventType] | None
    ) -> AbstractAsyncContextManager[list[Desk]]:
        """On each file that is one."""
        from antiphon.store.sqlite.desks import open_desks

        return open_desks(self._data, clock, event_types)


class _Server(ABC):
    """A place for each store on the database server at *url*. Raises DeclarationError for what is no such address."""

    dialect: str
    #: Its driver, and what one installs to have it.
    driver: tuple[str, str]

    def __init__(self, url: str) -> None:
        library, extra = self.driver
        if find_spec(library) is None:
            raise DeclarationError(
                f"the library of {self.dialect}:// is not installed", mend=f"pip install 'antiphon[{extra}]'"
            )
        self._url = url
        self._where(BUS)

    @abstractmethod
    def _where(self, name: str) -> Any:
        """The address of the store *name*. Raises DeclarationError."""

    @abstractmethod
    def store(self, name: str, *, clock: Clock, owner: str, tables: dict[str, str]) -> SqlStore:
        """The store at that address."""

    @abstractmethod
    def bus(self, *, clock: Clock, owner: str) -> LogBus:
        """The bus beside them."""

    @abstractmethod
    async def _names(self) -> list[str]:
        """What stores there are, the bus last. Raises StoreError."""

    @asynccontextmanager
    async def desks(self, clock: Clock, event_types: Mapping[str, EventType] | None) -> AsyncIterator[list[Desk]]:
        """On each store that is there. Runs nothing. Raises StoreError."""
        names = await self._names()
        stores = [self.store(name, clock=clock, owner=desk_owner(clock), tables={}) for name in names]
        async with desks_on(stores, event_types) as desks:
            yield desks


class Postgres(_Server):
    """A schema each, in the PostgreSQL database at *url*."""

    dialect = "postgresql"
    driver = ("psycopg", "postgres")

    def _where(self, name: str) -> PostgresAddress:
        from antiphon.store.postgres.connection import address

        return address(self._url, name)

    def store(self, name: str, *, clock: Clock, owner: str, tables: dict[str, str]) -> SqlStore:
        """The schema of that name."""
        from antiphon.store.postgres.store import PostgresStore

        return PostgresStore(self._where(name), clock=clock, owner=owner, tables=tables)

    def bus(self, *, clock: Clock, owner: str) -> LogBus:
        """The schema ``bus``."""
        from antiphon.store.postgres.bus import PostgresBus

        return PostgresBus(self._where(BUS), clock=clock, owner=owner)

    async def _names(self) -> list[str]:
        from antiphon.store.postgres.catalogue import stores_at

        return await stores_at(self._url, BUS)


class Maria(_Server):
    """A database each, on the MariaDB server at *url*."""

    dialect = "mariadb"
    driver = ("asyncmy", "mariadb")

    def _where(self, name: str) -> MariaAddress:
        from antiphon.store.mariadb.connection import address

        return address(self._url, name)

    def store(self, name: str, *, clock: Clock, owner: str, tables: dict[str, str]) -> SqlStore:
        """The database of the URL's name and that one."""
        from antiphon.store.mariadb.store import MariaStore

        return MariaStore(self._where(name), clock=clock, owner=owner, tables=tables)

    def bus(self, *, clock: Clock, owner: str) -> LogBus:
        """The database that ends with ``bus``."""
        from antiphon.store.mariadb.bus import MariaBus

        return MariaBus(self._where(BUS), clock=clock, owner=owner)

    async def _names(self) -> list[str]:
        from antiphon.store.mariadb.catalogue import stores_at

        return await stores_at(self._url, BUS)


_SERVERS: dict[str, type[Postgres | Maria]] = {
    "postgresql": Postgres,
    "postgres": Postgres,
    "mariadb": Maria,
    "mysql": Maria,
}


def engine_at(url: str | None, data: Path, place_of: PlaceOf = LocalPlace) -> Engine:
    """The engine at *url*; files in *data* where there is none. Raises DeclarationError."""
    if url is None:
        return Files(data, place_of)
    scheme, separator, _ = url.partition("://")
    if scheme not in _SERVERS or not separator:
        raise DeclarationError(
            f"no store is known at {scheme}://" if separator else "the store's address is no URL",
            mend="There are postgresql://user@host/database and mariadb://user@host/database; files need none",
        )
    return _SERVERS[scheme](url)


def desks_at(
    url: str | None, data: Path, clock: Clock, event_types: Mapping[str, EventType] | None = None
) -> AbstractAsyncContextManager[list[Desk]]:
    """A desk on each store at *url*, or in *data*, the bus last. Raises DeclarationError, StoreError."""
    return engine_at(url, data).desks(clock, event_types)
