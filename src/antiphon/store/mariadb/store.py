"""The MariaDB store: a database that holds a service's tables and its event log."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from asyncmy.errors import Error

from antiphon.errors import StoreError
from antiphon.ports import LoggedEvent
from antiphon.store.mariadb.connection import Address, Session, connect, translated
from antiphon.store.mariadb.listener import Listener
from antiphon.store.mariadb.migrations import migrate
from antiphon.store.mariadb.pool import Pool
from antiphon.store.mariadb.queries import query
from antiphon.store.mariadb.sending import rows_of
from antiphon.store.mariadb.statements import understood
from antiphon.store.mariadb.unit import MariaUnit
from antiphon.store.rows import logged
from antiphon.store.served.store import READERS, UNITS, ServedStore

log = logging.getLogger("antiphon.store")

_ASK_AGAIN_S = 0.2
# Notes of transactions that nobody can ask for any more.
_OLD_NOTES_MS = 86_400_000


class MariaStore(ServedStore[Address, Session, MariaUnit]):
    """A store on one database of a MariaDB server. One object per process and database."""

    _listener: Listener
    #: A position up to which the log is known to be on the server's disk.
    _durable = 0

    def _make_pools(self) -> tuple[Pool, Pool]:
        return Pool(self._connect, UNITS), Pool(lambda: connect(self.address), READERS)

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

    def _make_listener(self) -> Listener:
        return Listener(self.address, self.owner, tuple(self._tables), self.clock, self._rung)

    async def _prepare(self) -> None:
        await migrate(self.address, self._tables)
        await self._warn()

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

    async def _sign_off(self, connection: Session) -> None:
        with translated(self.address):
            await connection.ask("DELETE FROM antiphon_workers WHERE owner = ?", self.owner)
            await connection.ask(query("forget_slots"), self.owner, self.store_ms() - _OLD_NOTES_MS)

    # ------------------------------------------------------------------ writing

    def _make_unit(self, connection: Session) -> MariaUnit:
        return MariaUnit(connection, self.address, self.clock, self.store_ms())

    async def _undo(self, unit: MariaUnit) -> None:
        await super()._undo(unit)
        if unit.is_cut:
            await self._end_session(unit.connection.number)

    async def _end_session(self, number: int) -> None:
        """Have the server end a session that it may still be at work for, and hold locks for."""
        with suppress(StoreError, Error, OSError):
            async with self._readers.connection() as session:
                await session.say(f"KILL CONNECTION {number}")

    def _committed(self, unit: MariaUnit) -> None:
        self._durable = max(self._durable, unit.head)
        if unit.types:
            self._listener.moved(unit.before, unit.head)
            self._wake(unit.types)

    async def _ask(self, unit: MariaUnit, lost: StoreError) -> None:
        """Look at the note, which is the transaction's own: to read it waits for the transaction, if the server is
        still at it."""
        session, found = unit.connection, None
        while found is None:
            try:
                async with self._readers.connection() as connection:
                    with translated(self.address):
                        found = await connection.ask(query("doubt"), session.slot)
            except StoreError:
                if not self._open:
                    break
                await self.clock.idle(_ASK_AGAIN_S)
        if not found or found[0][0] != session.nr:
            raise lost

    # ------------------------------------------------------------------ reading

    async def _find(self, connection: Session, sql: str, parameters: Sequence[Any], *, named: bool) -> list[Any]:
        with translated(self.address):
            found = await connection.run(understood(sql), parameters)
        return rows_of(found) if named else list(found.rows)

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
        return [logged(row) for row in await self._read(sql, (*parameters, limit))]

    async def read_log(self, after_seq: int, limit: int) -> list[LoggedEvent]:
        """Everything after a position, in commit order.

        MariaDB shows what is committed before it has reached the disk. What is read here leaves the server, and
        must not be undone there by a power cut: where it is not known to be on the disk, a commit sees to that.
        """
        events = await super().read_log(after_seq, limit)
        if events and events[-1].seq > self._durable:
            async with self._readers.connection() as session:
                with translated(self.address):
                    await session.ask(query("reach_disk"), self.owner)
            self._durable = max(self._durable, events[-1].seq)
        return events
