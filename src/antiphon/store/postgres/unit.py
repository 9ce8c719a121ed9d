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

from antiphon.errors import DeclarationError, LeaseLost, RolledBack, StoreError
from antiphon.model.envelope import Envelope
from antiphon.ports import TIMEOUT_OF, Clock, Held, Lease
from antiphon.store.postgres.connection import Address, store_error, translated
from antiphon.store.postgres.queries import query
from antiphon.store.postgres.statements import as_it_was, kept, named_rows, numbered
from antiphon.store.rows import log_row
from antiphon.store.units import SqlUnit

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
_OURS = "antiphon_"
_USABLE = (TransactionStatus.INERROR, TransactionStatus.INTRANS)


class PostgresUnit(SqlUnit):
    """One unit of work on a connection of its own (``ports.Unit``).

    What begins it, and what marks its savepoints, goes out when there is a statement to follow. Events are kept until
    the end: the log's lock is taken for their insertion and the commit, and for nothing else, so that they become
    visible in the order of their positions, and a long transaction keeps nobody waiting.

    A statement of the service's that fails undoes itself alone, as on SQLite: it runs within a savepoint.
    """

    __slots__ = (
        "_before_mark",
        "_busy",
        "_connection",
        "_cursor",
        "_has_guard",
        "_has_savepoint",
        "_held",
        "_holder",
        "_lock_id",
        "_mark",
        "_outgoing",
        "_over",
        "_rows",
        "_turn",
        "_unsent",
        "_where",
        "transaction",
        "types",
    )

    def __init__(self, connection: AsyncConnection, where: Address, clock: Clock, store_ms: int, lock_id: int) -> None:
        super().__init__(clock, store_ms)
        self._connection = connection
        self._cursor = AsyncRawCursor(connection, row_factory=tuple_row)
        self._rows = AsyncRawCursor(connection, row_factory=named_rows)
        self._where = where
        self._lock_id = lock_id
        self._turn = asyncio.Lock()
        self._busy = 0
        self._unsent = [_BEGIN, _WHO]
        self._over: Exception | None = None
        self._has_savepoint = False
        self._has_guard = False
        self._held: list[Held] = []
        self._holder: asyncio.Task[Any] | None = None
        self._outgoing: list[tuple[Any, ...]] = []
        self._before_mark: list[tuple[Any, ...]] = []
        self._mark = 0
        #: What the server calls the transaction; None before its first statement.
        self.transaction: str | None = None
        #: Types that were appended, or are to wake those who listen to them.
        self.types: dict[str, None] = {}

    @property
    def connection(self) -> AsyncConnection:
        """The connection that this unit's transaction is open on."""
        return self._connection

    @property
    def busy(self) -> bool:
        """Whether a statement of this unit is under way."""
        return self._busy > 0

    # ------------------------------------------------------------------ statements

    async def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run one statement; returns the rows that it changed."""
        if self._holder is not None and self._holder is asyncio.current_task():
            return await self._hold(Held(sql, parameters))  # type: ignore[no-any-return]
        return (await self._run(self._cursor, sql, parameters)).rowcount

    async def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> int:
        """Run one statement for each of *rows*; returns the rows changed."""
        many = [kept(row) for row in rows]
        if not many:
            return 0
        if self._holder is not None and self._holder is asyncio.current_task():
            return await self._hold(Held(sql, many, many=True))  # type: ignore[no-any-return]
        await self._log_before(sql)
        async with self._statement(sql):
            await self._send_unsent()
            await self._cursor.executemany(numbered(sql), many)
            return max(self._cursor.rowcount, 0)

    async def fetch_all(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """All rows of one query."""
        if self._holder is not None and self._holder is asyncio.current_task():
            return await self._hold(Held(sql, parameters, fetches=True))  # type: ignore[no-any-return]
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
                guard = None if _OURS in sql else self._set_guard()
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

    def hold(self) -> bool:
        """From now on statements of the current task wait for `send`."""
        self._holder = asyncio.current_task()
        return True

    def _hold(self, statement: Held) -> Held:
        self._check()
        self._held.append(statement)
        return statement

    async def send(self, *, last: bool = False) -> None:
        """Send what waits, in order and in one message. What fails costs the whole unit: no savepoint is set."""
        if last:
            self._holder = None
        if self._held:
            async with self._statement(_OURS):
                pass

    async def _send_held(self) -> None:
        held, self._held = self._held, []
        try:
            with translated(self._where):
                await self._send_unsent()
                first = held[0].sql
                if any(each.fetches or each.many or each.sql != first for each in held):
                    await self._send_different(held)
                else:
                    await self._send_alike(held)
        except BaseException as error:
            self._over = self._over or StoreError(f"statements sent together failed ({error})", where=self.shown)
            raise

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
                    await cursor.executemany(numbered(each.sql), each.parameters)
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

    @property
    def schema(self) -> str:
        """The store's schema."""
        return self._where.schema

    @property
    def shown(self) -> str:
        """Where it is."""
        return self._where.shown

    # ------------------------------------------------------------------ savepoints

    async def savepoint(self) -> None:
        """Mark a place to return to; the earlier mark is given up. It goes out with the next statement."""
        self._check()
        if not (self._unsent and self._unsent[-1] is _MARK):
            if self._has_savepoint:
                self._unsent.append(_UNMARK)
            self._unsent.append(_MARK)
        self._has_savepoint = True
        self._has_guard = False
        self._mark = len(self._outgoing)
        self._before_mark.clear()

    async def rollback_to_savepoint(self) -> None:
        """Undo everything after the mark, and give the mark up."""
        self._check()
        if _MARK in self._unsent:
            del self._unsent[self._unsent.index(_MARK) :]
        else:
            self._unsent = [_BACK, _UNMARK]
        self._has_savepoint = self._has_guard = False
        self._outgoing = [*self._before_mark, *self._outgoing[: self._mark]]
        self._before_mark.clear()
        self._mark = 0

    # ------------------------------------------------------------------ the log

    async def append(self, events: Iterable[tuple[Envelope, int]]) -> None:
        """Append to the log when the unit ends; an id that is there already is skipped."""
        self._check()
        answered = []
        for envelope, origin in events:
            self._outgoing.append((*log_row(envelope, origin), None))
            self.types[envelope.type] = None
            if envelope.request_id is not None:
                answered.append((f"{TIMEOUT_OF}{envelope.request_id}",))
        if answered:
            await self.execute_many(query("end_timer"), answered)

    async def append_for(self, envelope: Envelope, origin: int, handler_id: int) -> None:
        """Append an event that one handler alone is owed."""
        self._check()
        self._outgoing.append((*log_row(envelope, origin), handler_id))
        self.types[envelope.type] = None

    async def one_at_a_time(self) -> None:
        """Go on when nobody else registers handlers."""
        await self._run(self._cursor, query("lock_log"), (self._lock_id + 1,))

    async def _log_before(self, sql: str) -> None:
        """Insert what was appended before a statement that may look at it."""
        if self._outgoing and "antiphon_log" in sql:
            if self._has_savepoint:
                self._before_mark += self._outgoing[: self._mark]
            rows, self._outgoing, self._mark = self._outgoing, [], 0
            async with self._statement(_OURS):
                await self._send_unsent()
                async with self._connection.pipeline():
                    await self._send_insert(rows)

    async def _send_insert(self, rows: list[tuple[Any, ...]]) -> None:
        """Insert events, from now until the commit as the only one."""
        await self._connection.execute(query("lock_log").encode(), (self._lock_id,))
        columns: list[Sequence[Any]] = [list(column) for column in zip(*rows, strict=True)]
        await self._connection.execute(query("append").encode(), [list(kept(column)) for column in columns])

    async def prepare_commit(self) -> None:
        """Write what was kept for the end; afterwards it is known what the server calls the transaction."""
        await self.write_later()
        if self.transaction is None:
            async with self._statement(_OURS):
                rows, self._outgoing = self._outgoing, []
                await self._send_unsent()
                if rows:
                    async with self._connection.pipeline():
                        await self._send_insert(rows)

    async def commit(self) -> None:
        """Commit. Raises StoreError; of a connection that is gone, only the server knows what has come of it."""
        rows, self._outgoing = self._outgoing, []
        async with self._statement(_OURS):
            await self._send_unsent()
            async with self._connection.pipeline():
                if rows:
                    await self._send_insert(rows)
                committed = await self._connection.execute(b"COMMIT")
            if committed.statusmessage != "COMMIT":
                raise RolledBack("PostgreSQL has rolled the transaction back", where=self.shown)

    # ------------------------------------------------------------------ settling

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

    # ------------------------------------------------------------------ its end

    def query(self, name: str) -> str:
        """The SQL of a named block."""
        return query(name)

    def wake(self, types: Iterable[str]) -> None:
        """Wake, once this has committed, whoever listens to one of *types*."""
        self.types.update(dict.fromkeys(types))

    def end(self) -> None:
        """Nothing more can be done in this unit."""
        self._over = self._over or DeclarationError("the unit is over")

    def _check(self) -> None:
        if self._over is not None:
            raise self._over
