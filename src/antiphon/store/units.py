"""What every unit of a SQL store does with its statements: the log, deliveries, settling, timers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from antiphon.errors import LeaseLost
from antiphon.model.delivery import DeadLetter, Done, RetryAt, Status
from antiphon.model.effects import Effect
from antiphon.model.envelope import Envelope
from antiphon.ports import TIMER_SET, Clock, Lease, LoggedEvent, Settled, Starting, Timer
from antiphon.store.effects import effect_row
from antiphon.store.rows import log_row


class SqlUnit(ABC):
    """A write transaction on a SQL database (``ports.Unit``); how it runs its statements is the database's."""

    __slots__ = ("_clock", "_later", "_store_ms")

    def __init__(self, clock: Clock, store_ms: int) -> None:
        self._clock = clock
        self._store_ms = store_ms
        self._later: dict[Callable[[Any, list[Any]], Awaitable[None]], list[Any]] = {}

    # ------------------------------------------------------------------ the database's

    @property
    @abstractmethod
    def busy(self) -> bool:
        """Whether a statement of this unit is under way."""

    @abstractmethod
    def query(self, name: str) -> str:
        """The SQL of a named block. Raises KeyError if there is none."""

    @abstractmethod
    async def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run one statement; returns the rows that it changed."""

    @abstractmethod
    async def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> int:
        """Run one statement for each of *rows*; returns the rows changed."""

    @abstractmethod
    async def fetch_all(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """All rows of one query."""

    @abstractmethod
    async def savepoint(self) -> None:
        """Mark a place to return to; the earlier mark is given up."""

    @abstractmethod
    async def rollback_to_savepoint(self) -> None:
        """Undo everything after the mark, and give the mark up."""

    @abstractmethod
    async def append(self, events: Iterable[tuple[Envelope, int]]) -> None:
        """Append to the log; an id that is there already is skipped."""

    @abstractmethod
    async def append_for(self, envelope: Envelope, origin: int, handler_id: int) -> None:
        """Append an event that one handler alone is owed."""

    @abstractmethod
    async def one_at_a_time(self) -> None:
        """Go on when no other unit that has asked for this is under way, in any process."""

    @abstractmethod
    def wake(self, types: Iterable[str]) -> None:
        """Wake, once this has committed, whoever listens to one of *types*."""

    # ------------------------------------------------------------------ the same for all

    def later(self, write: Callable[[Any, list[Any]], Awaitable[None]], item: object) -> None:
        """Have *write* write *item* at the end of the unit, with all others that it was given."""
        self._later.setdefault(write, []).append(item)

    async def write_later(self) -> None:
        """Write what was kept for the end."""
        while self._later:
            write, items = self._later.popitem()
            await write(self, items)

    def hold(self) -> bool:
        """Nothing is held: a statement is answered at once."""
        return False

    async def send(self, *, last: bool = False) -> None:
        """There is nothing to send."""
        del last

    async def start(self, lease: Lease, attempts: Sequence[Starting], upto_seq: int) -> None:
        """Record attempts as IN_PROGRESS, before they run."""
        now = self._clock.now_ms()
        rows = [
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
        ]
        # The fence comes first: the rows alone lock the handler's too, and whoever stood still behind them would keep
        # others from its lease for longer than it lasts.
        await self._move_cursor(lease, upto_seq, 0, 0, now)
        await self.execute_many(self.query("start_delivery"), rows)

    async def park(self, lease: Lease, events: Sequence[LoggedEvent]) -> None:
        """Put fresh events behind an earlier, unsettled event of their key."""
        now = self._clock.now_ms()
        rows = [(lease.handler_id, event.seq, event.envelope.key, now) for event in events]
        await self.execute_many(self.query("park_delivery"), rows)

    async def line_up(self, lease: Lease, events: Sequence[tuple[LoggedEvent, str]], upto_seq: int) -> None:
        """Give fresh events rows, each in its lane; of a key only the first open one is due."""
        now = self._clock.now_ms()
        await self.fence(lease)
        blocked = set(
            await self.open_keys(lease, [each.envelope.key for each, _ in events if each.envelope.key is not None])
        )
        rows = []
        for event, lane in events:
            key = event.envelope.key
            rows.append((lease.handler_id, event.seq, key, None if key in blocked else self._store_ms, lane, now))
            if key is not None:
                blocked.add(key)
        await self.execute_many(self.query("line_up"), rows)
        await self._move_cursor(lease, upto_seq, 0, 0, now)

    async def settle(self, lease: Lease, results: Sequence[Settled], upto_seq: int, plain: int = 0) -> None:
        """Apply verdicts and move the cursor. Raises LeaseLost when the fence has moved on."""
        now = self._clock.now_ms()
        done = plain + sum(type(result.verdict) is Done for result in results)
        failed = sum(result.failure is not None for result in results)
        # The fence comes first: what is parked behind one of these is there by now, or finds it gone (see `fence`).
        await self._move_cursor(lease, upto_seq, done, failed, now)
        freed: set[str] = set()
        for result in results:
            if result.fresh and type(result.verdict) is Done:
                continue
            await self._settle_row(lease.handler_id, result, now)
            if result.answer is not None:
                await self.append([result.answer])
            key = result.event.envelope.key
            if key is not None and not isinstance(result.verdict, RetryAt):
                freed.add(key)
        if freed:
            rows = [(self._store_ms, lease.handler_id, key) for key in sorted(freed)]
            await self.execute_many(self.query("promote_next"), rows)

    async def _settle_row(self, handler_id: int, result: Settled, now: int) -> None:
        seq = result.event.seq
        verdict, failure = result.verdict, result.failure
        outcome = "completed" if isinstance(verdict, Done) else "failed" if result.burns else "probe"
        error = (failure.error_type, failure.message, failure.traceback) if failure else (None, None, None)
        if not result.crashed:
            await self.execute(self.query("put_attempt"), (handler_id, seq, result.number, outcome, *error, now))
        if isinstance(verdict, Done):
            await self.execute(self.query("end_delivery"), (handler_id, seq))
            return
        if isinstance(verdict, DeadLetter):
            status, due, reason = verdict.status, None, verdict.reason
        else:
            status, due, reason = Status.RETRY, verdict.due_ms, None
        attempts = result.number if result.burns else result.number - 1
        fingerprint = failure.fingerprint if failure else None
        await self.execute(
            self.query("put_delivery"),
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

    async def _move_cursor(self, lease: Lease, upto_seq: int, done: int, failed: int, now: int) -> None:
        fenced = (upto_seq, done, failed, now, lease.handler_id, lease.epoch)
        if await self.execute(self.query("move_cursor"), fenced) != 1:
            raise LeaseLost("another worker has taken over", where=lease.handler)
        if upto_seq > lease.seq:
            await self.execute(self.query("mark_progress"), (lease.handler_id, upto_seq, now))

    async def fence(self, lease: Lease) -> None:
        """Let nobody take the lease, or settle by it, until the unit ends."""
        if not await self.fetch_all(self.query("holds_lease"), (lease.handler_id, lease.epoch)):
            raise LeaseLost("another worker has taken over", where=lease.handler)

    async def open_keys(self, lease: Lease, keys: Iterable[str]) -> frozenset[str]:
        """Which of *keys* have a delivery that is not over."""
        if not (await self.fetch_all(self.query("has_open"), (lease.handler_id,)))[0][0]:
            return frozenset()
        wanted = padded(keys)
        sql = self.query("open_keys").replace("IN (?)", f"IN ({', '.join('?' * len(wanted))})")
        return frozenset(key for (key,) in await self.fetch_all(sql, (lease.handler_id, *wanted)))

    async def pause(self, lease: Lease, until_ms: int | None, reason: str | None) -> None:
        """Show that the handler is paused until a store time (None: no more). Fenced."""
        if await self.execute(self.query("pause_handler"), (until_ms, reason, lease.handler_id, lease.epoch)) != 1:
            raise LeaseLost("another worker has taken over", where=lease.handler)

    async def put_timer(self, timer: Timer) -> None:
        """Keep *timer*; one of the same id is replaced, its due time kept if it recurs as before."""
        self.wake((TIMER_SET,))
        head = (timer.id, timer.due_ms, timer.clock, timer.recurrence)
        _, type_, version, key, service, created, *rest = log_row(timer.envelope, timer.origin)
        await self.execute(self.query("put_timer"), (*head, type_, version, key, service, *rest, created))

    async def end_timer(self, timer_id: str) -> bool:
        """Remove a timer; False if there is none, or it has fired."""
        return await self.execute(self.query("end_timer"), (timer_id,)) == 1

    async def put_effect(self, lease: Lease, effect: Effect) -> None:
        """Keep what is known of a call to the outside. Fenced."""
        await self.fence(lease)
        await self.execute(self.query("put_effect"), effect_row(effect))

    async def move_position(self, name: str, seq: int) -> None:
        """Note that everything up to *seq* of *name* has been taken. Positions never go back."""
        await self.execute(self.query("move_position"), (name, seq, self._clock.now_ms()))


def padded(keys: Iterable[str]) -> list[str]:
    """*keys*, the first repeated up to a power of two, so that there are few different statements to prepare."""
    wanted = list(keys)
    return wanted + wanted[:1] * ((1 << (len(wanted) - 1).bit_length()) - len(wanted))
