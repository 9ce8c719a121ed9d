"""The standard library's ``sqlite3``, spoken by apsw: as much of it as the store uses, and nothing the store notices.

A file system written in Python can be put under apsw's SQLite, and not under that of the standard library. What the
store does with a connection (its SQL, transactions, checkpoints, backups) runs unchanged on this one.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import apsw

from antiphon.store.sqlite import backups, connection, desks

_WRITES = frozenset({"INSERT", "UPDATE", "DELETE", "REPLACE"})


class Row(Sequence[Any]):
    """A row with index and name access, as ``sqlite3.Row``."""

    __slots__ = ("_names", "_values")

    def __init__(self, names: Sequence[str], values: tuple[Any, ...]) -> None:
        self._names = names
        self._values = values

    def __getitem__(self, key: Any) -> Any:
        return self._values[self._names.index(key) if isinstance(key, str) else key]

    def __len__(self) -> int:
        return len(self._values)

    def keys(self) -> Sequence[str]:
        """The names of the columns."""
        return self._names


class Cursor:
    """A cursor. All rows are fetched when the statement is executed."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.row_factory: Any = None
        self.rowcount = -1
        self._rows: Iterator[Any] = iter(())

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Cursor:
        """Run one statement."""
        sql = self.connection.instead.get(sql, sql)
        with self.connection.alone() as database:
            cursor = database.cursor()
            if self.row_factory is not None:
                cursor.row_trace = _named
            self._rows = iter(list(cursor.execute(sql, tuple(parameters))))
            self.rowcount = database.changes() if _writes(sql) else -1
        return self

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> Cursor:
        """Run one statement for each of *rows*."""
        self.rowcount = 0
        with self.connection.alone() as database:
            for row in rows:
                database.execute(sql, tuple(row))
                self.rowcount += database.changes()
        return self

    def fetchone(self) -> Any:
        """The next row, or None."""
        return next(self._rows, None)

    def fetchall(self) -> list[Any]:
        """The rows that are left."""
        return list(self._rows)

    def __iter__(self) -> Iterator[Any]:
        return self._rows


class Connection:
    """A connection."""

    def __init__(self, database: apsw.Connection) -> None:
        self._database = database
        self._lock = threading.RLock()  # apsw raises where SQLite would wait for another thread
        #: Statements to run another one instead of.
        self.instead: dict[str, str] = {}

    @contextmanager
    def alone(self) -> Iterator[apsw.Connection]:
        """The connection for one thread, its errors those of ``sqlite3``."""
        with self._lock:
            try:
                yield self._database
            except apsw.Error as error:
                raise _spoken(error) from error

    def cursor(self) -> Cursor:
        """A cursor."""
        return Cursor(self)

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Cursor:
        """Run one statement."""
        return Cursor(self).execute(sql, parameters)

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> Cursor:
        """Run one statement for each of *rows*."""
        return Cursor(self).executemany(sql, rows)

    def create_function(self, name: str, arguments: int, function: Callable[..., Any], *, deterministic: bool) -> None:
        """Have SQL call *function* as *name*."""
        with self.alone() as database:
            database.create_scalar_function(name, function, arguments, deterministic=deterministic)

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        return bool(self._database.in_transaction)

    @property
    def total_changes(self) -> int:
        """Rows changed since it was opened."""
        with self.alone() as database:
            return database.total_changes()

    def backup(self, target: Connection) -> None:
        """Copy everything to *target* in one step."""
        with self.alone() as source, target.alone() as copy, copy.backup("main", source, "main") as copying:
            copying.step(-1)

    def close(self) -> None:
        """Close it."""
        with self.alone() as database:
            database.close()


@contextmanager
def spoken_by_apsw(vfs: str, opened: Callable[[Connection], None] = lambda _: None) -> Iterator[None]:
    """Meanwhile the store's connections are apsw's, on the file system *vfs*; *opened* is told of each."""

    def connect(path: str | Path, *, uri: bool = False, timeout: float = 5, **_ignored: Any) -> Connection:
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | (apsw.SQLITE_OPEN_URI if uri else 0)
        made = Connection(apsw.Connection(str(path), flags, vfs))
        made.execute(f"PRAGMA busy_timeout = {int(timeout * 1000)}")
        opened(made)
        return made

    # Everything else (errors, codes, Row as a mark) is the standard library's own.
    module = SimpleNamespace(**{**vars(sqlite3), "connect": connect})
    with (
        mock.patch.object(connection, "sqlite3", module),
        mock.patch.object(backups, "sqlite3", module),
        mock.patch.object(desks, "sqlite3", module),
    ):
        yield


def _named(cursor: apsw.Cursor, values: tuple[Any, ...]) -> Row:
    return Row([column[0] for column in cursor.get_description()], values)


def _writes(sql: str) -> bool:
    return sql.split(maxsplit=1)[0].upper() in _WRITES


def _spoken(error: apsw.Error) -> sqlite3.Error:
    kind = sqlite3.IntegrityError if isinstance(error, apsw.ConstraintError) else sqlite3.OperationalError
    spoken = kind(str(error))
    spoken.sqlite_errorcode = getattr(error, "extendedresult", 0)
    return spoken
