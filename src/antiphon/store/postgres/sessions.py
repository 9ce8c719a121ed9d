"""SQLAlchemy sessions inside a unit on PostgreSQL: the user's ORM on the very transaction that settles the event."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from psycopg import AsyncCursor
from sqlalchemy import Engine, make_url
from sqlalchemy.dialects.postgresql.psycopg import AsyncAdapt_psycopg_connection, PGDialectAsync_psycopg
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.pool import NullPool
from sqlalchemy.util import await_only

from antiphon.policy.statements import only_reads
from antiphon.store.postgres.unit import PostgresUnit

_BEGIN = b"SAVEPOINT antiphon_session"
_COMMIT = b"RELEASE antiphon_session"
_ROLLBACK = b"ROLLBACK TO antiphon_session; RELEASE antiphon_session"
_OWN = "sa_savepoint"


class _Cursor(AsyncCursor[Any]):
    """A cursor whose statements are the unit's."""

    unit: PostgresUnit

    async def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
        """Run one statement, unless it would end what is not its own."""
        text = str(query)
        if _OWN not in text:
            only_reads(text)
        async with self.unit.foreign(text):
            return await super().execute(query, params, **options)

    async def executemany(self, query: Any, params_seq: Any, **options: Any) -> None:
        """Run one statement for many rows."""
        async with self.unit.foreign(str(query)):
            await super().executemany(query, params_seq, **options)


class _Connection:
    """What SQLAlchemy takes for a connection: the unit's, whose transaction is not its to end."""

    def __init__(self, unit: PostgresUnit) -> None:
        self._unit = unit

    def __getattr__(self, name: str) -> Any:
        return getattr(self._unit.connection, name)

    def cursor(self) -> _Cursor:
        """A cursor that understands SQLAlchemy's marks."""
        cursor = _Cursor(self._unit.connection)
        cursor.unit = self._unit
        return cursor

    async def run(self, sql: bytes) -> None:
        """Set a savepoint, release it or go back to it."""
        async with self._unit.foreign(""):
            await self._unit.connection.execute(sql)


class _Dialect(PGDialectAsync_psycopg):
    """PostgreSQL on the connection of a unit. What SQLAlchemy takes for a transaction is a savepoint of it."""

    supports_statement_cache = True

    def __init__(self, server_version: int, schema: str) -> None:
        super().__init__(dbapi=self.import_dbapi(), use_native_hstore=False)  # type: ignore[no-untyped-call]
        self._version = divmod(server_version, 10_000)
        self._schema = schema
        known: Any = SimpleNamespace(connection=SimpleNamespace(dbapi_connection=None))
        # What it would ask the server for is answered below.
        self.initialize(known)  # type: ignore[no-untyped-call]

    def _get_server_version_info(self, connection: Any) -> tuple[int, int]:
        return self._version

    def _get_default_schema_name(self, connection: Any) -> str:
        return self._schema

    def get_default_isolation_level(self, dbapi_conn: Any) -> Any:
        """As the unit's connection has it."""
        return "READ COMMITTED"

    def _set_backslash_escapes(self, connection: Any) -> None:
        self._backslash_escapes = False

    def do_begin(self, dbapi_connection: Any) -> None:
        """Set the savepoint."""
        self._run(dbapi_connection, _BEGIN)

    def do_commit(self, dbapi_connection: Any) -> None:
        """Release it: the runtime commits."""
        self._run(dbapi_connection, _COMMIT)

    def do_rollback(self, dbapi_connection: Any) -> None:
        """Go back to it."""
        self._run(dbapi_connection, _ROLLBACK)

    def do_close(self, dbapi_connection: Any) -> None:
        """The store closes it."""

    def do_terminate(self, dbapi_connection: Any) -> None:
        """The store closes it."""

    @staticmethod
    def _run(dbapi_connection: Any, sql: bytes) -> None:
        await_only(dbapi_connection.driver_connection.run(sql))


class _Session(AsyncSession):
    async def __aexit__(self, *error: object) -> None:
        # Not in a task of its own, as SQLAlchemy has it: that would be a wait for something outside the database.
        await self.close()


class Sessions:
    """Makes an AsyncSession on a unit's transaction: ``async with sessions(unit) as session``."""

    def __init__(self) -> None:
        self._dialect: _Dialect | None = None
        self._compiled: Any = None

    def __call__(self, unit: PostgresUnit) -> AsyncSession:
        if self._dialect is None:
            self._dialect = _Dialect(unit.connection.info.server_version, unit.schema)
        dialect = self._dialect
        adapted: Any = AsyncAdapt_psycopg_connection

        def connect() -> Any:
            return adapted(dialect.dbapi, _Connection(unit))

        pool = NullPool(connect, reset_on_return=None, dialect=dialect)
        engine = Engine(pool, dialect, make_url("postgresql+psycopg://"))
        # What statements have been compiled to is the same on every unit.
        self._compiled = engine._compiled_cache = self._compiled or engine._compiled_cache
        return _Session(AsyncEngine(engine), expire_on_commit=False, close_resets_only=False)
