"""What can be done inside one write transaction: the service's own SQL, the log, and settling."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from antiphon.errors import DeclarationError, LeaseLost, RolledBack
from antiphon.model.delivery import DeadLetter, Done, RetryAt, Status
from antiphon.model.effects import Effect
from antiphon.model.envelope import Envelope
from antiphon.ports import TIMEOUT_OF, TIMER_SET, Clock, Lease, LoggedEvent, Settled, Starting, Timer
from antiphon.store.sqlite.connection import store_error
from antiphon.store.sqlite.effects import effect_row
from antiphon.store.sqlite.queries import query
from antiphon.store.sqlite.tail import Run
from antiphon.store.sqlite.writer import Group

_APPEND = query("append")
_APPEND_PLAIN = query("append_plain")


def log_row(envelope: Envelope, origin: int) -> tuple[Any, ...]:
    """The columns of *envelope* in the log, in the order of the ``append`` block."""
    correlation = envelope.correlation_id
    return (
        envelope.id,
        envelope.type,
        envelope.version,
        envelope.key,
        envelope.service,
        envelope.time_ms,
        None if correlation == envelope.id else correlation,
        envelope.causation_id,
        envelope.traceparent,
        envelope.target,
        envelope.request_id,
        envelope.deadline_ms,
        origin,
        envelope.data,
    )


def is_plain(envelope: Envelope) -> bool:
    """Whether *envelope* has nothing that only few have."""
    return (
        envelope.traceparent is None
        and envelope.target is None
        and envelope.request_id is None
        and envelope.deadline_ms is None
    )


def plain_row(envelope: Envelope, origin: int) -> tuple[Any, ...]:
    """The columns of a plain *envelope* in the log, in the order of the ``append_plain`` block."""
    correlation = envelope.correlation_id
    return (
        envelope.id,
        envelope.type,
        envelope.version,
        envelope.key,
        envelope.service,
        envelope.time_ms,
        None if correlation == envelope.id else correlation,
        envelope.causation_id,
        origin,
        envelope.data,
    )


def logged(row: Sequence[Any]) -> LoggedEvent:
    """A row of the log (the columns of the ``read_`` blocks) as a value."""
    seq, event_id, type_, version, key, service, time_ms, correlation, causation, trace, *rest = row
    target, request_id, deadline_ms, origin, data = rest
    envelope = Envelope(
        event_id,
        type_,
        version,
        key,
        service,
        time_ms,
        data,
        correlation or event_id,
        causation,
        trace,
        target,
        request_id,
        deadline_ms,
    )
    return LoggedEvent(seq, envelope, origin)


class _Over:
    """Stands in for the connection of a unit that is over."""

    __slots__ = ("_why",)

    def __init__(self, why: Exception) -> None:
        self._why = why

    def __getattr__(self, name: str) -> Any:
        raise self._why


class _Watched:
    """Around a unit's own statements: what SQLite raises is the store's fault, and raised as such."""

    __slots__ = ("_unit",)

    def __init__(self, unit: SqliteUnit) -> None:
        self._unit = unit

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, sqlite3.Error):
            self._unit.failed(error)


class SqliteUnit:
    """One unit of work on the writer's connection (``ports.Unit``).

    Nothing here awaits anything: a statement costs microseconds, a thread would cost a hundred.
    """

    __slots__ = (
        "_clock",
        "_connection",
        "_cursor",
        "_group",
        "_has_savepoint",
        "_later",
        "_path",
        "_store_ms",
        "appended",
    )

    def __init__(self, connection: sqlite3.Connection, group: Group, path: Path, clock: Clock, store_ms: int) -> None:
        self._connection = connection
        self._cursor = connection.cursor()
        self._cursor.row_factory = sqlite3.Row
        self._group = group
        self._path = path
        self._clock = clock
        self._store_ms = store_ms
        self._has_savepoint = False
        self._later: dict[Callable[[Any, list[Any]], Awaitable[None]], list[Any]] = {}
        self.appended: list[Run] = []

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection that this unit's transaction is open on (for SQLAlchemy sessions)."""
        return self._connection

    async def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run one statement; returns the rows that it changed."""
        try:
            return self._cursor.execute(sql, parameters).rowcount
        except sqlite3.Error as error:
            self.failed(error)
            raise

    async def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> int:
        """Run one statement for each of *rows*; returns the rows changed."""
        try:
            return self._cursor.executemany(sql, rows).rowcount
        except sqlite3.Error as error:
            self.failed(error)
            raise

    async def fetch_all(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """All rows: a cursor left half-fetched would keep the WAL from being checkpointed."""
        try:
            return self._cursor.execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            self.failed(error)
            raise

    def failed(self, error: sqlite3.Error) -> None:
        """Raise our own error if *error* is the store's fault. If SQLite has rolled everything back, the unit
        is over: what came now would be committed by itself, statement by statement."""
        ours = store_error(error, self._path)
        if not self._connection.in_transaction:
            self.end(ours or RolledBack(f"SQLite rolled back the whole transaction ({error})", where=str(self._path)))
        if ours is not None:
            raise ours from error

    def end(self, why: Exception | None = None) -> None:
        """Nothing more can be done in this unit; who tries is told *why*."""
        if not isinstance(self._connection, _Over):
            self._connection = self._cursor = _Over(why or DeclarationError("the unit is over"))  # type: ignore[assignment]

    async def savepoint(self) -> None:
        """Mark a place to return to; the earlier mark is given up."""
        execute = self._cursor.execute
        with _Watched(self):
            if self._has_savepoint:
                execute("RELEASE antiphon_event")
            execute("SAVEPOINT antiphon_event")
        self._has_savepoint = True

    async def rollback_to_savepoint(self) -> None:
        """Undo everything after the mark, and give the mark up."""
        with _Watched(self):
            self._connection.execute("ROLLBACK TO antiphon_event")
            self._connection.execute("RELEASE antiphon_event")
        self._has_savepoint = False
        self.appended.clear()

    async def append(self, events: Iterable[tuple[Envelope, int]]) -> int:
        """Append to the log; an id that is there already is skipped. Returns how many are new."""
        events = list(events)
        if not events:
            return 0
        envelopes = [envelope for envelope, _ in events]
        self._group.types.update(dict.fromkeys([envelope.type for envelope in envelopes]))
        if all(map(is_plain, envelopes)):
            sql, rows = _APPEND_PLAIN, [plain_row(envelope, origin) for envelope, origin in events]
        else:
            sql, rows = _APPEND, [log_row(envelope, origin) for envelope, origin in events]
        with _Watched(self):
            count = self._connection.executemany(sql, rows).rowcount
            if sql is _APPEND:
                answered = [(f"{TIMEOUT_OF}{each.request_id}",) for each in envelopes if each.request_id is not None]
                self._connection.executemany(query("end_timer"), answered)
        if count == len(rows):
            last = self._connection.execute("SELECT last_insert_rowid()").fetchone()[0]
            self.appended.append((last - count + 1, events))
        return count

    async def start(self, lease: Lease, attempts: Sequence[Starting], upto_seq: int) -> None:
        """Record attempts as IN_PROGRESS, before they run."""
        now = self._clock.now_ms()
        with _Watched(self):
            self._connection.executemany(
                query("start_delivery"),
                [
                    (
                        lease.handler_id,
                        item.event.seq,
                        item.event.envelope.key,
                        item.number,
                        item.first_ms,
                        int(item.alone),
                        now,
                    )
                    for item in attempts
                ],
            )
            self._move_cursor(lease, upto_seq, 0, 0, now)

    async def park(self, lease: Lease, events: Sequence[LoggedEvent]) -> None:
        """Put fresh events behind an earlier, unsettled event of their key."""
        now = self._clock.now_ms()
        with _Watched(self):
            self._connection.executemany(
                query("park_delivery"), [(lease.handler_id, event.seq, event.envelope.key, now) for event in events]
            )

    async def line_up(self, lease: Lease, events: Sequence[tuple[LoggedEvent, str]], upto_seq: int) -> None:
        """Give fresh events rows, each in its lane; of a key only the first open one is due."""
        now = self._clock.now_ms()
        blocked = set(
            await self.open_keys(lease, [each.envelope.key for each, _ in events if each.envelope.key is not None])
        )
        rows = []
        for event, lane in events:
            key = event.envelope.key
            rows.append((lease.handler_id, event.seq, key, None if key in blocked else self._store_ms, lane, now))
            if key is not None:
                blocked.add(key)
        with _Watched(self):
            self._connection.executemany(query("line_up"), rows)
            self._move_cursor(lease, upto_seq, 0, 0, now)

    async def settle(self, lease: Lease, results: Sequence[Settled], upto_seq: int, plain: int = 0) -> None:
        """Apply verdicts and move the cursor. Raises LeaseLost when the fence has moved on."""
        now = self._clock.now_ms()
        done = plain
        freed: set[str] = set()
        with _Watched(self):
            for result in results:
                if type(result.verdict) is Done:
                    done += 1
                    if result.fresh:
                        continue
                self._settle_row(lease.handler_id, result, now)
                if result.answer is not None:
                    await self.append([result.answer])
                key = result.event.envelope.key
                if key is not None and not isinstance(result.verdict, RetryAt):
                    freed.add(key)
            self._connection.executemany(
                query("promote_next"), [(self._store_ms, lease.handler_id, key) for key in sorted(freed)]
            )
            failed = sum(result.failure is not None for result in results)
            self._move_cursor(lease, upto_seq, done, failed, now)

    def _settle_row(self, handler_id: int, result: Settled, now: int) -> None:
        seq = result.event.seq
        verdict, failure = result.verdict, result.failure
        outcome = "completed" if isinstance(verdict, Done) else "failed" if result.burns else "probe"
        error = (failure.error_type, failure.message, failure.traceback) if failure else (None, None, None)
        if not result.crashed:
            self._connection.execute(query("put_attempt"), (handler_id, seq, result.number, outcome, *error, now))
        if isinstance(verdict, Done):
            self._connection.execute(query("end_delivery"), (handler_id, seq))
            return
        if isinstance(verdict, DeadLetter):
            status, due, reason = verdict.status, None, verdict.reason
        else:
            status, due, reason = Status.RETRY, verdict.due_ms, None
        attempts = result.number if result.burns else result.number - 1
        fingerprint = failure.fingerprint if failure else None
        self._connection.execute(
            query("put_delivery"),
            (
                handler_id,
                seq,
                result.event.envelope.key,
                status.value,
                attempts,
                result.first_ms,
                due,
                reason,
                *error,
                fingerprint,
                now,
            ),
        )

    def _move_cursor(self, lease: Lease, upto_seq: int, done: int, failed: int, now: int) -> None:
        fenced = (upto_seq, done, failed, now, lease.handler_id, lease.epoch)
        if self._connection.execute(query("move_cursor"), fenced).rowcount != 1:
            raise LeaseLost("another worker has taken over", where=lease.handler)
        if upto_seq > lease.seq:
            self._connection.execute(query("mark_progress"), (lease.handler_id, upto_seq, now))

    async def open_keys(self, lease: Lease, keys: Iterable[str]) -> frozenset[str]:
        """Which of *keys* have a delivery that is not over."""
        with _Watched(self):
            if not self._connection.execute(query("has_open"), (lease.handler_id,)).fetchone()[0]:
                return frozenset()
            wanted = list(keys)
            # Padded to a power of two, so that there are few different statements to prepare.
            padded = [*wanted, *wanted[:1] * ((1 << (len(wanted) - 1).bit_length()) - len(wanted))] if wanted else []
            sql = query("open_keys").replace("IN (?)", f"IN ({', '.join('?' * len(padded))})")
            found = self._connection.execute(sql, (lease.handler_id, *padded)).fetchall()
        return frozenset(key for (key,) in found)

    async def pause(self, lease: Lease, until_ms: int | None, reason: str | None) -> None:
        """Show that the handler is paused until a store time (None: no more). Fenced."""
        fenced = (until_ms, reason, lease.handler_id, lease.epoch)
        with _Watched(self):
            if self._connection.execute(query("pause_handler"), fenced).rowcount != 1:
                raise LeaseLost("another worker has taken over", where=lease.handler)

    async def put_timer(self, timer: Timer) -> None:
        """Keep *timer*; one of the same id is replaced, its due time kept if it recurs as before."""
        self._group.types[TIMER_SET] = None
        head = (timer.id, timer.due_ms, timer.clock, timer.recurrence)
        _, type_, version, key, service, created, *rest = log_row(timer.envelope, timer.origin)
        with _Watched(self):
            self._connection.execute(query("put_timer"), (*head, type_, version, key, service, *rest, created))

    async def put_effect(self, lease: Lease, effect: Effect) -> None:
        """Keep what is known of a call to the outside. Fenced."""
        with _Watched(self):
            if not self._connection.execute(query("holds_lease"), (lease.handler_id, lease.epoch)).fetchall():
                raise LeaseLost("another worker has taken over", where=lease.handler)
            self._connection.execute(query("put_effect"), effect_row(effect))

    async def move_position(self, name: str, seq: int) -> None:
        """Note that everything up to *seq* of *name* has been taken. Positions never go back."""
        with _Watched(self):
            self._connection.execute(query("move_position"), (name, seq, self._clock.now_ms()))

    def later(self, write: Callable[[Any, list[Any]], Awaitable[None]], item: object) -> None:
        """Have *write* write *item* at the end of the unit, with all others that it was given."""
        self._later.setdefault(write, []).append(item)

    async def write_later(self) -> None:
        """Write what was kept for the end."""
        while self._later:
            write, items = self._later.popitem()
            await write(self, items)

    def wake(self, types: Iterable[str]) -> None:
        """Wake, once this has committed, whoever listens to one of *types*."""
        self._group.types.update(dict.fromkeys(types))

    async def end_timer(self, timer_id: str) -> bool:
        """Remove a timer; False if there is none, or it has fired."""
        with _Watched(self):
            return self._connection.execute(query("end_timer"), (timer_id,)).rowcount == 1
