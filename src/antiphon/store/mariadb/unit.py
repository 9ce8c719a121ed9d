"""What can be done inside one write transaction on MariaDB: the service's own SQL, the log, and settling."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from asyncmy.errors import Error

from antiphon.errors import DeclarationError, StoreError
from antiphon.model.envelope import Envelope
from antiphon.ports import TIMEOUT_OF, Clock, Held, Lease
from antiphon.store.mariadb.connection import Address, Result, Session, store_error
from antiphon.store.mariadb.queries import query
from antiphon.store.mariadb.sending import changed, rows_of, run_held, run_one
from antiphon.store.mariadb.statements import defines, ends_transaction, understood
from antiphon.store.rows import log_row
from antiphon.store.units import SqlUnit

_MARK, _BACK = "SAVEPOINT antiphon_event", "ROLLBACK TO SAVEPOINT antiphon_event"
_GUARD, _UNDO = "SAVEPOINT antiphon_statement", "ROLLBACK TO SAVEPOINT antiphon_statement"
_OURS = "antiphon_"
_COLUMNS = (
    *("id", "type", "version", "`key`", "service", "time_ms", "correlation_id", "causation_id", "traceparent"),
    *("target", "request_id", "deadline_ms", "origin", "data", "addressee"),
)


class MariaUnit(SqlUnit):
    """One unit of work on a session of its own (``ports.Unit``), whose first statement begins the transaction.

    Events are kept until the end: the head of the log is locked for their insertion and the commit, and for nothing
    else, so that they become visible in the order of their positions, and a long transaction keeps nobody waiting.

    A statement of the service's that fails undoes itself alone, as on SQLite: MariaDB sees to that, but for one that
    runs for many rows.
    """

    __slots__ = (
        "_before_mark",
        "_begun",
        "_busy",
        "_drawn",
        "_failed",
        "_has_savepoint",
        "_held",
        "_holder",
        "_mark",
        "_outgoing",
        "_over",
        "_session",
        "_turn",
        "_unsent",
        "_where",
        "_wrote",
        "before",
        "head",
        "in_doubt",
        "is_cut",
        "types",
    )

    def __init__(self, session: Session, where: Address, clock: Clock, store_ms: int) -> None:
        super().__init__(clock, store_ms)
        self._session = session
        self._where = where
        self._turn = asyncio.Lock()
        self._busy = 0
        self._unsent: list[str] = []
        self._over: Exception | None = None
        self._begun = self._wrote = self._drawn = self._failed = False
        self._has_savepoint = False
        self._held: list[Held] = []
        self._holder: asyncio.Task[Any] | None = None
        self._outgoing: list[tuple[Any, ...]] = []
        self._before_mark: list[tuple[Any, ...]] = []
        self._mark = 0
        #: The positions of what came before its events, and of the newest of them.
        self.before = self.head = 0
        #: Whether the server was asked to commit, and has not answered.
        self.in_doubt = False
        #: Whether a statement was given up amid, so that the server may still be at work on it.
        self.is_cut = False
        #: Types that were appended, or are to wake those who listen to them.
        self.types: dict[str, None] = {}

    @property
    def session(self) -> Session:
        """The session that this unit's transaction is open on."""
        return self._session

    @property
    def busy(self) -> bool:
        """Whether a statement of this unit is under way."""
        return self._busy > 0

    @property
    def shown(self) -> str:
        """Where it is."""
        return self._where.shown

    # ------------------------------------------------------------------ statements

    async def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run one statement; returns the rows that it changed."""
        if self._holder is not None and self._holder is asyncio.current_task():
            return await self._hold(Held(sql, parameters))  # type: ignore[no-any-return]
        return changed(understood(sql), await self._run(sql, parameters))

    async def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> int:
        """Run one statement for each of *rows*; returns the rows changed."""
        if self._holder is not None and self._holder is asyncio.current_task():
            return await self._hold(Held(sql, list(rows), many=True))  # type: ignore[no-any-return]
        statement = understood(sql)
        if statement.kind == "skip" and (_OURS not in sql or statement.many is None):
            return sum([await self.execute(sql, row) for row in rows])
        many = [statement.bound(row) for row in rows]
        if not many:
            return 0
        await self._log_before(sql)
        is_guarded = _OURS not in sql and len(many) > 1
        async with self._statement(sql):
            if is_guarded:
                self._unsent.append(_GUARD)
            await self._send_unsent()
            self._wrote = True
            try:
                found = await self._session.run_many(statement.many or statement.text, many)
            except Error as error:
                if is_guarded and store_error(error, self._where) is None:
                    await self._session.say(_UNDO)
                raise
        return min(found, len(many)) if statement.kind == "upsert" else found

    async def fetch_all(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """All rows of one query."""
        if self._holder is not None and self._holder is asyncio.current_task():
            return await self._hold(Held(sql, parameters, fetches=True))  # type: ignore[no-any-return]
        return rows_of(await self._run(sql, parameters))

    async def _run(self, sql: str, parameters: Sequence[Any]) -> Result | None:
        """What one statement has come to; None if its row was there already, and it says to leave that alone."""
        await self._log_before(sql)
        statement = understood(sql)
        async with self._statement(sql):
            await self._send_unsent()
            found = await run_one(self._session, statement, parameters)
            self._wrote = self._wrote or not statement.reads
            return found

    async def _send_unsent(self) -> None:
        """Send what was put off, as one message."""
        if self._unsent:
            unsent, self._unsent = self._unsent, []
            await self._session.say("; ".join(unsent))

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
        word = None if _OURS in sql else ends_transaction(sql)
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
        if self._begun and not self._session.in_transaction:
            self._over = DeclarationError(f"a statement has ended the transaction: {sql[:80]}", where=self.shown)
            raise self._over
        self._begun = self._session.in_transaction

    # ------------------------------------------------------------------ statements that travel together

    def hold(self) -> bool:
        """From now on statements of the current task wait for `send`."""
        self._holder = asyncio.current_task()
        return True

    def _hold(self, statement: Held) -> Held:
        self._check()
        word = ends_transaction(statement.sql)
        if word is not None:
            raise self._refused(word)
        self._held.append(statement)
        return statement

    async def send(self, *, last: bool = False) -> None:
        """Send what waits, in order and in one go. What fails costs the whole unit: no savepoint is set."""
        if last:
            self._holder = None
        if self._held:
            async with self._statement(_OURS):
                pass

    async def _send_held(self) -> None:
        held, self._held = self._held, []
        try:
            await self._send_unsent()
            self._wrote = True
            await run_held(self._session, held)
        except BaseException as error:
            self._over = self._over or StoreError(f"statements sent together failed ({error})", where=self.shown)
            raise

    # ------------------------------------------------------------------ savepoints

    async def savepoint(self) -> None:
        """Mark a place to return to; the earlier mark is given up. It goes out with the next statement."""
        self._check()
        if not (self._unsent and self._unsent[-1] is _MARK):
            self._unsent.append(_MARK)
        self._has_savepoint = True
        self._mark = len(self._outgoing)
        self._before_mark.clear()

    async def rollback_to_savepoint(self) -> None:
        """Undo everything after the mark, and give the mark up."""
        self._check()
        if self._unsent and self._unsent[-1] is _MARK:
            self._unsent.pop()
        else:
            self._unsent.append(_BACK)
        self._has_savepoint = self._drawn = False
        self.head = 0  # it goes back as well
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
        await self._run(query("lock_register"), ())

    async def _log_before(self, sql: str) -> None:
        """Insert what was appended before a statement that may look at it."""
        if self._outgoing and "antiphon_log" in sql:
            if self._has_savepoint:
                self._before_mark += self._outgoing[: self._mark]
            rows, self._outgoing, self._mark = self._outgoing, [], 0
            async with self._statement(_OURS):
                await self._send_unsent()
                drawn = await self._session.run(understood(query("draw_more")), (len(rows),))
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
        await self._session.run_many(text, many)

    async def prepare_commit(self) -> None:
        """Write what was kept for the end."""
        await self.write_later()

    async def commit(self) -> None:
        """Commit. Raises StoreError; if it is `in_doubt` then, only the server knows what has come of it."""
        rows, self._outgoing = self._outgoing, []
        if not (rows or self.types or self._begun or self._failed):
            self._check()
            return
        async with self._statement(_OURS):
            if self._unsent and self._unsent[-1] is _MARK:
                self._unsent.pop()
            await self._send_unsent()
            self._session.nr += 1
            if rows or (self.types and not self._drawn):
                await self._draw_last(rows)
            elif self._wrote:
                await self._note()
            self.in_doubt = self._wrote
            await self._session.say("COMMIT")
            self.in_doubt = self._begun = self._failed = False

    async def _draw_last(self, rows: list[tuple[Any, ...]]) -> None:
        """Draw positions for *rows*, note the transaction, and insert them. Without any the head moves all the same:
        that wakes the others."""
        session = self._session
        drawn = await session.run(
            understood(query("draw_positions")), (max(len(rows), 1), session.nr, self._store_ms, session.slot)
        )
        if drawn.affected != 2:  # its place for notes was tidied away
            drawn = await session.run(understood(query("draw_more")), (max(len(rows), 1),))
            await self._note()
        self._wrote, self.head = True, drawn.insert_id
        if not rows:
            self.before = self.head - 1
        else:
            await self._insert(rows, drawn.insert_id)

    async def _note(self) -> None:
        """Note the transaction in it."""
        session = self._session
        noted = await session.run(understood(query("note_commit")), (session.nr, self._store_ms, session.slot))
        if noted.affected != 1:
            place = (session.slot, session.owner, session.nr, self._store_ms)
            await session.run(understood(query("put_slot")), place)

    # ------------------------------------------------------------------ settling

    async def open_keys(self, lease: Lease, keys: Iterable[str]) -> frozenset[str]:
        """Which of *keys* have a delivery that is not over."""
        wanted = list(keys)
        if not wanted or not (await self.fetch_all(query("has_open"), (lease.handler_id,)))[0][0]:
            return frozenset()
        # Padded to a power of two, so that there are few different statements to prepare.
        padded = [*wanted, *wanted[:1] * ((1 << (len(wanted) - 1).bit_length()) - len(wanted))]
        marks = ", ".join("?" * len(padded))
        digests = ", ".join(["unhex(md5(?))"] * len(padded))
        sql = query("part_open_keys").format(digests=digests, keys=marks)
        return frozenset(key for (key,) in await self.fetch_all(sql, (lease.handler_id, *padded, *padded)))

    # ------------------------------------------------------------------ its end

    async def undo(self) -> None:
        """Roll back, if the server is there to be told."""
        with suppress(Error, OSError):
            if not self._session.closed and (self._begun or self._failed or self._session.in_transaction):
                await self._session.say("ROLLBACK")

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
