"""The SQLite store: one file that holds a service's tables and its event log."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from antiphon.errors import StoreError
from antiphon.ports import Clock, Lease, LoggedEvent
from antiphon.store.base import SqlStore
from antiphon.store.rows import logged
from antiphon.store.sqlite.checkpoints import checkpoint
from antiphon.store.sqlite.connection import translated
from antiphon.store.sqlite.migrations import clock_offset_ms, make_tables, migrate
from antiphon.store.sqlite.place import Gate, LocalPlace, PlaceOf
from antiphon.store.sqlite.queries import query
from antiphon.store.sqlite.tail import Tail
from antiphon.store.sqlite.unit import SqliteUnit
from antiphon.store.sqlite.writer import Group, Writer

# The WAL is copied into the database file when so many rows have changed, looked at about once a second, and
# emptied when it has grown past so many bytes.
CHECKPOINT_ROWS = 1_000
CHECKPOINT_BYTES = 64 << 20


class SqliteStore(SqlStore):
    """A store on one SQLite file. One object per process and file.

    *tables* are the SQL scripts of the services that live here, by service name; *place_of* tells what
    machine the file lies on.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock,
        owner: str,
        tables: dict[str, str] | None = None,
        place_of: PlaceOf = LocalPlace,
    ) -> None:
        super().__init__(path.stem, str(path), clock=clock, owner=owner, tables=tables)
        self.path = path
        self.place = place_of(path)
        self._offset_ms = 0
        self._open = False
        self._seen_version = 0
        self._copied_changes = 0
        self.tail = Tail()

    async def open(self) -> None:
        """Open or make the file, and bring its tables up to date. Raises StoreError."""
        try:
            self.place.prepare()
            gate = self.place.gate(self.clock)
        except OSError as error:
            raise StoreError(
                f"the folder cannot be used ({error.strerror})", where=str(self.path), mend="Check path and permissions"
            ) from error
        await gate.acquire()
        try:
            with translated(self.path):
                self._connect(gate)
        except BaseException:
            gate.close()
            raise
        gate.release()
        self._gate = gate
        self._life = self.place.life(self.owner, self._tables)
        self._bell = self.place.bell(self.owner, self._rung)
        self._open = True

    def _connect(self, gate: Gate) -> None:
        connection = self.place.connect()
        try:
            connection.execute("BEGIN IMMEDIATE")
            migrate(connection, self.path)
            self._offset_ms = clock_offset_ms(connection, self.clock)
            for service, sql in self._tables.items():
                make_tables(connection, service, sql)
            connection.execute("COMMIT")
            self._reader = self.place.connect(read_only=True)
        except BaseException:
            connection.close()
            raise
        self._rows = self._reader.cursor()
        self._rows.row_factory = sqlite3.Row
        self.writer = Writer(connection, self.path, gate, self.clock, self._committed)

    async def close(self) -> None:
        """Wait for the running commit, then close. Idempotent."""
        if not self._open:
            return
        self._open = False
        self._bell.close()
        # The last connection to close checkpoints the WAL: that, too, belongs behind the gate.
        await self.writer.exclusive(self._disconnect)
        self._gate.close()
        self._life.end()

    def drop(self) -> None:
        """Let go of everything at once, as the kernel does for a process that is killed: what was not committed
        is gone, and the leases are held by somebody dead."""
        if self._open:
            self._open = False
            self._bell.close()
            # A statement that a task which never goes on has not read to its end would keep the lock.
            with suppress(sqlite3.Error):
                self.writer.connection.rollback()
            self._disconnect(self.writer.connection)
            self._gate.close()
            self._life.end()

    def _disconnect(self, connection: sqlite3.Connection) -> None:
        self._reader.close()
        connection.close()

    @asynccontextmanager
    async def unit(self) -> AsyncIterator[SqliteUnit]:
        """A write transaction; durable when the ``async with`` ends (see writer.py)."""
        if not self._open:
            raise StoreError("the store is closed", where=str(self.path))
        async with self.writer.unit() as group:
            unit = SqliteUnit(self.writer.connection, group, self.path, self.clock, self.store_ms())
            try:
                yield unit
                await unit.write_later()
                group.runs += unit.appended
            finally:
                unit.end()

    async def fetch_all(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Read committed data. Rows have index and name access."""
        try:
            return self._rows.execute(sql, parameters).fetchall()
        except sqlite3.Error:
            with translated(self.path):
                raise

    async def rows(self, name: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a named block, as plain tuples."""
        return self.read(name, parameters)

    def query(self, name: str) -> str:
        """The SQL of a named block."""
        return query(name)

    def read(self, name: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a named block, as plain tuples."""
        with translated(self.path):
            return self._reader.execute(query(name), parameters).fetchall()

    def _read_each(self, name: str, parameters: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
        """All rows of a named block for each of *parameters*, as of one moment: a commit between two reads would
        show an event of one type and hide an earlier one of another, which would then be passed over."""
        if len(parameters) == 1:
            return self.read(name, parameters[0])
        reader, sql = self._reader, query(name)
        with translated(self.path):
            reader.execute("BEGIN")
            try:
                return [row for each in parameters for row in reader.execute(sql, each).fetchall()]
            finally:
                if reader.in_transaction:
                    reader.execute("ROLLBACK")

    def store_ms(self) -> int:
        """The store's clock, in milliseconds."""
        return self.clock.boot_ms() + self._offset_ms

    async def release(self, lease: Lease) -> None:
        """Give the lease back, and say so."""
        await super().release(lease)
        self._bell.ring()

    # ------------------------------------------------------------------ reading events

    async def read_owed(
        self, handler_id: int, types: Sequence[str], after_seq: int, limit: int, part: int = 0, parts: int = 1
    ) -> list[LoggedEvent]:
        """The next events of *types* after a position that a partition of a handler is owed.

        SQLite has one writer at a time, so positions become visible in order and none is skipped. Each type is
        read through the index by itself: ``type IN (...)`` would sort the whole backlog.
        """
        if recent := self.tail.read(after_seq, limit, types, part, parts):
            return recent
        rows = self._read_each("read_owed", [(type_, after_seq, handler_id, limit, parts - 1, part) for type_ in types])
        if len(types) > 1:
            rows.sort(key=lambda row: row[0])
            del rows[limit:]
        return [logged(row) for row in rows]

    async def read_types(self, after: Mapping[str, int], limit: int) -> list[LoggedEvent]:
        """The next events of each type after its position, in the order of the log."""
        positions = set(after.values())
        if len(positions) == 1 and (recent := self.tail.read(positions.pop(), limit, after)):
            return recent
        rows = self._read_each("read_type", [(type_, seq, limit) for type_, seq in after.items()])
        rows.sort(key=lambda row: row[0])
        return [logged(row) for row in rows[:limit]]

    async def read_log(self, after_seq: int, limit: int) -> list[LoggedEvent]:
        """Everything after a position, in commit order."""
        return self.tail.read(after_seq, limit) or await super().read_log(after_seq, limit)

    # ------------------------------------------------------------------ waking and upkeep

    def _committed(self, group: Group) -> None:
        for run in group.runs:
            self.tail.extend(run)
        if not group.types:
            return
        self._wake(group.types)
        if self._open:
            self._bell.ring()

    async def look_after(self) -> None:
        """The slow safety net, about once a second: missed bells, new neighbours, the WAL's size."""
        version = self._reader.execute("PRAGMA data_version").fetchone()[0]
        if version != self._seen_version:
            self._seen_version = version
            self._rung()
        self._life.beat()
        self._bell.forget_seen()
        changes = self.writer.connection.total_changes
        is_large = self.wal_bytes() > CHECKPOINT_BYTES
        if is_large or changes - self._copied_changes >= CHECKPOINT_ROWS:
            self._copied_changes = changes
            await self.writer.exclusive(partial(checkpoint, empty=is_large))

    def neighbours(self) -> dict[str, frozenset[str]]:
        """The services of every live worker on this file, this one included, by owner."""
        return self._life.neighbours()

    def reached(self) -> int:
        """The newest position of the log."""
        return int(self.read("head")[0][0])

    async def is_alive(self, owner: str) -> bool:
        """Whether the worker *owner* lives on this machine."""
        return self.place.is_alive(owner)

    async def secret(self) -> bytes:
        """A secret of this machine, which no copy of the file carries along."""
        return self.place.secret()

    def refuse_nesting(self) -> None:
        """Raise StoreError if this task holds the writer: it would wait for itself for ever."""
        self.writer.refuse_nesting()

    def wal_bytes(self) -> int:
        """The size of the file's write-ahead log."""
        try:
            return self.place.wal_bytes()
        except FileNotFoundError:
            return 0
