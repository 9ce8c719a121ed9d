"""SQLAlchemy sessions inside a unit: the user's ORM on the very transaction that settles the event."""

from __future__ import annotations

from typing import Any

from sqlalchemy import create_engine
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.pool import StaticPool

from antiphon.errors import DeclarationError, RolledBack
from antiphon.policy.statements import only_reads
from antiphon.ports import Unit
from antiphon.store.sqlite.unit import SqliteUnit


class _InlineDialect(SQLiteDialect_pysqlite):
    """SQLite on the connection of a unit. Its statements run inline, in microseconds; they await nothing.

    The transaction belongs to the runtime: SQLAlchemy's own begin, commit and rollback of the whole
    connection do nothing. A session works within a savepoint.
    """

    is_async = True
    supports_statement_cache = True

    def do_begin(self, dbapi_connection: Any) -> None:
        """Begun already."""

    def do_commit(self, dbapi_connection: Any) -> None:
        """Committed by the runtime."""

    def do_rollback(self, dbapi_connection: Any) -> None:
        """Rolled back by the runtime."""

    def do_close(self, dbapi_connection: Any) -> None:
        """Closed by the store."""

    def do_execute(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        """Run one statement, unless it would be committed by itself or end what is not its own."""
        _check(cursor, statement)
        cursor.execute(statement, parameters)

    def do_executemany(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        """Run one statement for many rows."""
        _check(cursor, statement)
        cursor.executemany(statement, parameters)

    def do_execute_no_params(self, cursor: Any, statement: str, context: Any = None) -> None:
        """Run one statement that has no parameters."""
        _check(cursor, statement)
        cursor.execute(statement)


def _check(cursor: Any, statement: str) -> None:
    if not cursor.connection.in_transaction:
        raise RolledBack("SQLite has rolled back the whole transaction", mend="Let the error end the handler")
    if "sa_savepoint" not in statement:
        only_reads(statement)


class Sessions:
    """Makes an AsyncSession on a unit's transaction: ``async with sessions(unit) as session``."""

    def __init__(self) -> None:
        self._engines: dict[int, AsyncEngine] = {}

    def __call__(self, unit: Unit) -> AsyncSession:
        if not isinstance(unit, SqliteUnit):
            raise DeclarationError("an AsyncSession needs a SQLite store here")
        connection = unit.connection
        engine = self._engines.get(id(connection))
        if engine is None:
            engine = _engine(connection)
            self._engines[id(connection)] = engine
        # Closed for good at the handler's end: what it still did then would be in somebody else's transaction.
        return AsyncSession(
            engine, expire_on_commit=False, join_transaction_mode="create_savepoint", close_resets_only=False
        )


def _engine(connection: Any) -> AsyncEngine:
    engine = create_engine("sqlite://", creator=lambda: connection, poolclass=StaticPool, _initialize=False)
    engine.dialect.__class__ = _InlineDialect
    return AsyncEngine(engine)
