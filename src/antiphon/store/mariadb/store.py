"""The MariaDB store: a database that holds a service's tables and its event log."""

from __future__ import annotations

import asyncio
import logging
import secrets  # noqa: TID251  a secret is nobody's to own, least of all a seeded simulator's
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
from asyncmy.errors import Error

from antiphon.errors import StoreError
from antiphon.ports import Clock, LoggedEvent
from antiphon.store.base import SqlStore
from antiphon.store.mariadb.connection import Address, Result, Session, connect, translated
from antiphon.store.mariadb.listener import Listener
from antiphon.store.mariadb.migrations import migrate
from antiphon.store.mariadb.pool import Pool
from antiphon.store.mariadb.queries import query
from antiphon.store.mariadb.statements import understood
from antiphon.store.mariadb.unit import MariaUnit
from antiphon.store.named import row_type
from antiphon.store.rows import logged

log = logging.getLogger("antiphon.store")

#: So many units of one process are open at a time, and so many reads beside them.
UNITS, READERS = 8, 4
# A read that fails by no fault of its own is made so often in all.
READS_OF_ONE = 3
_ASK_AGAIN_S = 0.2
# Notes of transactions that nobody can ask for any more.
_OLD_NOTES_MS = 86_400_000


class MariaStore(SqlStore):
    """A store on one database of a MariaDB server. One object per process and database.

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
        self._units, self._readers = self._pools()
        self._listener = Listener(where, owner, tuple(self._tables), clock, self._rung)
        self._open = False
        self._offset_ms = 0
        self._latest_ms = 0
        self._head = 0
        self._durable = 0
        self._neighbours: dict[str, frozenset[str]] = {}
        self._holders: set[asyncio.Task[Any] | None] = set()
        self._commits: set[asyncio.Task[None]] = set()

    def _pools(self) -> tuple[Pool, Pool]:
        return Pool(self._connect, UNITS), Pool(lambda: connect(self.address), READERS)

    async def open(self) -> None:
        """Make or bring up to date the database, and connect. Raises StoreError."""
        self._units, self._readers = self._pools()
        try:
            await migrate(self.address, self._tables)
            await self._listener.open()
            self._head = await self._glance()
            await self._warn()
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
        try:
            async with self._readers.session() as session:
                with translated(self.address):
                    await session.ask("DELETE FROM antiphon_workers WHERE owner = ?", self.owner)
                    await session.ask(query("forget_slots"), self.owner, self.store_ms() - _OLD_NOTES_MS)
        except StoreError as error:
            log.warning("%s: it could not say good-bye: %s", self.name, error)
        await self._disconnect()

    async def _disconnect(self) -> None:
        await self._listener.close()
        await self._units.close()
        await self._readers.close()

    async def _connect(self) -> Session:
        """A session for units, with a place for the notes of its transactions."""
        session = await connect(self.address, autocommit=False)
        try:
            session.slot, session.owner = self.clock.new_id(), self.owner
            with translated(self.address):
                await session.ask(query("put_slot"), session.slot, session.owner, 0, self.store_ms())
                await session.say("COMMIT")
        except BaseException:
            await session.close()
            raise
        return session

    async def _warn(self) -> None:
        """Say so if the server does not keep through a power cut what it has answered for."""
        settings = "@@innodb_flush_log_at_trx_commit, @@log_bin, @@sync_binlog"
        flush, has_binlog, sync = (await self.fetch_all(f"SELECT {settings}"))[0]
        if flush != 1 or (has_binlog and sync != 1):
            log.warning(
                "%s: innodb_flush_log_at_trx_commit is %s, sync_binlog %s: a power cut of the server may lose what was "
                "committed. Both have to be 1",
                self.where,
                flush,
                sync,
            )

    # ------------------------------------------------------------------ writing

    @asynccontextmanager
    async def unit(self) -> AsyncIterator[MariaUnit]:
        """A write transaction on a session of its own; durable when the ``async with`` ends."""
        if not self._open:
            raise StoreError("the store is closed", where=self.where)
        self.refuse_nesting()
        session = await self._units.take()
        holder = asyncio.current_task()
        self._holders.add(holder)
        unit = MariaUnit(session, self.address, self.clock, self.store_ms())
        try:
            yield unit
            await unit.prepare_commit()
        except BaseException:
            self._holders.discard(holder)
            unit.end()
            await asyncio.shield(self._chore(self._abandon(unit)))
            raise
        self._holders.discard(holder)
        # Whatever becomes of this task, the commit goes on to its end.
        await asyncio.shield(self._chore(self._commit(unit)))

    def _chore(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        chore = asyncio.ensure_future(work)
        self._commits.add(chore)
        chore.add_done_callback(self._commits.discard)
        # Who has waited for it may have been cancelled meanwhile; nobody else is told what has come of it.
        chore.add_done_callback(lambda done: done.cancelled() or done.exception())
        return chore

    async def _abandon(self, unit: MariaUnit) -> None:
        try:
            await unit.undo()
            if unit.is_cut:
                await self._end_session(unit.session.number)
        finally:
            await self._units.give_back(unit.session)

    async def _end_session(self, number: int) -> None:
        """Have the server end a session that it may still be at work for, and hold locks for."""
        with suppress(StoreError, Error, OSError):
            async with self._readers.session() as session:
                await session.say(f"KILL CONNECTION {number}")

    async def _commit(self, unit: MariaUnit) -> None:
        try:
            try:
                await unit.commit()
            except StoreError as error:
                if not unit.in_doubt or not unit.session.closed:
                    raise
                await self._ask(unit.session, error)
        except BaseException:
            unit.end()
            await self._abandon(unit)
            raise
        unit.end()
        await self._units.give_back(unit.session)
        self._durable = max(self._durable, unit.head)
        if unit.types:
            self._listener.moved(unit.before, unit.head)
            self._wake(unit.types)

    async def _ask(self, lost: Session, error: StoreError) -> None:
        """The connection broke at the commit: ask the server what has come of it, as long as it takes.

        To say that nothing was kept when something was would have its events handled again. The note is the
        transaction's own, and to read it waits for the transaction, if the server is still at it.
        """
        log.warning("%s: the connection broke at a commit, the server is asked what has come of it", self.where)
        found = None
        while found is None and self._open:
            try:
                async with self._readers.session() as session:
                    with translated(self.address):
                        found = await session.ask(query("doubt"), lost.slot)
            except StoreError:
                await self.clock.idle(_ASK_AGAIN_S)
        if not found or found[0][0] != lost.nr:
            raise error

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
        found = await self._read(sql, parameters)
        row = row_type(found.columns)
        return [row(each) for each in found.rows]

    async def rows(self, name: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a named block, as plain tuples."""
        return list((await self._read(query(name), parameters)).rows)

    async def _read(self, sql: str, parameters: Sequence[Any]) -> Result:
        """What a query has found. It changes nothing, so it is made again when the server is at fault."""
        left = READS_OF_ONE
        while True:
            left -= 1
            async with self._readers.session() as session:
                try:
                    with translated(self.address):
                        return await session.run(understood(sql), parameters)
                except StoreError:
                    if not left:
                        raise

    def query(self, name: str) -> str:
        """The SQL of a named block."""
        return query(name)

    async def read_owed(
        self, handler_id: int, types: Sequence[str], after_seq: int, limit: int, part: int = 0, parts: int = 1
    ) -> list[LoggedEvent]:
        """The next events of *types* after a position that a partition of a handler is owed, as of one moment."""
        if not types:
            return []
        owed = [each for type_ in types for each in (handler_id, type_, after_seq, parts - 1, part, limit)]
        if len(types) == 1:
            return [logged(row) for row in await self.rows("read_owed_of", owed)]
        return await self._at_seqs("part_owed_seqs", len(types), owed, limit)

    async def read_types(self, after: Mapping[str, int], limit: int) -> list[LoggedEvent]:
        """The next events of each type after its position, in the order of the log."""
        if not after:
            return []
        return await self._at_seqs(
            "part_type_seqs", len(after), [each for at in after.items() for each in (*at, limit)], limit
        )

    async def _at_seqs(self, part: str, count: int, parameters: list[Any], limit: int) -> list[LoggedEvent]:
        found = " UNION ALL ".join([query(part)] * count)
        sql = query("part_at_seqs").format(found=found)
        return [logged(row) for row in (await self._read(sql, (*parameters, limit))).rows]

    async def read_log(self, after_seq: int, limit: int) -> list[LoggedEvent]:
        """Everything after a position, in commit order.

        MariaDB shows what is committed before it has reached the disk. What is read here leaves the server, and
        must not be undone there by a power cut: where it is not known to be on the disk, a commit sees to that.
        """
        events = await super().read_log(after_seq, limit)
        if events and events[-1].seq > self._durable:
            async with self._readers.session() as session:
                with translated(self.address):
                    await session.ask(query("reach_disk"), self.owner)
            self._durable = max(self._durable, events[-1].seq)
        return events

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
        """The services of every live worker on this database, this one included, as of the last upkeep."""
        return self._neighbours

    def reached(self) -> int:
        """A position that the log had reached at the last upkeep."""
        return self._head

    async def is_alive(self, owner: str) -> bool:
        """Whether the worker *owner* lives: its session holds its lock."""
        return any(found == owner for found, _ in await self.rows("live_workers"))

    async def secret(self) -> bytes:
        """32 random bytes, made at the first call, the same for all processes on this database."""
        async with self.unit() as unit:
            await unit.execute(
                "INSERT INTO antiphon_meta (name, value) VALUES ('secret', ?) ON CONFLICT (name) DO NOTHING",
                (secrets.token_hex(32),),
            )
            found = await unit.fetch_all("SELECT value FROM antiphon_meta WHERE name = 'secret'")
        return bytes.fromhex(found[0][0])

    def wal_bytes(self) -> int:
        """The server looks after its log by itself."""
        return 0
