"""What every SQL store does: reading what is owed, leases, timers, listeners. How it connects is the database's."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from antiphon.model.delivery import Status
from antiphon.model.effects import Effect
from antiphon.model.envelope import Envelope
from antiphon.model.handlers import HandlerSpec
from antiphon.ports import Clock, Lease, LoggedEvent, OpenDelivery, Partition, Timer, partition_name
from antiphon.store import leases, timers
from antiphon.store.effects import effect_of
from antiphon.store.rows import logged
from antiphon.store.units import SqlUnit


class SqlStore(ABC):
    """A store on a SQL database (``ports.Store``). One object per process and database.

    *name* is what people call it, *where* its path or address; *tables* are the SQL scripts of the services that
    live here, by service name.
    """

    #: For about how long a batch of events may keep a unit open.
    batch_ms = 10

    def __init__(
        self, name: str, where: str, *, clock: Clock, owner: str, tables: dict[str, str] | None = None
    ) -> None:
        self.name = name
        self.where = where
        self.clock = clock
        self.owner = owner
        self._tables = tables or {}
        #: Of each handler that this process has registered, the types that its code knows.
        self.registered: dict[str, frozenset[str]] = {}
        #: Those of them that newer code has bound to more: it was said.
        self.left_alone: set[str] = set()
        # In the order in which they came, not in that of their addresses: who is woken first is no matter of chance.
        self._listeners: dict[str, dict[Callable[[], None], None]] = {}
        self._everything: dict[Callable[[], None], None] = {}

    # ------------------------------------------------------------------ the database's

    @abstractmethod
    async def open(self) -> None:
        """Open or make the database, bring its tables up to date. Raises StoreError."""

    @abstractmethod
    async def close(self) -> None:
        """Wait for the running commit, close everything. Idempotent."""

    @abstractmethod
    def unit(self) -> AbstractAsyncContextManager[SqlUnit]:
        """A write transaction; durable when the ``async with`` ends."""

    @abstractmethod
    async def fetch_all(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Read committed data. Rows have index and name access."""

    @abstractmethod
    async def rows(self, name: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a named block, as plain tuples."""

    @abstractmethod
    def query(self, name: str) -> str:
        """The SQL of a named block. Raises KeyError if there is none."""

    @abstractmethod
    def store_ms(self) -> int:
        """The store's clock, in milliseconds."""

    @abstractmethod
    async def look_after(self) -> None:
        """The upkeep of about once a second."""

    @abstractmethod
    def neighbours(self) -> dict[str, frozenset[str]]:
        """The services of every live worker on this database, this one included, by owner."""

    @abstractmethod
    async def is_alive(self, owner: str) -> bool:
        """Whether the worker *owner* lives."""

    @abstractmethod
    async def secret(self) -> bytes:
        """32 random bytes, the same for all processes on this database."""

    @abstractmethod
    def refuse_nesting(self) -> None:
        """Raise StoreError if this task's next unit would wait for one that the task has open already."""

    @abstractmethod
    def wal_bytes(self) -> int:
        """The size of the write-ahead log, if it is this store that keeps it small; else 0."""

    @abstractmethod
    def reached(self) -> int:
        """A position that the log has reached: the newest, as far as that is known without asking a server."""

    @abstractmethod
    async def read_owed(
        self, handler_id: int, types: Sequence[str], after_seq: int, limit: int, part: int = 0, parts: int = 1
    ) -> list[LoggedEvent]:
        """The next events of *types* after a position that a partition of a handler is owed."""

    @abstractmethod
    async def read_types(self, after: Mapping[str, int], limit: int) -> list[LoggedEvent]:
        """The next events of each type after its position, in the order of the log, all as of one moment."""

    # ------------------------------------------------------------------ handlers and leases

    async def register(self, handlers: Sequence[HandlerSpec], elsewhere: Sequence[HandlerSpec] = ()) -> None:
        """Make the cursors of handlers not seen before; a type added later is owed from now on."""
        async with self.unit() as unit:
            await leases.register(unit, handlers, elsewhere, self._tables, self.clock.now_ms())
        self.registered.update({each.name: frozenset(each.type_names) for each in handlers})

    async def acquire(self, partition: str, owner: str) -> Lease | None:
        """Take the lease of a partition if it is free, expired, or its owner is dead."""
        return await leases.acquire(self, partition, owner)

    async def renew(self, owner: str) -> frozenset[str]:
        """Extend every lease of *owner*; returns the partitions that it still holds."""
        async with self.unit() as unit:
            await unit.execute(self.query("renew_leases"), (self.store_ms() + leases.LEASE_MS, owner))
            held = await unit.fetch_all("SELECT name, part FROM antiphon_handlers WHERE owner = ?", (owner,))
        return frozenset(partition_name(name, part) for name, part in held)

    async def partitions(self) -> list[Partition]:
        """The partitions of every handler, in order."""
        return [Partition(*row) for row in await self.rows("partitions")]

    async def split(self, lease: Lease, parts: int) -> None:
        """Give the lease back with its partition divided, as one of *parts*."""
        await leases.split(self, lease, parts)

    async def release(self, lease: Lease) -> None:
        """Give the lease back; interrupted attempts become due at once and have burnt nothing."""
        async with self.unit() as unit:
            given = await unit.execute(self.query("release_lease"), (self.store_ms(), lease.handler_id, lease.epoch))
            if given:
                now = self.clock.now_ms()
                await unit.execute(self.query("release_running"), (self.store_ms(), now, lease.handler_id))

    # ------------------------------------------------------------------ reading

    async def head(self) -> int:
        """The newest position of the log; 0 when it is empty."""
        return int((await self.rows("head"))[0][0])

    async def read_log(self, after_seq: int, limit: int) -> list[LoggedEvent]:
        """Everything after a position, in commit order."""
        return [logged(row) for row in await self.rows("read_log", (after_seq, limit))]

    async def positions(self) -> dict[str, int]:
        """How far each inlet or outlet has come, by name."""
        return {name: seq for name, seq in await self.rows("positions")}  # noqa: C416  a row of two

    async def read_fresh(self, lease: Lease, types: Sequence[str], limit: int) -> list[LoggedEvent]:
        """The next events after the cursor. What was looked through in vain is not looked at again."""
        if lease.parts == 1:
            return await self.read_owed(lease.handler_id, types, lease.seq, limit)
        reached, after_seq = self.reached(), max(lease.seq, lease.seen_seq)
        events = await self.read_owed(lease.handler_id, types, after_seq, limit, lease.part, lease.parts)
        if not events:
            lease.seen_seq = max(after_seq, reached)
        return events

    async def read_due(self, lease: Lease, limit: int) -> list[OpenDelivery]:
        """Deliveries whose time has come; of a key, the first and what waits right behind it."""
        rows = await self.rows("due_deliveries", (lease.handler_id, self.store_ms(), limit))
        return await self._open_deliveries(lease, rows, limit)

    async def lanes(self, lease: Lease, start: str, limit: int) -> list[str]:
        """The lanes from *start* on in which something waits, in order."""
        return [lane for (lane,) in await self.rows("lanes", (lease.handler_id, start, limit))]

    async def read_lane(self, lease: Lease, lane: str, limit: int) -> list[OpenDelivery]:
        """Deliveries of one lane whose time has come; of a key, the first and what waits right behind it."""
        rows = await self.rows("due_in_lane", (lease.handler_id, self.store_ms(), limit, lane))
        return await self._open_deliveries(lease, rows, limit)

    async def _open_deliveries(self, lease: Lease, rows: list[tuple[Any, ...]], limit: int) -> list[OpenDelivery]:
        if not rows:
            return []
        for row in list(rows):
            room = limit - len(rows)
            if room > 0 and row[6] is not None and not row[4]:
                rows += await self._following(lease, row, room)
        events = await self.events_at([row[0] for row in rows])
        return [
            OpenDelivery(events[seq], Status(status), attempts, crashes, bool(suspect), first_ms)
            for seq, status, attempts, crashes, suspect, first_ms, _ in rows
        ]

    async def _following(self, lease: Lease, head: tuple[Any, ...], limit: int) -> list[tuple[Any, ...]]:
        following = []
        for row in await self.rows("following_deliveries", (lease.handler_id, head[6], head[0], limit)):
            if row[1] != Status.UNPROCESSED or row[4]:
                break
            following.append(row)
        return following

    async def events_at(self, seqs: Sequence[int]) -> dict[int, LoggedEvent]:
        """The events at *seqs*, by position."""
        return {row[0]: logged(row) for row in await self.rows("read_seqs", (json.dumps(seqs),))}

    async def next_due_ms(self, lease: Lease) -> int | None:
        """The store time at which the next delivery is due; None if none waits."""
        rows = await self.rows("next_due", (lease.handler_id,))
        return int(rows[0][0]) if rows else None

    async def read_effect(self, event_id: str, handler: str, name: str) -> Effect | None:
        """What is known of one call to the outside."""
        rows = await self.rows("effect", (event_id, handler, name))
        return effect_of(rows[0]) if rows else None

    async def next_timer_ms(self) -> int | None:
        """In how many milliseconds the next timer is due; None if none waits."""
        return await timers.next_timer_ms(self)

    async def fire_timers(self, occur: Callable[[Timer], tuple[Envelope, int | None]], limit: int) -> int:
        """Publish what is due; returns how many timers fired."""
        return await timers.fire_timers(self, occur, limit)

    # ------------------------------------------------------------------ waking

    def listen(self, types: Iterable[str], wake: Callable[[], None]) -> Callable[[], None]:
        """Call *wake* after commits that may have appended one of *types* (none given: after any)."""
        chosen = [self._listeners.setdefault(type_, {}) for type_ in types] or [self._everything]
        for listeners in chosen:
            listeners[wake] = None

        def forget() -> None:
            for listeners in chosen:
                listeners.pop(wake, None)

        return forget

    def _wake(self, types: Iterable[str]) -> None:
        """Events of *types* have been committed by this process."""
        for type_ in types:
            for wake in self._listeners.get(type_, ()):
                wake()
        for wake in self._everything:
            wake()

    def _rung(self) -> None:
        """Another process has committed: what, only a look at the log can tell."""
        for listeners in [*self._listeners.values(), self._everything]:
            for wake in listeners:
                wake()
