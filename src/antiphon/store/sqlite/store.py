"""The SQLite store: one file that holds a service's tables and its event log."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from antiphon.errors import StoreError
from antiphon.model.delivery import Status
from antiphon.model.effects import Effect
from antiphon.model.envelope import Envelope
from antiphon.model.handlers import HandlerSpec
from antiphon.ports import Clock, Lease, LoggedEvent, OpenDelivery, Timer
from antiphon.store.sqlite import leases, timers
from antiphon.store.sqlite.connection import translated
from antiphon.store.sqlite.effects import effect_of
from antiphon.store.sqlite.maintenance import checkpoint
from antiphon.store.sqlite.migrations import clock_offset_ms, make_tables, migrate
from antiphon.store.sqlite.place import Gate, LocalPlace, PlaceOf
from antiphon.store.sqlite.queries import query
from antiphon.store.sqlite.tail import Tail
from antiphon.store.sqlite.unit import SqliteUnit, logged
from antiphon.store.sqlite.writer import Group, Writer

# The WAL is copied into the database file when so many rows have changed, looked at about once a second, and
# emptied when it has grown past so many bytes.
CHECKPOINT_ROWS = 1_000
CHECKPOINT_BYTES = 64 << 20


class SqliteStore:
    """A store on one SQLite file (``ports.Store``). One object per process and file.

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
        self.path = path
        self.owner = owner
        self.clock = clock
        self.place = place_of(path)
        self._tables = tables or {}
        # In the order in which they came, not in that of their addresses: who is woken first is no matter of chance.
        self._listeners: dict[str, dict[Callable[[], None], None]] = {}
        self._everything: dict[Callable[[], None], None] = {}
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

    def read(self, name: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a named block, as plain tuples."""
        with translated(self.path):
            return self._reader.execute(query(name), parameters).fetchall()

    def read_each(self, name: str, parameters: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
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

    def head(self) -> int:
        """The newest position of the log; 0 when it is empty."""
        return int(self.read("head")[0][0])

    # ------------------------------------------------------------------ handlers and leases

    async def register(self, handlers: Sequence[HandlerSpec], elsewhere: Sequence[HandlerSpec] = ()) -> None:
        """Make the cursors of handlers not seen before; a type added later is owed from now on."""
        async with self.unit() as unit:
            await leases.register(unit, handlers, elsewhere, self._tables, self.clock.now_ms())

    async def acquire(self, handler: str, owner: str) -> Lease | None:
        """Take the handler's lease if it is free, expired, or its owner is dead."""
        return await leases.acquire(self, handler, owner)

    async def renew(self, owner: str) -> frozenset[str]:
        """Extend every lease of *owner*; returns the handlers that it still holds."""
        async with self.unit() as unit:
            await unit.execute(query("renew_leases"), (self.store_ms() + leases.LEASE_MS, owner))
            held = await unit.fetch_all("SELECT name FROM antiphon_handlers WHERE owner = ?", (owner,))
        return frozenset(name for (name,) in held)

    async def release(self, lease: Lease) -> None:
        """Give the lease back; interrupted attempts become due at once and have burnt nothing."""
        async with self.unit() as unit:
            given = await unit.execute(query("release_lease"), (self.store_ms(), lease.handler_id, lease.epoch))
            if given:
                now = self.clock.now_ms()
                await unit.execute(query("release_running"), (self.store_ms(), now, lease.handler_id))
        self._bell.ring()

    # ------------------------------------------------------------------ reading deliveries

    async def read_fresh(self, lease: Lease, types: Sequence[str], limit: int) -> list[LoggedEvent]:
        """The next events after the cursor.

        SQLite has one writer at a time, so positions become visible in order and none is skipped.
        """
        return self.read_owed(lease.handler_id, types, lease.seq, limit)

    def read_owed(self, handler_id: int, types: Sequence[str], after_seq: int, limit: int) -> list[LoggedEvent]:
        """The next events after a position that a handler is owed. Each type is read through the index by itself:
        ``type IN (...)`` would sort the whole backlog."""
        if recent := self.tail.read(after_seq, limit, types):
            return recent
        rows = self.read_each("read_owed", [(type_, after_seq, handler_id, limit) for type_ in types])
        if len(types) > 1:
            rows.sort(key=lambda row: row[0])
            del rows[limit:]
        return [logged(row) for row in rows]

    async def read_log(self, after_seq: int, limit: int) -> list[LoggedEvent]:
        """Everything after a position, in order."""
        return self.tail.read(after_seq, limit) or [logged(row) for row in self.read("read_log", (after_seq, limit))]

    async def positions(self) -> dict[str, int]:
        """How far each inlet or outlet has come, by name."""
        return dict(self.read("positions"))

    async def read_due(self, lease: Lease, limit: int) -> list[OpenDelivery]:
        """Deliveries whose time has come; of a key, the first and what waits right behind it."""
        return self._open_deliveries(
            lease, self.read("due_deliveries", (lease.handler_id, self.store_ms(), limit)), limit
        )

    async def lanes(self, lease: Lease, start: str, limit: int) -> list[str]:
        """The lanes from *start* on in which something waits, in order."""
        return [lane for (lane,) in self.read("lanes", (lease.handler_id, start, limit))]

    async def read_lane(self, lease: Lease, lane: str, limit: int) -> list[OpenDelivery]:
        """Deliveries of one lane whose time has come; of a key, the first and what waits right behind it."""
        rows = self.read("due_in_lane", (lease.handler_id, self.store_ms(), limit, lane))
        return self._open_deliveries(lease, rows, limit)

    def _open_deliveries(self, lease: Lease, rows: list[tuple[Any, ...]], limit: int) -> list[OpenDelivery]:
        if not rows:
            return []
        for row in list(rows):
            room = limit - len(rows)
            if room > 0 and row[6] is not None and not row[4]:
                rows += self._following(lease, row, room)
        events = self.events_at([row[0] for row in rows])
        return [
            OpenDelivery(events[seq], Status(status), attempts, crashes, bool(suspect), first_ms)
            for seq, status, attempts, crashes, suspect, first_ms, _ in rows
        ]

    def _following(self, lease: Lease, head: tuple[Any, ...], limit: int) -> list[tuple[Any, ...]]:
        following = []
        for row in self.read("following_deliveries", (lease.handler_id, head[6], head[0], limit)):
            if row[1] != Status.UNPROCESSED or row[4]:
                break
            following.append(row)
        return following

    def events_at(self, seqs: Sequence[int]) -> dict[int, LoggedEvent]:
        """The events at *seqs*, by position."""
        return {row[0]: logged(row) for row in self.read("read_seqs", (json.dumps(seqs),))}

    async def next_due_ms(self, lease: Lease) -> int | None:
        """The store time at which the next delivery is due; None if none waits."""
        rows = self.read("next_due", (lease.handler_id,))
        return int(rows[0][0]) if rows else None

    async def read_effect(self, event_id: str, handler: str, name: str) -> Effect | None:
        """What is known of one call to the outside."""
        rows = self.read("effect", (event_id, handler, name))
        return effect_of(rows[0]) if rows else None

    def next_timer_ms(self) -> int | None:
        """In how many milliseconds the next timer is due; None if none waits."""
        return timers.next_timer_ms(self)

    async def fire_timers(self, occur: Callable[[Timer], tuple[Envelope, int | None]], limit: int) -> int:
        """Publish what is due; returns how many timers fired."""
        return await timers.fire_timers(self, occur, limit)

    # ------------------------------------------------------------------ waking and upkeep

    def listen(self, types: Iterable[str], wake: Callable[[], None]) -> Callable[[], None]:
        """Call *wake* after commits that may have appended one of *types* (none given: after any)."""
        chosen = [self._listeners.setdefault(type_, {}) for type_ in types] or [self._everything]
        for listeners in chosen:
            listeners[wake] = None

        def forget() -> None:
            for listeners in chosen:
                listeners.pop(wake, None)

        return forget

    def _committed(self, group: Group) -> None:
        for run in group.runs:
            self.tail.extend(run)
        if not group.types:
            return
        for type_ in group.types:
            for wake in self._listeners.get(type_, ()):
                wake()
        for wake in self._everything:
            wake()
        if self._open:
            self._bell.ring()

    def _rung(self) -> None:
        """Another process has committed: what, only a look at the log can tell."""
        for listeners in [*self._listeners.values(), self._everything]:
            for wake in listeners:
                wake()

    async def look_after(self) -> None:
        """The slow safety net, about once a second: missed bells, new neighbours, the WAL's size."""
        version = self._reader.execute("PRAGMA data_version").fetchone()[0]
        if version != self._seen_version:
            self._seen_version = version
            self._rung()
        self._life.beat()
        self._bell.forget_seen()
        changes = self.writer.connection.total_changes
        with contextlib.suppress(FileNotFoundError):
            is_large = self.place.wal_bytes() > CHECKPOINT_BYTES
            if is_large or changes - self._copied_changes >= CHECKPOINT_ROWS:
                self._copied_changes = changes
                await self.writer.exclusive(partial(checkpoint, empty=is_large))

    def neighbours(self) -> dict[str, frozenset[str]]:
        """The services of every live worker on this file, this one included, by owner."""
        return self._life.neighbours()
