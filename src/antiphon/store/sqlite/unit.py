"""What can be done inside one write transaction: the service's own SQL, the log, and settling."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from antiphon.errors import DeclarationError, RolledBack
from antiphon.model.envelope import Envelope
from antiphon.ports import TIMEOUT_OF, Clock
from antiphon.store.rows import bucket_of, is_plain, log_row, plain_row
from antiphon.store.sqlite.connection import store_error
from antiphon.store.sqlite.queries import query
from antiphon.store.sqlite.tail import Run
from antiphon.store.sqlite.writer import Group
from antiphon.store.units import SqlUnit

_APPEND = query("append")
_APPEND_PLAIN = query("append_plain")


class _Over:
    """Stands in for the connection of a unit that is over."""

    __slots__ = ("_why",)

    def __init__(self, why: Exception) -> None:
        self._why = why

    def __getattr__(self, name: str) -> Any:
        raise self._why


class _Watched:
    """Around a unit's own statements: what SQLite raises is the store's fault, and raised as such."""

    __slots__ = ("_unit",)

    def __init__(self, unit: SqliteUnit) -> None:
        self._unit = unit

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, sqlite3.Error):
            self._unit.failed(error)


class SqliteUnit(SqlUnit):
    """One unit of work on the writer's connection (``ports.Unit``).

    Nothing here awaits anything: a statement costs microseconds, a thread would cost a hundred.
    """

    __slots__ = (
        "_connection",
        "_cursor",
        "_group",
        "_has_savepoint",
        "_path",
        "appended",
    )

    def __init__(self, connection: sqlite3.Connection, group: Group, path: Path, clock: Clock, store_ms: int) -> None:
        super().__init__(clock, store_ms)
        self._connection = connection
        self._cursor = connection.cursor()
        self._cursor.row_factory = sqlite3.Row
        self._group = group
        self._path = path
        self._has_savepoint = False
        self.appended: list[Run] = []

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection that this unit's transaction is open on (for SQLAlchemy sessions)."""
        return self._connection

    async def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run one statement; returns the rows that it changed."""
        try:
            return self._cursor.execute(sql, parameters).rowcount
        except sqlite3.Error as error:
            self.failed(error)
            raise

    async def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> int:
        """Run one statement for each of *rows*; returns the rows changed."""
        try:
            return self._cursor.executemany(sql, rows).rowcount
        except sqlite3.Error as error:
            self.failed(error)
            raise

    async def fetch_all(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """All rows: a cursor left half-fetched would keep the WAL from being checkpointed."""
        try:
            return self._cursor.execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            self.failed(error)
            raise

    def failed(self, error: sqlite3.Error) -> None:
        """Raise our own error if *error* is the store's fault. If SQLite has rolled everything back, the unit
        is over: what came now would be committed by itself, statement by statement."""
        ours = store_error(error, self._path)
        if not self._connection.in_transaction:
            self.end(ours or RolledBack(f"SQLite rolled back the whole transaction ({error})", where=str(self._path)))
        if ours is not None:
            raise ours from error

    def end(self, why: Exception | None = None) -> None:
        """Nothing more can be done in this unit; who tries is told *why*."""
        if not isinstance(self._connection, _Over):
            self._connection = self._cursor = _Over(why or DeclarationError("the unit is over"))  # type: ignore[assignment]

    async def savepoint(self) -> None:
        """Mark a place to return to; the earlier mark is given up."""
        execute = self._cursor.execute
        with _Watched(self):
            if self._has_savepoint:
                execute("RELEASE antiphon_event")
            execute("SAVEPOINT antiphon_event")
        self._has_savepoint = True

    async def rollback_to_savepoint(self) -> None:
        """Undo everything after the mark, and give the mark up."""
        with _Watched(self):
            self._connection.execute("ROLLBACK TO antiphon_event")
            self._connection.execute("RELEASE antiphon_event")
        self._has_savepoint = False
        self.appended.clear()

    async def append(self, events: Iterable[tuple[Envelope, int]]) -> None:
        """Append to the log; an id that is there already is skipped."""
        events = list(events)
        if not events:
            return
        envelopes = [envelope for envelope, _ in events]
        self._group.types.update(dict.fromkeys([envelope.type for envelope in envelopes]))
        sql, row_of = (_APPEND_PLAIN, plain_row) if all(map(is_plain, envelopes)) else (_APPEND, log_row)
        rows = [(*row_of(each, origin), bucket_of(each.key, each.id)) for each, origin in events]
        with _Watched(self):
            count = self._connection.executemany(sql, rows).rowcount
            if sql is _APPEND:
                answered = [(f"{TIMEOUT_OF}{each.request_id}",) for each in envelopes if each.request_id is not None]
                self._connection.executemany(query("end_timer"), answered)
        if count == len(rows):
            last = self._connection.execute("SELECT last_insert_rowid()").fetchone()[0]
            self.appended.append((last - count + 1, events))

    async def append_for(self, envelope: Envelope, origin: int, handler_id: int) -> None:
        """Append an event that one handler alone is owed."""
        bucket = bucket_of(envelope.key, envelope.id)
        await self.execute(query("append_for"), (*log_row(envelope, origin), bucket, handler_id))
        self.wake((envelope.type,))

    async def one_at_a_time(self) -> None:
        """All units are."""

    @property
    def busy(self) -> bool:
        """Never: nothing here awaits anything."""
        return False

    def query(self, name: str) -> str:
        """The SQL of a named block."""
        return query(name)

    def wake(self, types: Iterable[str]) -> None:
        """Wake, once this has committed, whoever listens to one of *types*."""
        self._group.types.update(dict.fromkeys(types))
