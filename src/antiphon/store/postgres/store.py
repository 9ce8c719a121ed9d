"""The PostgreSQL store: a schema that holds a service's tables and its event log."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import msgspec
import psycopg
from psycopg import AsyncConnection, AsyncRawCursor
from psycopg.rows import tuple_row

from antiphon.errors import LeaseLost, StoreError
from antiphon.model.envelope import Envelope
from antiphon.ports import LoggedEvent
from antiphon.store.postgres.connection import Address, connect, is_outdated, translated
from antiphon.store.postgres.listener import Listener, number_of
from antiphon.store.postgres.migrations import migrate
from antiphon.store.postgres.pool import Pool
from antiphon.store.postgres.queries import query
from antiphon.store.postgres.statements import as_it_was, kept, named_rows, numbered
from antiphon.store.postgres.unit import PostgresUnit
from antiphon.store.rows import logged
from antiphon.store.served.store import READERS, UNITS, ServedStore

log = logging.getLogger("antiphon.store")

# The others are told of commits at most this often.
_RING_EVERY_S = 0.002
_ASK_AGAIN_S = 0.2


class PostgresStore(ServedStore[Address, AsyncConnection, PostgresUnit]):
    """A store on one schema of a PostgreSQL database. One object per process and schema."""

    _listener: Listener
    _ringing: asyncio.Task[None] | None = None
    _to_ring = False

    @cached_property
    def _lock_id(self) -> int:
        return number_of("log", self.address.schema)

    def _make_pools(self) -> tuple[Pool, Pool]:
        return Pool(self._connect, UNITS), Pool(self._connect, READERS)

    async def _connect(self) -> AsyncConnection:
        return await connect(self.address)

    def _make_listener(self) -> Listener:
        return Listener(self.address, self.owner, tuple(self._tables), self.clock, self._rung)

    async def _prepare(self) -> None:
        async with self._units.connection() as connection:
            with translated(self.address):
                await migrate(connection, self.address, self._tables)

    async def _sign_off(self, connection: AsyncConnection) -> None:
        with translated(self.address):
            await connection.execute(b"DELETE FROM antiphon_workers WHERE owner = $1", (self.owner,))

    async def _disconnect(self) -> None:
        if self._ringing is not None:
            await asyncio.gather(self._ringing, return_exceptions=True)
        await super()._disconnect()

    # ------------------------------------------------------------------ writing

    def _make_unit(self, connection: AsyncConnection) -> PostgresUnit:
        return PostgresUnit(connection, self.address, self.clock, self.store_ms(), self._lock_id)

    def _committed(self, unit: PostgresUnit) -> None:
        if unit.types:
            self._wake(unit.types)
            self._ring()

    async def _ask(self, unit: PostgresUnit, lost: StoreError) -> None:
        """Ask by the transaction's number. A server that has died meanwhile may have lost the transaction, and given
        its number to another one that it kept: then nobody knows, and whoever has a lease takes it anew, with the
        cursor as it is."""
        assert unit.transaction is not None
        number, _, since = unit.transaction.partition(" ")
        while True:
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
            if found is None or found[0] != "in progress" or not self._open:
                raise lost
            await self.clock.idle(_ASK_AGAIN_S)

    # ------------------------------------------------------------------ reading

    async def _find(
        self, connection: AsyncConnection, sql: str, parameters: Sequence[Any], *, named: bool
    ) -> list[Any]:
        with translated(self.address):
            cursor: AsyncRawCursor[Any] = AsyncRawCursor(connection, row_factory=named_rows if named else tuple_row)
            await cursor.execute(numbered(sql), kept(parameters))
            return await cursor.fetchall()

    async def _is_outdated(self, connection: AsyncConnection, error: StoreError) -> bool:
        """What it has prepared is of tables as they were; so may be what others have."""
        if is_outdated(error.__cause__):
            await connection.close()
            return True
        return False

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

    # ------------------------------------------------------------------ waking

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
