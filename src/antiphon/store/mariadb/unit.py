"""What can be done inside one write transaction on MariaDB: the service's own SQL, the log, and settling."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from asyncmy.errors import Error

from antiphon.errors import DeclarationError, StoreError
from antiphon.ports import Clock, Held, Lease
from antiphon.store.leases import LEASE_MS
from antiphon.store.mariadb.connection import IDLE, IDLE_S, Address, Result, Session, store_error
from antiphon.store.mariadb.queries import query
from antiphon.store.mariadb.sending import changed, rows_of, run_held, run_one
from antiphon.store.mariadb.statements import defines, ends_transaction, understood
from antiphon.store.served.unit import OURS, ServedUnit
from antiphon.store.units import padded

_MARK, _BACK = "SAVEPOINT antiphon_event", "ROLLBACK TO SAVEPOINT antiphon_event"
_GUARD, _UNDO = "SAVEPOINT antiphon_statement", "ROLLBACK TO SAVEPOINT antiphon_statement"
#: Who has what all wait for (these lock it), and then says nothing for as long as a lease lasts, stands still, or is
#: gone without a word, and loses it.
HOLDING_IDLE_S = LEASE_MS // 1000
_HOLDING = frozenset(
    query(name)
    for name in (
        *("draw_positions", "draw_more", "move_cursor", "holds_lease", "take_turn", "take_redrive", "take_redrives"),
        *("due_timers", "lock_register"),
    )
)
_COLUMNS = (
    *("id", "type", "version", "`key`", "service", "time_ms", "correlation_id", "causation_id", "traceparent"),
    *("target", "request_id", "deadline_ms", "origin", "data", "addressee"),
)


class MariaUnit(ServedUnit[Address, Session]):
    """One unit of work on a session of its own, whose first statement begins the transaction. The log's lock is that of
    the row with its head.

    A statement of the service's that fails undoes itself alone, as on SQLite: MariaDB sees to that, but for one that
    runs for many rows.
    """

    __slots__ = (
        "_begun",
        "_drawn",
        "_failed",
        "_holds",
        "_is_asked",
        "_unsent",
        "_wrote",
        "before",
        "head",
        "is_cut",
    )

    def __init__(self, connection: Session, where: Address, clock: Clock, store_ms: int) -> None:
        super().__init__(connection, where, clock, store_ms)
        self._unsent: list[str] = []
        self._begun = self._wrote = self._drawn = self._failed = False
        # Whether the server was asked to commit something, and has not answered.
        self._is_asked = False
        # Whether it has what all wait for.
        self._holds = False
        #: The positions of what came before its events, and of the newest of them.
        self.before = self.head = 0
        #: Whether a statement was given up amid, so that the server may still be at work on it.
        self.is_cut = False

    @property
    def in_doubt(self) -> bool:
        """Whether the connection broke at the commit, so that only the server knows what has come of it."""
        return self._is_asked and self._connection.closed

    # ------------------------------------------------------------------ statements

    async def _execute(self, sql: str, parameters: Sequence[Any]) -> int:
        return changed(understood(sql), await self._run(sql, parameters))

    async def _execute_many(self, sql: str, rows: list[Sequence[Any]]) -> int:
        statement = understood(sql)
        if statement.kind == "skip" and (OURS not in sql or statement.many is None):
            return sum([await self._execute(sql, row) for row in rows])
        many = [statement.bound(row) for row in rows]
        await self._log_before(sql)
        is_guarded = OURS not in sql and len(many) > 1
        async with self._statement(sql):
            if is_guarded:
                self._unsent.append(_GUARD)
            await self._send_unsent()
            self._wrote = True
            if (idle_s := self._idle_s(sql)) is not None:
                await run_one(self._connection, IDLE, (idle_s,))
                self._connection.idle_s = idle_s
            try:
                found = await self._connection.run_many(statement.many or statement.text, many)
            except Error as error:
                if is_guarded and store_error(error, self._where) is None:
                    await self._connection.say(_UNDO)
                raise
        return min(found, len(many)) if statement.kind == "upsert" else found

    async def _fetch_all(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        return rows_of(await self._run(sql, parameters))

    async def _run(self, sql: str, parameters: Sequence[Any]) -> Result | None:
        """What one statement has come to; None if its row was there already, and it says to leave that alone."""
        await self._log_before(sql)
        statement = understood(sql)
        async with self._statement(sql):
            await self._send_unsent()
            found = await run_one(self._connection, statement, parameters, self._idle_s(sql))
            self._wrote = self._wrote or not statement.reads
            return found

    def _idle_s(self, *statements: str) -> int | None:
        """For how long it may stand still behind *statements*, in seconds; None if that is what the server knows."""
        self._holds = self._holds or not _HOLDING.isdisjoint(statements)
        wanted = HOLDING_IDLE_S if self._holds else IDLE_S
        return None if self._connection.idle_s == wanted else wanted

    async def _run_plain(self, sql: str, parameters: Sequence[Any]) -> Result:
        """Run one statement of ours that always comes to something."""
        found = await run_one(self._connection, understood(sql), parameters, self._idle_s(sql))
        assert found is not None
        return found

    async def _send_unsent(self) -> None:
        """Send what was put off, as one message."""
        if self._unsent:
            unsent, self._unsent = self._unsent, []
            await self._connection.say("; ".join(unsent))

    @asynccontextmanager
    async def _statement(self, sql: str) -> AsyncIterator[None]:
        """One statement at a time. What is MariaDB's fault is raised as the store's, and ends the unit."""
        self._refuse_what_ends_it(sql)
        self._busy += 1
        try:
            async with self._turn:
                self._check()
                try:
                    if self._held:
                        await self._send_held()
                    yield
                except Error as error:
                    # The answer does not say so, but it may have begun the transaction, and have left locks there.
                    self._failed = True
                    ours = store_error(error, self._where)
                    if ours is not None:
                        self._over = self._over or ours
                        raise ours from error
                    raise
                except asyncio.CancelledError:
                    self._over = self._over or StoreError("a statement was cut short", where=self.shown)
                    self.is_cut = True
                    raise
                self._see_whether_it_is_open(sql)
        finally:
            self._busy -= 1

    def _refuse_what_ends_it(self, sql: str) -> None:
        """A change of tables commits all that was before it: there must be nothing. Raises DeclarationError."""
        word = None if OURS in sql else ends_transaction(sql)
        if word is None or (defines(sql) and not (self._begun or self._unsent or self._outgoing)):
            return
        raise self._refused(word)

    def _refused(self, word: str) -> DeclarationError:
        return DeclarationError(
            f"{word} would commit or end the transaction that it is in",
            where=self.shown,
            mend="Make and change tables in the service's tables=; transactions and savepoints are the unit's",
        )

    def _see_whether_it_is_open(self, sql: str) -> None:
        """A statement that has committed what was before it is found out, though it may be a procedure's."""
        if self._begun and not self._connection.in_transaction:
            self._over = DeclarationError(f"a statement has ended the transaction: {sql[:80]}", where=self.shown)
            raise self._over
        self._begun = self._connection.in_transaction

    # ------------------------------------------------------------------ statements that travel together

    def _hold(self, statement: Held) -> Held:
        word = ends_transaction(statement.sql)
        if word is not None:
            raise self._refused(word)
        return super()._hold(statement)

    async def _send_together(self, held: list[Held]) -> None:
        await self._send_unsent()
        self._wrote = True
        await run_held(self._connection, held, self._idle_s(*(each.sql for each in held)))

    # ------------------------------------------------------------------ savepoints

    def _set_mark(self) -> None:
        if not (self._unsent and self._unsent[-1] is _MARK):
            self._unsent.append(_MARK)

    def _go_back_to_mark(self) -> None:
        if self._unsent and self._unsent[-1] is _MARK:
            self._unsent.pop()
        else:
            self._unsent.append(_BACK)
        self._drawn = False
        self.head = 0  # it goes back as well

    # ------------------------------------------------------------------ the log

    async def one_at_a_time(self) -> None:
        """Go on when nobody else registers handlers."""
        await self._run(query("lock_register"), ())

    async def _insert_early(self, rows: list[tuple[Any, ...]]) -> None:
        async with self._statement(OURS):
            await self._send_unsent()
            drawn = await self._run_plain(query("draw_more"), (len(rows),))
            await self._insert(rows, drawn.insert_id)

    async def _insert(self, rows: list[tuple[Any, ...]], head: int) -> None:
        """Insert events at the positions up to *head*. A column in which none has anything is left out: MariaDB binds
        many rows at once if each column has a value."""
        if not self._drawn:
            self.before = head - len(rows)
        self._wrote = self._drawn = True
        self.head = head
        used = [place for place in range(len(_COLUMNS)) if any(row[place] is not None for row in rows)]
        names = ", ".join(_COLUMNS[place] for place in used)
        text = (
            f"INSERT INTO antiphon_log (seq, {names}) VALUES (?{', ?' * len(used)})"  # noqa: S608
            " ON DUPLICATE KEY UPDATE id = antiphon_log.id"
        )
        first = head - len(rows) + 1
        many = [(first + n, *(row[place] for place in used)) for n, row in enumerate(rows)]
        await self._connection.run_many(text, many)

    async def commit(self) -> None:
        """Commit, with what was kept until now. Raises StoreError."""
        rows, self._outgoing = self._outgoing, []
        if not (rows or self.types or self._begun or self._failed):
            self._check()
            return
        async with self._statement(OURS):
            if self._unsent and self._unsent[-1] is _MARK:
                self._unsent.pop()
            await self._send_unsent()
            self._connection.nr += 1
            if rows or (self.types and not self._drawn):
                await self._draw_last(rows)
            elif self._wrote:
                await self._note()
            self._is_asked = self._wrote
            await self._connection.say("COMMIT")
            self._is_asked = self._begun = self._failed = False

    async def _draw_last(self, rows: list[tuple[Any, ...]]) -> None:
        """Draw positions for *rows*, note the transaction, and insert them. Without any the head moves all the same:
        that wakes the others."""
        session = self._connection
        noted = (session.nr, self._store_ms, session.slot)
        drawn = await self._run_plain(query("draw_positions"), (max(len(rows), 1), *noted))
        if drawn.affected != 2:  # its place for notes was tidied away
            drawn = await self._run_plain(query("draw_more"), (max(len(rows), 1),))
            await self._note()
        self._wrote, self.head = True, drawn.insert_id
        if not rows:
            self.before = self.head - 1
        else:
            await self._insert(rows, drawn.insert_id)

    async def _note(self) -> None:
        """Note the transaction in it."""
        session = self._connection
        noted = await session.run(understood(query("note_commit")), (session.nr, self._store_ms, session.slot))
        if noted.affected != 1:
            place = (session.slot, session.owner, session.nr, self._store_ms)
            await session.run(understood(query("put_slot")), place)

    async def undo(self) -> None:
        """Roll back, if the server is there to be told."""
        with suppress(Error, OSError):
            if not self._connection.closed and (self._begun or self._failed or self._connection.in_transaction):
                await self._connection.say("ROLLBACK")

    # ------------------------------------------------------------------ settling

    def query(self, name: str) -> str:
        """The SQL of a named block."""
        return query(name)

    async def open_keys(self, lease: Lease, keys: Iterable[str]) -> frozenset[str]:
        """Which of *keys* have a delivery that is not over."""
        wanted = padded(keys)
        if not wanted or not (await self.fetch_all(query("has_open"), (lease.handler_id,)))[0][0]:
            return frozenset()
        marks = ", ".join("?" * len(wanted))
        digests = ", ".join(["unhex(md5(?))"] * len(wanted))
        sql = query("part_open_keys").format(digests=digests, keys=marks)
        return frozenset(key for (key,) in await self.fetch_all(sql, (lease.handler_id, *wanted, *wanted)))
