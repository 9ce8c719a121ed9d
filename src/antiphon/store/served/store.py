"""What the stores on a database server do alike: units on connections of their own, reads, the server's clock."""

from __future__ import annotations

import asyncio
import logging
import secrets  # noqa: TID251  a secret is nobody's to own, least of all a seeded simulator's
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

import msgspec

from antiphon.errors import StoreError
from antiphon.ports import Clock
from antiphon.store.base import SqlStore
from antiphon.store.served.connection import C, W
from antiphon.store.served.listener import Listener
from antiphon.store.served.pool import Pool
from antiphon.store.served.unit import ServedUnit

log = logging.getLogger("antiphon.store")

U = TypeVar("U", bound=ServedUnit[Any, Any])

#: So many units of one process are open at a time, and so many reads beside them.
UNITS, READERS = 8, 4
# A read that fails by no fault of its own is made so often in all.
READS_OF_ONE = 3


class ServedStore(SqlStore, Generic[W, C, U]):
    """A store on a database server. One object per process and store.

    *server_ms* stands in for the server's clock, where time is a test's own.
    """

    #: Nobody waits for a unit of another's; what it has locked of the service's rows, it keeps for so long.
    batch_ms = 200

    def __init__(
        self,
        where: W,
        *,
        clock: Clock,
        owner: str,
        tables: dict[str, str] | None = None,
        server_ms: Callable[[], int] | None = None,
    ) -> None:
        super().__init__(where.name, where.shown, clock=clock, owner=owner, tables=tables)
        self.address = where
        self._server_ms = server_ms
        self._units, self._readers = self._make_pools()
        self._listener = self._make_listener()
        self._open = False
        self._offset_ms = 0
        self._latest_ms = 0
        self._head = 0
        self._neighbours: dict[str, frozenset[str]] = {}
        self._holders: set[asyncio.Task[Any] | None] = set()
        self._commits: set[asyncio.Task[None]] = set()

    # ------------------------------------------------------------------ the server's

    @abstractmethod
    def _make_pools(self) -> tuple[Pool[C], Pool[C]]:
        """The connections for units, and those for reads."""

    @abstractmethod
    def _make_listener(self) -> Listener[W, C]:
        """What hears of others' commits."""

    @abstractmethod
    async def _prepare(self) -> None:
        """Make the store or bring it up to date, and look at the server. Raises StoreError."""

    @abstractmethod
    async def _sign_off(self, connection: C) -> None:
        """Remove what says that this process is there. Raises StoreError."""

    @abstractmethod
    def _make_unit(self, connection: C) -> U:
        """A unit on *connection*."""

    @abstractmethod
    async def _ask(self, unit: U, lost: StoreError) -> None:
        """The connection broke at the commit: ask the server what has come of it, as long as it takes.

        To say that nothing was kept when something was would have its events handled again. Raises *lost*, or
        LeaseLost when nobody knows any more.
        """

    @abstractmethod
    def _committed(self, unit: U) -> None:
        """Wake whom the unit concerns."""

    @abstractmethod
    async def _find(self, connection: C, sql: str, parameters: Sequence[Any], *, named: bool) -> list[Any]:
        """The rows of a query, with the names of their columns if they are to be *named*. Raises StoreError."""

    # ------------------------------------------------------------------ opening and closing

    async def open(self) -> None:
        """Make the store or bring it up to date, and connect. Raises StoreError."""
        self._units, self._readers = self._make_pools()
        try:
            await self._prepare()
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
        try:
            async with self._readers.connection() as connection:
                await self._sign_off(connection)
        except StoreError as error:
            log.warning("%s: it could not say good-bye: %s", self.name, error)
        await self._disconnect()

    async def _disconnect(self) -> None:
        await self._listener.close()
        await self._units.close()
        await self._readers.close()

    # ------------------------------------------------------------------ writing

    @asynccontextmanager
    async def unit(self) -> AsyncIterator[U]:
        """A write transaction on a connection of its own; durable when the ``async with`` ends."""
        if not self._open:
            raise StoreError("the store is closed", where=self.where)
        self.refuse_nesting()
        connection = await self._units.take()
        holder = asyncio.current_task()
        self._holders.add(holder)
        unit = self._make_unit(connection)
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

    async def _abandon(self, unit: U) -> None:
        try:
            await self._undo(unit)
        finally:
            await self._units.give_back(unit.connection)

    async def _undo(self, unit: U) -> None:
        await unit.undo()

    async def _commit(self, unit: U) -> None:
        try:
            try:
                await unit.commit()
            except StoreError as error:
                if not unit.in_doubt:
                    raise
                log.warning("%s: the connection broke at a commit, the server is asked what has come of it", self.where)
                await self._ask(unit, error)
        except BaseException:
            unit.end()
            await self._abandon(unit)
            raise
        unit.end()
        await self._units.give_back(unit.connection)
        self._committed(unit)

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
        return await self._read(sql, parameters, named=True)

    async def rows(self, name: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a named block, as plain tuples."""
        return await self._read(self.query(name), parameters)

    async def _read(self, sql: str, parameters: Sequence[Any], *, named: bool = False) -> list[Any]:
        """The rows of a query. It changes nothing, so it is made again when the server is at fault."""
        left = READS_OF_ONE
        while True:
            left -= 1
            async with self._readers.connection() as connection:
                try:
                    return await self._find(connection, sql, parameters, named=named)
                except StoreError as error:
                    if not await self._is_outdated(connection, error) and left <= 0:
                        raise

    async def _is_outdated(self, connection: C, error: StoreError) -> bool:
        """Whether it is the connection alone that cannot run the query any more. It is closed then."""
        return False

    # ------------------------------------------------------------------ time, neighbours

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
        """The services of every live worker on this store, this one included, as of the last upkeep."""
        return self._neighbours

    def reached(self) -> int:
        """A position that the log had reached at the last upkeep."""
        return self._head

    async def is_alive(self, owner: str) -> bool:
        """Whether the worker *owner* lives: its connection holds its lock."""
        return any(found == owner for found, _ in await self.rows("live_workers"))

    async def secret(self) -> bytes:
        """32 random bytes, made at the first call, the same for all processes on this store."""
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
