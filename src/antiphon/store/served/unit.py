"""What units on a database server do alike: statements that wait for each other, events that wait for the end."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic

from antiphon.errors import DeclarationError, StoreError
from antiphon.model.envelope import Envelope
from antiphon.ports import TIMEOUT_OF, Clock, Held
from antiphon.store.rows import log_row
from antiphon.store.served.connection import C, W
from antiphon.store.units import SqlUnit

#: What only our own statements have in them: all our tables begin so.
OURS = "antiphon_"


class ServedUnit(SqlUnit, Generic[W, C]):
    """One unit of work on a connection of its own (``ports.Unit``).

    What marks its savepoints goes out when there is a statement to follow. Events are kept until the end: the log is
    locked for their insertion and the commit, and for nothing else, so that they become visible in the order of their
    positions, and a long transaction keeps nobody waiting.
    """

    __slots__ = (
        "_before_mark",
        "_busy",
        "_connection",
        "_has_savepoint",
        "_held",
        "_holder",
        "_mark",
        "_outgoing",
        "_over",
        "_turn",
        "_where",
        "types",
    )

    def __init__(self, connection: C, where: W, clock: Clock, store_ms: int) -> None:
        super().__init__(clock, store_ms)
        self._connection = connection
        self._where = where
        self._turn = asyncio.Lock()
        self._busy = 0
        self._over: Exception | None = None
        self._has_savepoint = False
        self._held: list[Held] = []
        self._holder: asyncio.Task[Any] | None = None
        self._outgoing: list[tuple[Any, ...]] = []
        self._before_mark: list[tuple[Any, ...]] = []
        self._mark = 0
        #: Types that were appended, or are to wake those who listen to them.
        self.types: dict[str, None] = {}

    # ------------------------------------------------------------------ the server's

    @property
    @abstractmethod
    def in_doubt(self) -> bool:
        """Whether the connection broke at the commit, so that only the server knows what has come of it."""

    @abstractmethod
    async def commit(self) -> None:
        """Commit, with what was kept until now. Raises StoreError."""

    @abstractmethod
    async def undo(self) -> None:
        """Roll back, if the server is there to be told."""

    @abstractmethod
    def _statement(self, sql: str) -> AbstractAsyncContextManager[None]:
        """Around one statement: one at a time, and behind those that wait. What is the server's fault is raised as the
        store's."""

    @abstractmethod
    async def _execute(self, sql: str, parameters: Sequence[Any]) -> int:
        """Run one statement; returns the rows that it changed."""

    @abstractmethod
    async def _execute_many(self, sql: str, rows: list[Sequence[Any]]) -> int:
        """Run one statement for each of *rows*; returns the rows changed."""

    @abstractmethod
    async def _fetch_all(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        """All rows of one query."""

    @abstractmethod
    async def _send_together(self, held: list[Held]) -> None:
        """Send statements in one go, in order, and put each its result."""

    @abstractmethod
    def _set_mark(self) -> None:
        """Have the savepoint set before the next statement; the earlier one is given up."""

    @abstractmethod
    def _go_back_to_mark(self) -> None:
        """Have all after the savepoint undone before the next statement, and the savepoint given up."""

    @abstractmethod
    async def _insert_early(self, rows: list[tuple[Any, ...]]) -> None:
        """Insert events before the end; from now on the log is locked."""

    # ------------------------------------------------------------------ statements

    @property
    def connection(self) -> C:
        """The connection that this unit's transaction is open on."""
        return self._connection

    @property
    def busy(self) -> bool:
        """Whether a statement of this unit is under way."""
        return self._busy > 0

    @property
    def shown(self) -> str:
        """Where it is."""
        return self._where.shown

    async def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run one statement; returns the rows that it changed."""
        if self._holder is not None and self._holder is asyncio.current_task():
            return await self._hold(Held(sql, parameters))  # type: ignore[no-any-return]
        return await self._execute(sql, parameters)

    async def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> int:
        """Run one statement for each of *rows*; returns the rows changed."""
        many = list(rows)
        if not many:
            return 0
        if self._holder is not None and self._holder is asyncio.current_task():
            return await self._hold(Held(sql, many, many=True))  # type: ignore[no-any-return]
        return await self._execute_many(sql, many)

    async def fetch_all(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """All rows of one query."""
        if self._holder is not None and self._holder is asyncio.current_task():
            return await self._hold(Held(sql, parameters, fetches=True))  # type: ignore[no-any-return]
        return await self._fetch_all(sql, parameters)

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
        """Send what waits, in order and in one go. What fails costs the whole unit: no savepoint is set."""
        if last:
            self._holder = None
        if self._held:
            async with self._statement(OURS):
                pass

    async def _send_held(self) -> None:
        held, self._held = self._held, []
        try:
            await self._send_together(held)
        except BaseException as error:
            self._over = self._over or StoreError(f"statements sent together failed ({error})", where=self.shown)
            raise

    # ------------------------------------------------------------------ savepoints

    async def savepoint(self) -> None:
        """Mark a place to return to; the earlier mark is given up. It goes out with the next statement."""
        self._check()
        self._set_mark()
        self._has_savepoint = True
        self._mark = len(self._outgoing)
        self._before_mark.clear()

    async def rollback_to_savepoint(self) -> None:
        """Undo everything after the mark, and give the mark up."""
        self._check()
        self._go_back_to_mark()
        self._has_savepoint = False
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
            await self.execute_many(self.query("end_timer"), answered)

    async def append_for(self, envelope: Envelope, origin: int, handler_id: int) -> None:
        """Append an event that one handler alone is owed."""
        self._check()
        self._outgoing.append((*log_row(envelope, origin), handler_id))
        self.types[envelope.type] = None

    async def _log_before(self, sql: str) -> None:
        """Insert what was appended before a statement that may look at it."""
        if self._outgoing and "antiphon_log" in sql:
            if self._has_savepoint:
                self._before_mark += self._outgoing[: self._mark]
            rows, self._outgoing, self._mark = self._outgoing, [], 0
            await self._insert_early(rows)

    def wake(self, types: Iterable[str]) -> None:
        """Wake, once this has committed, whoever listens to one of *types*."""
        self.types.update(dict.fromkeys(types))

    # ------------------------------------------------------------------ its end

    async def prepare_commit(self) -> None:
        """Write what was kept for the end."""
        await self.write_later()

    def end(self) -> None:
        """Nothing more can be done in this unit."""
        self._over = self._over or DeclarationError("the unit is over")

    def _check(self) -> None:
        if self._over is not None:
            raise self._over
