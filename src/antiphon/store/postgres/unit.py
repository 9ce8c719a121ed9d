"""What can be done inside one write transaction on PostgreSQL: the service's own SQL, the log, and settling."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg import AsyncConnection, AsyncCursor, AsyncRawCursor
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from antiphon.errors import LeaseLost, RolledBack, StoreError
from antiphon.ports import Clock, Held, Lease
from antiphon.store.postgres.connection import Address, store_error, translated
from antiphon.store.postgres.queries import query
from antiphon.store.postgres.statements import as_it_was, kept, named_rows, numbered
from antiphon.store.rows import parts_of
from antiphon.store.served.unit import OURS, ServedUnit

_BEGIN = b"BEGIN"
#: The transaction's number, and since when the server runs that gives it. Who dies amid it without a word, as by a
#: power cut of its machine, keeps its locks no longer than five minutes.
_WHO = (
    b"SELECT pg_current_xact_id()::text || ' ' || pg_postmaster_start_time()::text,"
    b" set_config('idle_in_transaction_session_timeout', '300s', true)"
)
_MARK, _UNMARK, _BACK = b"SAVEPOINT antiphon_event", b"RELEASE antiphon_event", b"ROLLBACK TO antiphon_event"
_GUARD, _UNGUARD = b"SAVEPOINT antiphon_statement", b"RELEASE antiphon_statement"
_UNDO = b"ROLLBACK TO antiphon_statement"
#: So many bytes of events are sent as one statement; where in a row they are.
_PART, _DATA = 1024 * 1024, 13
_USABLE = (TransactionStatus.INERROR, TransactionStatus.INTRANS)


class PostgresUnit(ServedUnit[Address, AsyncConnection]):
    """One unit of work on a connection of its own.

    What begins it goes out with its first statement. The log's lock is an advisory one.

    A statement of the service's that fails undoes itself alone, as on SQLite: it runs within a savepoint.
    """

    __slots__ = ("_cursor", "_has_guard", "_lock_id", "_rows", "_unsent", "transaction")

    def __init__(self, connection: AsyncConnection, where: Address, clock: Clock, store_ms: int, lock_id: int) -> None:
        super().__init__(connection, where, clock, store_ms)
        self._cursor = AsyncRawCursor(connection, row_factory=tuple_row)
        self._rows = AsyncRawCursor(connection, row_factory=named_rows)
        self._lock_id = lock_id
        self._unsent = [_BEGIN, _WHO]
        self._has_guard = False
        #: What the server calls the transaction; None before its first statement.
        self.transaction: str | None = None

    @property
    def in_doubt(self) -> bool:
        """Whether the connection broke at the commit, so that only the server knows what has come of it."""
        return self._connection.closed and self.transaction is not None

    @property
    def schema(self) -> str:
        """The store's schema."""
        return self._where.schema

    # ------------------------------------------------------------------ statements

    async def _execute(self, sql: str, parameters: Sequence[Any]) -> int:
        return (await self._run(self._cursor, sql, parameters)).rowcount

    async def _execute_many(self, sql: str, rows: list[Sequence[Any]]) -> int:
        many = [kept(row) for row in rows]
        await self._log_before(sql)
        async with self._statement(sql):
            await self._send_unsent()
            await self._cursor.executemany(numbered(sql), many)
            return max(self._cursor.rowcount, 0)

    async def _fetch_all(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        cursor = await self._run(self._rows, sql, parameters)
        return await cursor.fetchall() if cursor.description is not None else []

    async def _run(self, cursor: AsyncCursor[Any], sql: str, parameters: Sequence[Any]) -> AsyncCursor[Any]:
        await self._log_before(sql)
        async with self._statement(sql):
            await self._send_unsent()
            return await cursor.execute(numbered(sql), kept(parameters))

    async def _send_unsent(self) -> None:
        """Send what was put off, as one message. (A pipeline with what follows takes half as long again.)"""
        if not self._unsent:
            return
        unsent, self._unsent = self._unsent, []
        answers = await self._connection.execute(b"; ".join(unsent))
        if _WHO in unsent:
            for _ in range(unsent.index(_WHO)):
                answers.nextset()
            found = await answers.fetchone()
            self.transaction = found[0] if found else None

    @asynccontextmanager
    async def _statement(self, sql: str) -> AsyncIterator[None]:
        """One statement at a time. What is PostgreSQL's fault is raised as the store's; one that fails is undone."""
        self._busy += 1
        try:
            async with self._turn:
                self._check()
                if self._held:
                    await self._send_held()
                guard = None if OURS in sql else self._set_guard()
                try:
                    yield
                except psycopg.Error as error:
                    ours = store_error(error, self._where)
                    if ours is not None:
                        raise ours from error
                    self._undo(guard)
                    raise
                except asyncio.CancelledError:
                    self._undo(guard)
                    raise
        finally:
            self._busy -= 1

    # ------------------------------------------------------------------ statements that travel together

    async def _send_together(self, held: list[Held]) -> None:
        with translated(self._where):
            await self._send_unsent()
            first = held[0].sql
            if any(each.fetches or each.many or each.sql != first for each in held):
                await self._send_different(held)
            else:
                await self._send_alike(held)

    async def _send_alike(self, held: list[Held]) -> None:
        cursor, sql = self._cursor, numbered(held[0].sql)
        if len(held) == 1:
            held[0].result = (await cursor.execute(sql, kept(held[0].parameters))).rowcount
            return
        await cursor.executemany(sql, [kept(each.parameters) for each in held], returning=True)
        for each in held:
            each.result = cursor.rowcount
            cursor.nextset()

    async def _send_different(self, held: list[Held]) -> None:
        cursors = []
        async with self._connection.pipeline():
            for each in held:
                rows = named_rows if each.fetches else tuple_row
                cursor = AsyncRawCursor(self._connection, row_factory=rows)
                if each.many:
                    await cursor.executemany(numbered(each.sql), [kept(row) for row in each.parameters])
                else:
                    await cursor.execute(numbered(each.sql), kept(each.parameters))
                cursors.append(cursor)
        for each, cursor in zip(held, cursors, strict=True):
            if not each.fetches:
                each.result = max(cursor.rowcount, 0) if each.many else cursor.rowcount
            else:
                each.result = await cursor.fetchall() if cursor.description is not None else []

    @asynccontextmanager
    async def foreign(self, sql: str) -> AsyncIterator[None]:
        """A statement of somebody who sets savepoints of his own, on `connection`. One that fails, the transaction
        stands still until he has gone back to one of them."""
        await self._log_before(sql)
        self._busy += 1
        try:
            async with self._turn:
                self._check()
                if self._held:
                    await self._send_held()
                if self._has_guard:  # released later, it would take with it what he sets in between
                    self._unsent.append(_UNGUARD)
                    self._has_guard = False
                with translated(self._where):
                    try:
                        await self._send_unsent()
                        yield
                    except BaseException:
                        if self._connection.info.transaction_status not in _USABLE:
                            self._over = self._over or StoreError("a statement was cut short", where=self.shown)
                        raise
        finally:
            self._busy -= 1

    def _set_guard(self) -> bytes:
        """Have a savepoint set before the statement; returns what goes back to it."""
        if self._unsent and self._unsent[-1] is _MARK:
            return _BACK
        if self._has_guard:
            self._unsent.append(_UNGUARD)
        self._unsent.append(_GUARD)
        self._has_guard = True
        return _UNDO

    def _undo(self, guard: bytes | None) -> None:
        if guard is None or self._connection.info.transaction_status not in _USABLE:
            self._over = self._over or StoreError("a statement of the transaction was cut short", where=self.shown)
        else:
            self._unsent.append(guard)

    # ------------------------------------------------------------------ savepoints

    def _set_mark(self) -> None:
        if not (self._unsent and self._unsent[-1] is _MARK):
            if self._has_savepoint:
                self._unsent.append(_UNMARK)
            self._unsent.append(_MARK)
        self._has_guard = False

    def _go_back_to_mark(self) -> None:
        if _MARK in self._unsent:
            del self._unsent[self._unsent.index(_MARK) :]
        else:
            self._unsent = [_BACK, _UNMARK]
        self._has_guard = False

    # ------------------------------------------------------------------ the log

    async def one_at_a_time(self) -> None:
        """Go on when nobody else registers handlers."""
        await self._run(self._cursor, query("lock_log"), (self._lock_id + 1,))

    async def _insert_early(self, rows: list[tuple[Any, ...]]) -> None:
        async with self._statement(OURS):
            await self._send_unsent()
            async with self._connection.pipeline():
                await self._send_insert(rows)

    async def _send_insert(self, rows: list[tuple[Any, ...]]) -> None:
        """Insert events, from now until the commit as the only one: bit by bit, so that the server sees it going on,
        however long it takes to send them."""
        await self._connection.execute(query("lock_log").encode(), (self._lock_id,))
        is_long = sum([len(row[_DATA]) for row in rows]) > _PART
        for part in parts_of(rows, _PART) if is_long else (rows,):
            columns: list[Sequence[Any]] = [list(column) for column in zip(*part, strict=True)]
            await self._connection.execute(query("append").encode(), [list(kept(column)) for column in columns])

    async def prepare_commit(self) -> None:
        """Write what was kept for the end; afterwards it is known what the server calls the transaction."""
        await super().prepare_commit()
        if self.transaction is None:
            async with self._statement(OURS):
                rows, self._outgoing = self._outgoing, []
                await self._send_unsent()
                if rows:
                    async with self._connection.pipeline():
                        await self._send_insert(rows)

    async def commit(self) -> None:
        """Commit, with what was kept until now. Raises StoreError."""
        rows, self._outgoing = self._outgoing, []
        async with self._statement(OURS):
            await self._send_unsent()
            async with self._connection.pipeline():
                if rows:
                    await self._send_insert(rows)
                committed = await self._connection.execute(b"COMMIT")
            if committed.statusmessage != "COMMIT":
                raise RolledBack("PostgreSQL has rolled the transaction back", where=self.shown)

    async def undo(self) -> None:
        """Roll back, or close a connection that cannot."""
        try:
            if not self._connection.closed:
                await self._connection.execute(b"ROLLBACK")
        except psycopg.Error:
            await self._connection.close()

    # ------------------------------------------------------------------ settling

    def query(self, name: str) -> str:
        """The SQL of a named block."""
        return query(name)

    async def _move_cursor(self, lease: Lease, upto_seq: int, done: int, failed: int, now: int) -> None:
        fenced = (upto_seq, done, failed, now, lease.handler_id, lease.epoch)
        name = "move_cursor_on" if upto_seq > lease.seq else "move_cursor"
        if await self.execute(query(name), fenced) != 1:
            raise LeaseLost("another worker has taken over", where=lease.handler)

    async def open_keys(self, lease: Lease, keys: Iterable[str]) -> frozenset[str]:
        """Which of *keys* have a delivery that is not over."""
        wanted = list(keys)
        if not wanted:
            return frozenset()
        rows = await self.fetch_all(query("open_keys"), (lease.handler_id, list(kept(wanted))))
        return frozenset(as_it_was(key) or "" for (key,) in rows)
