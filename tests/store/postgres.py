"""A PostgreSQL for the tests: at ``$ANTIPHON_TEST_POSTGRES``, at its standard port, or one of their own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from antiphon.runtime.clock import SystemClock
from antiphon.store.base import SqlStore
from tests.conftest import require
from tests.servers import engine_called, url_of

if TYPE_CHECKING:
    from antiphon.store.postgres.store import PostgresStore

POSTGRES = engine_called("postgres")
#: Databases of the tests are named so, and a number.
_NAME = "antiphon_test_"


def name_of(path: Path) -> str:
    """A name for a schema that is as unique as *path*."""
    return f"s{blake2b(str(path).encode(), digest_size=10).hexdigest()}"


@contextmanager
def database() -> Iterator[str]:
    """The address of a database of one's own, dropped afterwards; skips where there is no server."""
    require("psycopg", find_spec("psycopg") is not None)
    import psycopg

    url = (os.environ.get("ANTIPHON_TEST_POSTGRES") or asyncio.run(url_of(POSTGRES))).removesuffix("/postgres")
    try:
        server = psycopg.connect(f"{url}/postgres", autocommit=True, connect_timeout=5)
    except psycopg.OperationalError:
        server = None
    require(f"PostgreSQL at {url}", server is not None)
    assert server is not None
    name = f"{_NAME}{os.getpid()}_{os.urandom(4).hex()}"
    with server:
        server.execute(f"CREATE DATABASE {name}")
        try:
            yield f"{url}/{name}"
        finally:
            server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def on_postgres() -> Iterator[OnPostgres]:
    """PostgreSQL, with a database of one's own; skips where there is no server."""
    with database() as url:
        yield OnPostgres(url)


class OnPostgres:
    """PostgreSQL in its own words (`tests.store.served.Served`)."""

    name = "postgres"
    failing = "SELECT 1 / ?::int"
    divided = "10 / ?::int"
    by_zero = "psycopg.errors.DivisionByZero"
    own_end = "SELECT pg_terminate_backend(pg_backend_pid())"
    notices = True

    def __init__(self, url: str) -> None:
        import psycopg

        from antiphon.store.postgres.unit import PostgresUnit

        self.url = url
        self.twice = psycopg.errors.UniqueViolation
        self.failed = psycopg.errors.DivisionByZero
        self.missing = psycopg.errors.UndefinedTable
        self.wrong = psycopg.Error
        self.unit = PostgresUnit

    def make(self, path: Path, owner: str, **options: Any) -> PostgresStore:
        """A store on a schema that stands for the path, not open yet."""
        from antiphon.store.postgres.connection import address
        from antiphon.store.postgres.store import PostgresStore

        return PostgresStore(address(self.url, name_of(path)), clock=SystemClock(), owner=owner, **options)

    def sleep(self, seconds: float) -> str:
        """A query that takes so long."""
        return f"SELECT pg_sleep({seconds})"

    async def asleep(self, store: SqlStore) -> list[int]:
        """The server's processes of this database that sleep for a minute."""
        rows = await store.fetch_all(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND query LIKE '%pg_sleep(60)' AND state = 'active'"
        )
        return [pid for (pid,) in rows]

    async def break_all(self, store: SqlStore) -> None:
        """Have the server end all connections to this database."""
        asked(self.url, "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity" + OTHERS)

    @asynccontextmanager
    async def writer(self, store: SqlStore) -> AsyncIterator[_Writer]:
        """A writer on a connection of the store's."""
        own = cast("PostgresStore", store)
        async with own._units.connection() as connection:
            yield _Writer(own, connection)


class _Writer:
    def __init__(self, store: PostgresStore, connection: Any) -> None:
        self._store = store
        self._connection = connection

    async def insert(self, row: tuple[Any, ...], *, locked: bool) -> None:
        from antiphon.store.postgres.queries import query
        from antiphon.store.postgres.statements import numbered

        await self._connection.execute(b"BEGIN")
        if locked:
            await self._connection.execute(query("lock_log").encode(), (self._store._lock_id,))
        await self._connection.execute(numbered(query("append")), [[value] for value in (*row, None)])

    async def commit(self) -> None:
        await self._connection.execute(b"COMMIT")


#: Everybody else's connections to this database.
OTHERS = " WHERE datname = current_database() AND pid <> pg_backend_pid()"


def asked(url: str, sql: str) -> Any:
    """One value from the database, over a connection of its own."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(sql.encode()).fetchone()
    assert row is not None
    return row[0]
