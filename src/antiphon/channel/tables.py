"""How a foreign database is read: a SELECT at a time, and nothing is ever written."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from antiphon.channel.helping import PATIENCE_S, translated
from antiphon.ports import Clock


class Reader(Protocol):
    """A connection that reads."""

    #: What stands for a parameter in its SQL.
    mark: str
    #: What stands around a name.
    quote: str

    async def open(self) -> None:
        """Connect. Raises BusError."""

    async def rows(self, sql: str, parameters: Sequence[Any]) -> list[dict[str, Any]]:
        """The rows of a query, as of now. Raises BusError."""

    async def close(self) -> None:
        """Disconnect. Idempotent."""


class SqliteReader:
    """A SQLite file."""

    mark, quote = "?", '"'

    def __init__(self, url: str, where: str, clock: Clock) -> None:
        self._path = unquote(urlsplit(url).path)
        self._where = where
        self._clock = clock

    async def open(self) -> None:
        """See that it is there. Raises BusError."""
        await self.rows("SELECT 1", ())

    async def rows(self, sql: str, parameters: Sequence[Any]) -> list[dict[str, Any]]:
        """On a connection of its own: none stays open that would keep the file's log from being cut."""

        def read() -> list[dict[str, Any]]:
            connection = sqlite3.connect(f"file:{self._path}?mode=ro", uri=True, timeout=PATIENCE_S / 2)
            try:
                connection.row_factory = sqlite3.Row
                return [dict(row) for row in connection.execute(sql, tuple(parameters))]
            finally:
                connection.close()

        async with translated(self._where, "cannot be read", sqlite3.Error):
            found: list[dict[str, Any]] = await self._clock.run_blocking(read)
            return found

    async def close(self) -> None:
        """Nothing is open."""


class PostgresReader:
    """A PostgreSQL database."""

    mark, quote = "%s", '"'

    def __init__(self, url: str, where: str, clock: Clock) -> None:
        self._url = url
        self._where = where
        self._connection: Any = None

    async def open(self) -> None:
        """Connect, to read only. Raises BusError."""
        import psycopg
        from psycopg.rows import dict_row

        self._errors = psycopg.Error
        async with translated(self._where, "cannot be reached", psycopg.Error):
            connect = psycopg.AsyncConnection.connect
            self._connection = await connect(self._url, autocommit=True, row_factory=dict_row)
            await self._connection.set_read_only(True)

    async def rows(self, sql: str, parameters: Sequence[Any]) -> list[dict[str, Any]]:
        """In a transaction of its own."""
        async with translated(self._where, "cannot be read", self._errors):
            cursor = await self._connection.execute(sql, parameters)
            found: list[dict[str, Any]] = await cursor.fetchall()
            return found

    async def close(self) -> None:
        """Disconnect. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


class MariaReader:
    """A MariaDB or MySQL database."""

    mark, quote = "%s", "`"

    def __init__(self, url: str, where: str, clock: Clock) -> None:
        self._url = urlsplit(url)
        self._where = where
        self._connection: Any = None

    async def open(self) -> None:
        """Connect, to read only. Raises BusError."""
        import asyncmy
        from asyncmy.errors import MySQLError

        self._errors = MySQLError
        async with translated(self._where, "cannot be reached", MySQLError):
            self._connection = await asyncmy.connect(
                host=self._url.hostname or "127.0.0.1",
                port=self._url.port or 3306,
                user=unquote(self._url.username or ""),
                password=unquote(self._url.password or ""),
                db=unquote(self._url.path.removeprefix("/")),
                autocommit=True,
                charset="utf8mb4",
                connect_timeout=PATIENCE_S,
            )
            await self._run("SET SESSION TRANSACTION READ ONLY", ())

    async def rows(self, sql: str, parameters: Sequence[Any]) -> list[dict[str, Any]]:
        """In a transaction of its own."""
        async with translated(self._where, "cannot be read", self._errors):
            return await self._run(sql, parameters)

    async def close(self) -> None:
        """Disconnect. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    async def _run(self, sql: str, parameters: Sequence[Any]) -> list[dict[str, Any]]:
        from asyncmy.cursors import DictCursor

        async with self._connection.cursor(cursor=DictCursor) as cursor:
            await cursor.execute(sql, tuple(parameters))
            found: list[dict[str, Any]] = list(await cursor.fetchall())
            return found


READERS: dict[str, type[SqliteReader | PostgresReader | MariaReader]] = {
    "sqlite": SqliteReader,
    "postgresql": PostgresReader,
    "postgres": PostgresReader,
    "mariadb": MariaReader,
    "mysql": MariaReader,
}
