"""SQLAlchemy sessions inside a unit: the user's ORM on the very transaction that settles the event."""

from __future__ import annotations

from typing import Any

from sqlalchemy import create_engine
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.pool import StaticPool

from antiphon.errors import DeclarationError
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
        return AsyncSession(engine, expire_on_commit=False, join_transaction_mode="create_savepoint")


def _engine(connection: Any) -> AsyncEngine:
    engine = create_engine("sqlite://", creator=lambda: connection, poolclass=StaticPool, _initialize=False)
    engine.dialect.__class__ = _InlineDialect
    return AsyncEngine(engine)
