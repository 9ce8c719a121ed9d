"""The PostgreSQL store: a schema that holds a service's tables and its event log."""

from __future__ import annotations

import asyncio
import logging
import secrets  # noqa: TID251  a secret is nobody's to own, least of all a seeded simulator's
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import psycopg
from psycopg import AsyncConnection, AsyncRawCursor
from psycopg.rows import tuple_row

from antiphon.errors import LeaseLost, StoreError
from antiphon.model.envelope import Envelope
from antiphon.ports import Clock, LoggedEvent
from antiphon.store.base import SqlStore
from antiphon.store.postgres.connection import Address, is_outdated, translated
from antiphon.store.postgres.listener import Listener, number_of
from antiphon.store.postgres.migrations import migrate
from antiphon.store.postgres.pool import Pool
from antiphon.store.postgres.queries import query
from antiphon.store.postgres.statements import as_it_was, kept, named_rows, numbered
from antiphon.store.postgres.unit import PostgresUnit
from antiphon.store.rows import logged

log = logging.getLogger("antiphon.store")

#: So many units of one process are open at a time, and so many reads beside them.
UNITS, READERS = 8, 4
# A read that fails by no fault of its own is made so often in all.
READS_OF_ONE = 3
# The others are told of commits at most this often.
_RING_EVERY_S = 0.002
_ASK_AGAIN_S = 0.2


class PostgresStore(SqlStore):
    """A store on one schema of a PostgreSQL database. One object per process and schema.

    *server_ms* stands in for the server's clock, where time is a test's own.
    """

    #: Nobody waits for a unit of another's; what it has locked of the service's rows, it keeps for so long.
    batch_ms = 200

    def __init__(
        self,
        where: Address,
        *,
        clock: Clock,
        owner: str,
        tables: dict[str, str] | None = None,
        server_ms: Callable[[], int] | None = None,
    ) -> None:
        super().__init__(where.name, where.shown, clock=clock, owner=owner, tables=tables)
        self.address = where
        self._server_ms = server_ms
        self._units = Pool(where, UNITS)
        self._readers = Pool(where, READERS)
        self._listener = Listener(where, owner, tuple(self._tables), clock, self._rung)
        self._lock_id = number_of("log", where.schema)
        self._open = False
        self._offset_ms = 0
        self._latest_ms = 0
        self._head = 0
        self._neighbours: dict[str, frozenset[str]] = {}
        self._holders: set[asyncio.Task[Any] | None] = set()
        self._ringing: asyncio.Task[None] | None = None
        self._to_ring = False
        self._commits: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Make or bring up to date the schema, and connect. Raises StoreError."""
        self._units, self._readers = Pool(self.address, UNITS), Pool(self.address, READERS)
        try:
            async with self._units.connection() as connection:
                with translated(self.address):
                    await migrate(connection, self.address, self._tables)
            await self._listener.open()
            self._head = await self._glance()
        except BaseException:
            await self._disconnect()
            raise
        self._open = True

    async def close(self) -> None:
        """Wait for commits under way, then disconnect. Idempotent."""
        if not self._open:
            return
        self._open = False
        await asyncio.gather(*self._commits, return_exceptions=True)
        if self._ringing is not None:
            await asyncio.gather(self._ringing, return_exceptions=True)
        try:
            async with self._units.connection() as connection:
                with translated(self.address):
                    await connection.execute(b"DELETE FROM antiphon_workers WHERE owner = $1", (self.owner,))
        except StoreError as error:
            log.warning("%s: it could not say good-bye: %s", self.name, error)
        await self._disconnect()

    async def _disconnect(self) -> None:
        await self._listener.close()
        await self._units.close()
        await self._readers.close()

    # ------------------------------------------------------------------ writing

    @asynccontextmanager
    async def unit(self) -> AsyncIterator[PostgresUnit]:
        """A write transaction on a connection of its own; durable when the ``async with`` ends."""
        if not self._open:
            raise StoreError("the store is closed", where=self.where)
        self.refuse_nesting()
        connection = await self._units.take()
        holder = asyncio.current_task()
        self._holders.add(holder)
        unit = PostgresUnit(connection, self.address, self.clock, self.store_ms(), self._lock_id)
        try:
            yield unit
            await unit.prepare_commit()
        except BaseException:
            self._holders.discard(holder)
            unit.end()
            await asyncio.shield(self._chore(self._abandon(connection)))
            raise
        self._holders.discard(holder)
        # Whatever becomes of this task, the commit goes on to its end.
        await asyncio.shield(self._chore(self._commit(unit, connection)))

    def _chore(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        chore = asyncio.ensure_future(work)
        self._commits.add(chore)
        chore.add_done_callback(self._commits.discard)
        # Who has waited for it may have been cancelled meanwhile; nobody else is told what has come of it.
        chore.add_done_callback(lambda done: done.cancelled() or done.exception())
        return chore

    async def _abandon(self, connection: AsyncConnection) -> None:
        try:
            if not connection.closed:
                await connection.execute(b"ROLLBACK")
        except psycopg.Error:
            await connection.close()
        finally:
            await self._units.give_back(connection)

    async def _commit(self, unit: PostgresUnit, connection: AsyncConnection) -> None:
        try:
            try:
                await unit.commit()
            except StoreError as error:
                if not connection.closed or unit.transaction is None:
                    raise
                await self._ask(unit.transaction, error)
        except BaseException:
            unit.end()
            await self._abandon(connection)
            raise
        unit.end()
        await self._units.give_back(connection)
        if unit.types:
            self._wake(unit.types)
            self._ring()

    async def _ask(self, transaction: str, lost: StoreError) -> None:
        """The connection broke at the commit: ask the server what has come of it, as long as it takes.

        To say that nothing was kept when something was would have its events handled again. A server that has died
        meanwhile may have lost the transaction, and given its number to another one that it kept: then nobody knows,
        and whoever has a lease takes it anew, with the cursor as it is. Raises LeaseLost, or *lost*.
        """
        number, _, since = transaction.partition(" ")
        log.warning("%s: the connection broke at a commit, the server is asked what has come of it", self.where)
        while self._open:
            try:
                async with self._readers.connection() as connection:
                    with translated(self.address):
                        found = await (await connection.execute(query("doubt").encode(), (number,))).fetchone()
            except StoreError:
                found = ("in progress", since)
            except psycopg.errors.InvalidParameterValue:
                raise lost from None  # the server has not given that number yet: it died, and forgot the transaction
            if found is not None and found[0] == "committed" and found[1] == since:
                return
            if found is not None and found[0] != "aborted" and found[1] != since:
                raise LeaseLost(
                    "the server died at a commit, and nobody knows whether it was kept",
                    where=self.where,
                    mend="What is in the log counts",
                ) from lost
            if found is None or found[0] != "in progress":
                raise lost
            await self.clock.idle(_ASK_AGAIN_S)
        raise lost

    def refuse_nesting(self) -> None:
        """Raise StoreError if this task has a unit open: another one may wait for what the first has locked."""
        if asyncio.current_task() in self._holders:
            raise StoreError(
                "this task has an open write transaction already, and might wait for itself",
                where=self.where,
                mend="Write and publish through that transaction: tx.execute(...), tx.publish(...)",
            )

    # ------------------------------------------------------------------ reading

    async def fetch_all(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Read committed data. Rows have index and name access."""
        return await self._read(named_rows, sql, parameters)

    async def rows(self, name: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a named block, as plain tuples."""
        return await self._read(tuple_row, query(name), parameters)

    async def _read(self, row_factory: Any, sql: str, parameters: Sequence[Any]) -> list[Any]:
        """The rows of a query. It changes nothing, so it is made again when the server is at fault."""
        left = READS_OF_ONE
        while True:
            left -= 1
            async with self._readers.connection() as connection:
                try:
                    with translated(self.address):
                        cursor = AsyncRawCursor(connection, row_factory=row_factory)
                        await cursor.execute(numbered(sql), kept(parameters))
                        return await cursor.fetchall()
                except StoreError as error:
                    if is_outdated(error.__cause__):
                        # What it has prepared is of tables as they were; so may be what others have.
                        await connection.close()
                    elif left <= 0:
                        raise

    def query(self, name: str) -> str:
        """The SQL of a named block."""
        return query(name)

    async def read_owed(
        self, handler_id: int, types: Sequence[str], after_seq: int, limit: int, part: int = 0, parts: int = 1
    ) -> list[LoggedEvent]:
        """The next events of *types* after a position that a partition of a handler is owed, as of one moment."""
        return self._events(await self.rows("read_owed", (list(types), after_seq, handler_id, limit, parts - 1, part)))

    async def read_types(self, after: Mapping[str, int], limit: int) -> list[LoggedEvent]:
        """The next events of each type after its position, in the order of the log."""
        return self._events(await self.rows("read_types", (list(after), list(after.values()), limit)))

    async def read_log(self, after_seq: int, limit: int) -> list[LoggedEvent]:
        """Everything after a position, in commit order."""
        return self._events(await self.rows("read_log", (after_seq, limit)))

    async def events_at(self, seqs: Sequence[int]) -> dict[int, LoggedEvent]:
        """The events at *seqs*, by position."""
        events = await super().events_at(seqs)
        return {seq: _as_it_was(event) for seq, event in events.items()}

    def _events(self, rows: Sequence[Sequence[Any]]) -> list[LoggedEvent]:
        return [_as_it_was(logged(row)) for row in rows]

    # ------------------------------------------------------------------ time, neighbours, waking

    def store_ms(self) -> int:
        """The server's clock, in milliseconds; it never goes back here."""
        self._latest_ms = max(self._latest_ms, self.clock.boot_ms() + self._offset_ms)
        return self._latest_ms

    async def look_after(self) -> None:
        """The slow safety net, about once a second: missed bells, new neighbours, the server's clock."""
        head = await self._glance()
        if head != self._head:
            self._head = head
            self._rung()

    async def _glance(self) -> int:
        """Look at the server's clock and at who lives; the newest position."""
        before = self.clock.boot_ms()
        server_ms, head = (await self.rows("glance"))[0]
        if self._server_ms is not None:
            server_ms, before = self._server_ms(), self.clock.boot_ms()
        self._offset_ms = server_ms - (before + self.clock.boot_ms()) // 2
        found = await self.rows("live_workers")
        self._neighbours = {owner: frozenset(msgspec.json.decode(services)) for owner, services in found}
        return int(head)

    def neighbours(self) -> dict[str, frozenset[str]]:
        """The services of every live worker on this schema, this one included, as of the last upkeep."""
        return self._neighbours

    def reached(self) -> int:
        """The newest position of the log at the last upkeep."""
        return self._head

    async def is_alive(self, owner: str) -> bool:
        """Whether the worker *owner* lives: its connection holds its lock."""
        return any(found == owner for found, _ in await self.rows("live_workers"))

    async def secret(self) -> bytes:
        """32 random bytes, made at the first call, the same for all processes on this schema."""
        async with self.unit() as unit:
            await unit.execute(
                "INSERT INTO antiphon_meta VALUES ('secret', ?) ON CONFLICT (name) DO NOTHING", (secrets.token_hex(32),)
            )
            found = await unit.fetch_all("SELECT value FROM antiphon_meta WHERE name = 'secret'")
        return bytes.fromhex(found[0][0])

    def wal_bytes(self) -> int:
        """The server looks after its log by itself."""
        return 0

    def _ring(self) -> None:
        """Tell the others, soon and once for many commits."""
        self._to_ring = True
        if self._ringing is None or self._ringing.done():
            self._ringing = asyncio.ensure_future(self._ring_soon())

    async def _ring_soon(self) -> None:
        while self._to_ring:
            self._to_ring = False
            try:
                async with self._readers.connection() as connection:
                    await self._listener.ring(connection)
            except StoreError as error:
                log.warning("the others look by themselves: %s", error)
                return
            if self._open:
                await asyncio.sleep(_RING_EVERY_S)


def _as_it_was(event: LoggedEvent) -> LoggedEvent:
    key = as_it_was(event.envelope.key)
    if key == event.envelope.key:
        return event
    envelope: Envelope = msgspec.structs.replace(event.envelope, key=key)
    return msgspec.structs.replace(event, envelope=envelope)
