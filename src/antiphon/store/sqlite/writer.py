"""The one writer of a file in this process: units of work that share commits.

A unit waits in line, writes inside its own savepoint, and then either commits or, when others wait,
lets the next one write into the same SQLite transaction first. One ``fsync`` then makes all of them
durable (group commit). Each unit's ``async with`` ends only when its work is durable.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from antiphon.errors import StoreError
from antiphon.ports import Clock
from antiphon.store.sqlite.connection import is_busy, translated
from antiphon.store.sqlite.place import Gate
from antiphon.store.sqlite.tail import Run

log = logging.getLogger("antiphon.store")

# A transaction takes in more units for this long, so that no other process waits much longer.
GROUP_MS = 10
# A foreign writer (one that does not know the gate) may hold SQLite's lock for this long.
FOREIGN_LOCK_MS = 30_000
# A commit slower than this goes to a thread: a short one costs less than the way to the thread and back.
SLOW_COMMIT_SECONDS = 0.002


class Group:
    """The units that one commit makes durable."""

    __slots__ = ("durable", "members", "runs", "started_ms", "types")

    def __init__(self, started_ms: int, durable: asyncio.Future[None]) -> None:
        self.started_ms = started_ms
        self.durable = durable
        self.members = 0
        self.types: dict[str, None] = {}
        self.runs: list[Run] = []


class Writer:
    """Serialises the units of one process on one file, and groups their commits."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: Path,
        gate: Gate,
        clock: Clock,
        committed: Callable[[Group], None],
    ) -> None:
        self.connection = connection
        self._path = path
        self._gate = gate
        self._clock = clock
        self._committed = committed
        self._turn = asyncio.Lock()
        self._holder: asyncio.Task[Any] | None = None
        self._waiting = 0
        self._group: Group | None = None
        self._commit_seconds = 0.0
        self._pid = os.getpid()
        self._chores: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def unit(self) -> AsyncIterator[Group]:
        """One unit of work. Raises StoreError when it could not be made durable; then nothing was kept."""
        self.refuse_nesting()
        group = await self._enter()
        self._holder = asyncio.current_task()
        joined = group.members > 0
        try:
            if joined:
                self.connection.execute("SAVEPOINT antiphon_unit")
            yield group
            if joined:
                with translated(self._path):
                    self.connection.execute("RELEASE antiphon_unit")
        except BaseException as error:
            self._holder = None
            await self._abandon(group, joined, error)
            raise
        self._holder = None
        group.members += 1
        if self._may_join(group):
            self._turn.release()
        else:
            await self._finish(group)
        await asyncio.shield(group.durable)

    def refuse_nesting(self) -> None:
        """Raise StoreError if this task holds the writer already: it would wait for itself for ever."""
        if self._holder is not None and self._holder is asyncio.current_task():
            raise StoreError(
                "this task has an open write transaction already, and would wait for itself",
                where=str(self._path),
                mend="Write and publish through that transaction: tx.execute(...), tx.publish(...)",
            )

    async def _enter(self) -> Group:
        if os.getpid() != self._pid:
            raise StoreError("this store was opened before a fork", where=str(self._path), mend="Open it in the child")
        self._waiting += 1
        try:
            await self._turn.acquire()
        except asyncio.CancelledError:
            self._waiting -= 1
            self._commit_if_left_alone()
            raise
        self._waiting -= 1
        if self._group is None:
            try:
                self._group = await self._begin()
            except BaseException:
                self._turn.release()
                raise
        return self._group

    async def _begin(self) -> Group:
        await self._gate.acquire()
        try:
            await self._begin_immediate()
        except BaseException:
            self._gate.release()
            raise
        return Group(self._clock.boot_ms(), asyncio.get_running_loop().create_future())

    async def _begin_immediate(self) -> None:
        """BEGIN IMMEDIATE; a deferred transaction's upgrade would fail at once, whatever the time-out."""
        deadline = self._clock.boot_ms() + FOREIGN_LOCK_MS
        pause = 0.0005
        while True:
            try:
                self.connection.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.Error as error:
                with translated(self._path):
                    if not is_busy(error) or self._clock.boot_ms() > deadline:
                        raise
            await self._clock.sleep(pause * (0.5 + self._clock.random()))
            pause = min(pause * 2, 0.05)

    async def _abandon(self, group: Group, joined: bool, error: BaseException) -> None:
        """Undo the unit that failed; those before it in the group still commit."""
        group.runs.clear()  # what the tail does not get to know is read from the database
        try:
            if not self.connection.in_transaction:
                # SQLite itself rolled back (disk full, I/O error): the whole group is gone.
                rolled_back = StoreError("the transaction was rolled back by SQLite", where=str(self._path))
                self._fail(group, error if isinstance(error, StoreError) else rolled_back)
            elif joined:
                self.connection.execute("ROLLBACK TO antiphon_unit")
                self.connection.execute("RELEASE antiphon_unit")
            else:
                self.connection.execute("ROLLBACK")
        except sqlite3.Error as refused:
            with suppress(sqlite3.Error):
                self.connection.execute("ROLLBACK")
            self._fail(group, StoreError(f"could not roll back ({refused})", where=str(self._path)))
        if group.members and not group.durable.done():
            await self._finish(group)
        else:
            self._close_group()

    def _may_join(self, group: Group) -> bool:
        """Whether a unit waits that may still join the group."""
        return self._waiting > 0 and self._clock.boot_ms() - group.started_ms < GROUP_MS

    async def _finish(self, group: Group) -> None:
        """Commit, or leave it to a unit that joins, whatever happens to the task that runs this."""
        await asyncio.shield(self._chore(self._commit_unless_joined(group)))

    def _chore(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Do *work* in a task of its own: the caller may be cancelled, a statement in a thread cannot."""
        chore = asyncio.ensure_future(work)
        self._chores.add(chore)
        chore.add_done_callback(self._chores.discard)
        return chore

    async def _commit_unless_joined(self, group: Group) -> None:
        # Whom the last commit has woken is about to write: one turn of the loop lets it join.
        await asyncio.sleep(0)
        if self._may_join(group):
            self._turn.release()
        else:
            await self._commit(group)

    async def _commit(self, group: Group) -> None:
        try:
            await self._commit_once()
        except (StoreError, sqlite3.Error) as error:
            with suppress(sqlite3.Error):
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
            self._fail(group, error)
        else:
            group.durable.set_result(None)
        finally:
            self._close_group()
        if not group.durable.exception():
            try:
                self._committed(group)
            except Exception:
                # Durable all the same: whoever was to be woken finds it within a second (look_after).
                log.exception("a commit in %s could not be announced", self._path)

    async def _commit_once(self) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        with translated(self._path):
            if self._commit_seconds < SLOW_COMMIT_SECONDS:
                self.connection.execute("COMMIT")
            else:
                await self._clock.run_blocking(lambda: self.connection.execute("COMMIT"))
        self._commit_seconds = 0.8 * self._commit_seconds + 0.2 * (loop.time() - started)

    def _fail(self, group: Group, error: BaseException) -> None:
        if not group.durable.done():
            group.durable.set_exception(error)
            group.durable.exception()  # each member raises it; nobody may have waited yet

    def _close_group(self) -> None:
        self._group = None
        self._gate.release()
        self._turn.release()

    def _commit_if_left_alone(self) -> None:
        """A waiter left: if the open group counted on it, commit now."""
        if self._group is not None and not self._waiting and not self._turn.locked():
            self._chore(self._commit_abandoned())

    async def _commit_abandoned(self) -> None:
        await self._turn.acquire()
        if self._group is None:
            self._turn.release()
        else:
            await self._commit(self._group)

    async def exclusive(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        """Run *work* in a thread while nobody writes, in this process or another (checkpoints, closing)."""
        return await asyncio.shield(self._chore(self._work_alone(work)))

    async def _work_alone(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        async with self.alone():
            with translated(self._path):
                return await self._clock.run_blocking(lambda: work(self.connection))

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Meanwhile nobody writes, in this process or another."""
        await self._enter_alone()
        try:
            yield
        finally:
            self._gate.release()
            self._turn.release()

    async def _enter_alone(self) -> None:
        while True:
            await self._turn.acquire()
            if self._group is None:
                break
            await self._finish(self._group)
        try:
            await self._gate.acquire()
        except BaseException:
            self._turn.release()
            raise
