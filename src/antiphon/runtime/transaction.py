"""What a handler or a route holds in its hand: the transaction, what it publishes, and its delivery."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from antiphon.errors import DeclarationError, NotAnnotated, NotFound
from antiphon.model.envelope import Envelope
from antiphon.model.events import MAX_PAYLOAD, EventType, event_type_of
from antiphon.model.retry import milliseconds
from antiphon.policy.schedule import check_schedule, next_occurrence
from antiphon.policy.statements import only_reads
from antiphon.ports import INTERNAL, PUBLISHED, Clock, Store, Timer, TimerClock, Unit
from antiphon.runtime.answers import as_reply, timeout_timer

if TYPE_CHECKING:
    from antiphon.ports import Lease
    from antiphon.runtime.effects import Effects

Row = Any


@dataclass(frozen=True, slots=True)
class Delivery:
    """The delivery that a handler is called for: its number of attempt (from 1) and its envelope."""

    attempt: int
    envelope: Envelope
    handler: str


@dataclass(frozen=True, slots=True)
class Publisher:
    """Who publishes: the service, what it may publish (None: anything), and its means.

    *replies* are the types that answer each command which it handles.
    """

    service: str
    clock: Clock
    allowed: frozenset[str] | None
    where: str = ""
    max_payload: int = MAX_PAYLOAD
    replies: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def envelope(self, event: object, cause: Envelope | None, traceparent: str | None) -> tuple[Envelope, EventType]:
        """The envelope of *event*. Raises InvalidEvent, NotAnnotated, DeclarationError."""
        event_type = event_type_of(event)
        if self.allowed is not None and event_type.name not in self.allowed:
            raise NotAnnotated(
                f"published {event_type.name}, which its return annotation does not name",
                where=self.where,
                mend=f"Annotate it: -> {' | '.join([*sorted(self.allowed), event_type.name])}",
            )
        data = event_type.encode(event, self.max_payload)
        clock = self.clock
        event_id = clock.new_id()
        return (
            Envelope(
                event_id,
                event_type.name,
                event_type.version,
                event_type.key_of(event),
                self.service,
                clock.now_ms(),
                data,
                event_id if cause is None else cause.correlation_id,
                None if cause is None else cause.id,
                traceparent if cause is None else cause.traceparent,
                event_type.target,
                None,
                None if cause is None else cause.deadline_ms,
            ),
            event_type,
        )


class Transaction:
    """The store's own transaction: SQL on the service's tables, and publishing, all of it or nothing.

    Reading before the first write takes no lock. The first write begins the write transaction; from
    then on nothing outside should be awaited, since all other writers of the store wait.
    SQL parameters are always bound: ``await tx.execute("UPDATE t SET n = ? WHERE id = ?", n, id)``.
    """

    __slots__ = (
        "_attached",
        "_cause",
        "_manager",
        "_opening",
        "_over",
        "_publisher",
        "_store",
        "_traceparent",
        "_unit",
        "effects",
        "lease",
        "limit",
        "outgoing",
        "unmarked",
        "wrote",
    )

    def __init__(
        self,
        store: Store,
        publisher: Publisher,
        cause: Envelope | None = None,
        unit: Unit | None = None,
        traceparent: str | None = None,
    ) -> None:
        self._store = store
        self._publisher = publisher
        self._cause = cause
        self._unit = unit
        self._attached = unit is not None
        self._traceparent = traceparent
        self._over = False
        self._opening: asyncio.Lock | None = None
        self._manager: AbstractAsyncContextManager[Unit] | None = None
        self.outgoing: list[tuple[Envelope, int]] = []
        self.effects: Effects | None = None
        #: By which an attempt runs outside the batch.
        self.lease: Lease | None = None
        #: Until when the handler has to end. The wait for others who write is not its time.
        self.limit: asyncio.Timeout | None = None
        self.wrote = False
        #: Whether the batch has something of it that cannot be undone by itself.
        self.unmarked = False

    # ------------------------------------------------------------------ for handlers and routes

    @property
    def now(self) -> datetime:
        """The time, in UTC, as the runtime's clock tells it."""
        return datetime.fromtimestamp(self._publisher.clock.now_ms() / 1000, UTC)

    def new_id(self) -> str:
        """A fresh id for something of the caller's own (a UUIDv7: ids of one process sort as they were made)."""
        return self._publisher.clock.new_id()

    async def execute(self, sql: str, *parameters: Any) -> int:
        """Run one statement; returns the number of rows that it changed."""
        only_reads(sql)
        unit = self._unit if self.wrote else await self._begin()
        return await unit.execute(sql, parameters)  # type: ignore[union-attr]

    async def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> int:
        """Run one statement for each of *rows*; returns the number of rows changed."""
        only_reads(sql)
        unit = await self._begin()
        return await unit.execute_many(sql, rows)

    async def fetch_all(self, sql: str, *parameters: Any) -> list[Row]:
        """All rows of a query. A row has index and name access: ``row[0]``, ``row["seat"]``."""
        if not only_reads(sql):
            return await (await self._begin()).fetch_all(sql, parameters)
        if self._unit is not None:
            return await self._unit.fetch_all(sql, parameters)
        if self._over:
            raise _is_over()
        return await self._store.fetch_all(sql, parameters)

    async def rows(self, name: str, *parameters: Any) -> list[Row]:
        """All rows of a named block of the store's."""
        return await self.fetch_all(self._store.query(name), *parameters)

    async def fetch_one(self, sql: str, *parameters: Any) -> Row | None:
        """The first row of a query, or None."""
        rows = await self.fetch_all(sql, *parameters)
        return rows[0] if rows else None

    async def fetch_value(self, sql: str, *parameters: Any) -> Any:
        """The first column of the first row, or None."""
        rows = await self.fetch_all(sql, *parameters)
        return rows[0][0] if rows else None

    def publish(self, event: object, *, within: timedelta | None = None) -> str:
        """Publish *event* when the transaction commits; returns its id.

        *within* sets a deadline: what is done because of it is not started later. In a handler of a command the
        first event of a type that answers the command is its reply. Raises InvalidEvent with the field and the
        reason, NotAnnotated in a handler whose return annotation does not name it.
        """
        if self._over:
            raise _is_over()
        cause = self._cause
        envelope, event_type = self._publisher.envelope(event, cause, self._traceparent)
        if cause is not None and cause.target is not None and self._answers(cause, envelope):
            envelope = as_reply(envelope, cause)
        elif within is not None:
            envelope = _due_within(envelope, within)
        self.outgoing.append((envelope, INTERNAL if event_type.domain else PUBLISHED))
        return envelope.id

    async def request(self, command: object, *, timeout: timedelta | None = None) -> str:
        """Send *command* when the transaction commits; returns its id, the ``request_id`` of whatever answers it.

        After *timeout* it is answered with a `TimedOut`, and is not started any more where it has not been. Raises
        as `publish` does, and DeclarationError for an event.
        """
        if event_type_of(command).target is None:
            raise DeclarationError(
                f"{type(command).__name__} is an event, which nobody answers", mend="Publish it, or make it a Command"
            )
        begun = self.outgoing[0][0].correlation_id if self._cause is None and self.outgoing else None
        request_id = self.publish(command, within=timeout)
        if begun is not None:  # one transaction from outside begins one process
            envelope, origin = self.outgoing[-1]
            self.outgoing[-1] = (msgspec.structs.replace(envelope, correlation_id=begun), origin)
        if timeout is not None:
            due_ms = self._store.store_ms() + milliseconds(timeout)
            await (await self._begin()).put_timer(timeout_timer(self.outgoing[-1][0], due_ms))
        return request_id

    async def reply(self, request_id: str, event: object) -> str:
        """Answer a command that was handled earlier, and whose handler returned None; returns the reply's id.

        Raises NotFound when the log does not have the command (any more), and as `publish` does.
        """
        found = await self.fetch_all(
            "SELECT service, correlation_id, traceparent FROM antiphon_log WHERE id = ? AND target = ?",
            request_id,
            self._publisher.service,
        )
        if not found:
            raise NotFound(f"service {self._publisher.service!r} was not asked {request_id!r}")
        service, correlation_id, traceparent = found[0]
        self.publish(event)
        envelope, origin = self.outgoing[-1]
        reply = msgspec.structs.replace(
            envelope,
            causation_id=envelope.causation_id or request_id,
            correlation_id=correlation_id or request_id,
            traceparent=traceparent,
            target=service,
            request_id=request_id,
            deadline_ms=None,
        )
        self.outgoing[-1] = (reply, origin)
        return reply.id

    async def publish_later(self, event: object, *, delay: timedelta | None = None, at: datetime | None = None) -> str:
        """Publish *event* after *delay*, or at a time with a zone; returns its id, for `cancel`.

        A delay runs on the store's clock, which no wall clock moves; ``at`` means the wall clock.
        """
        clock, due_ms = self._due(delay, at)
        return await self._put_timer(event, None, clock, due_ms, None)

    async def cancel(self, event_id: str) -> bool:
        """Take back an event of `publish_later`; False if it has been published already."""
        return await (await self._begin()).end_timer(event_id)

    async def schedule(
        self, name: str, event: object, *, every: timedelta | None = None, cron: str | None = None, zone: str = "UTC"
    ) -> None:
        """Publish *event* again and again: *every* so often, or by a *cron* text in a time zone.

        The same *name* replaces the schedule. Raises DeclarationError for a bad text or zone.
        """
        check_schedule(every=every, cron=cron, zone=zone)
        recurrence = recurrence_text(every, cron, zone)
        first = next_occurrence(self.now, every=every, cron=cron, zone=zone)
        await self._put_timer(event, f"schedule:{name}", "wall", round(first.timestamp() * 1000), recurrence)

    async def unschedule(self, name: str) -> bool:
        """End the schedule *name*; False if there is none."""
        return await (await self._begin()).end_timer(f"schedule:{name}")

    # ------------------------------------------------------------------ for the runtime

    @property
    def attached(self) -> bool:
        """Whether it is part of a batch, which commits; else it begins and commits by itself."""
        return self._unit is not None and self._attached

    @property
    def busy(self) -> bool:
        """Whether it waits for the database."""
        return self._unit is not None and self._unit.busy

    @property
    def store(self) -> Store:
        """Where it writes."""
        return self._store

    @property
    def publisher(self) -> Publisher:
        """As whom it publishes."""
        return self._publisher

    @property
    def cause(self) -> Envelope | None:
        """What caused what it publishes."""
        return self._cause

    def take_deadline(self) -> int | None:
        """The deadline of the cause, which what is published has no more: the caller sees to it."""
        if self._cause is None or self._cause.deadline_ms is None:
            return None
        deadline_ms = self._cause.deadline_ms
        self._cause = msgspec.structs.replace(self._cause, deadline_ms=None)
        return deadline_ms

    def mark(self) -> list[tuple[Envelope, int]]:
        """What is written so far is complete: what fails from here on loses only what comes after.

        Returns what was published since the last mark, to be appended by the caller.
        """
        self.wrote = False
        published, self.outgoing = self.outgoing, []
        return published

    async def back_to_mark(self, error: BaseException) -> None:
        """Undo, because of *error*, what came after the last mark or checkpoint, and stay usable."""
        self.outgoing.clear()
        manager, self._manager = self._manager, None
        unit = self._unit if self.wrote else None
        self.wrote = False
        if manager is not None:
            self._unit = None
        await _undo(manager, unit, error)

    async def checkpoint(self) -> None:
        """Commit, and stay usable: what is written next begins another transaction."""
        manager, self._manager = self._manager, None
        self._unit = None
        self.wrote = False
        if manager is not None:
            await manager.__aexit__(None, None, None)

    async def unit(self) -> Unit:
        """The write transaction, begun if it was not (for SQLAlchemy sessions)."""
        return await self._begin()

    async def unmarked_unit(self) -> Unit:
        """The write transaction, for what cannot be undone by itself: if it fails, so does the whole batch."""
        if self._unit is not None and self._attached and not self._over:
            self.unmarked = True
            return self._unit
        return await self._begin()

    async def suspend(self) -> None:
        """The batch goes on without this one: what it writes from `resume` on is a transaction of its own.

        Only while nothing was written. Tasks that the handler has started may ask for one before that.
        """
        self._unit = None
        self._attached = False
        self._opening = asyncio.Lock()
        await self._opening.acquire()

    def resume(self) -> None:
        """The batch is over."""
        if self._opening is not None:
            self._opening.release()

    def end(self) -> None:
        """Nothing more may be done in it."""
        self._over = True
        self.wrote = False
        self._unit = None

    async def flush(self) -> Unit:
        """Write what was published, in a write transaction that is begun if it was not."""
        unit = await self._begin()
        await unit.append(self.outgoing)
        return unit

    async def commit(self) -> None:
        """End a write transaction of this object's own; durable on return."""
        manager, self._manager = self._manager, None
        self.end()
        if manager is not None:
            await manager.__aexit__(None, None, None)

    async def abandon(self, error: BaseException) -> None:
        """Undo everything."""
        self.outgoing.clear()
        manager, self._manager = self._manager, None
        unit = self._unit if self.wrote else None
        self.end()
        await _undo(manager, unit, error)

    def _answers(self, command: Envelope, envelope: Envelope) -> bool:
        """Whether *envelope*, published by a handler of *command*, is its reply."""
        replies = self._publisher.replies.get(command.type, ())
        return envelope.type in replies and all(sent.request_id != command.id for sent, _ in self.outgoing)

    async def _begin(self) -> Unit:
        unit = self._unit
        if unit is None or self._over:
            unit = await self._open()
        elif self._attached and not self.wrote and not self.unmarked:
            await unit.savepoint()
        self.wrote = True
        return unit

    async def _open(self) -> Unit:
        """Begin a write transaction, once: a handler may write from several tasks of its own."""
        if self._opening is None:
            self._opening = asyncio.Lock()
        async with self._opening:
            if self._unit is None and not self._over:
                manager = self._store.unit()
                with _not_counted(self.limit):
                    self._unit = await manager.__aenter__()
                self._manager = manager
                if self._over:
                    # It ended meanwhile (a time-out). Left open, it would keep every other writer waiting.
                    await self.commit()
        if self._over or self._unit is None:
            raise _is_over()
        return self._unit

    def _due(self, delay: timedelta | None, at: datetime | None) -> tuple[TimerClock, int]:
        if (delay is None) == (at is None):
            raise DeclarationError("give either delay= or at=", where="publish_later")
        if delay is not None:
            return "store", self._store.store_ms() + max(0, milliseconds(delay))
        if at is None or at.tzinfo is None:
            raise DeclarationError("at= needs a time zone", where="publish_later", mend="Use datetime(..., tzinfo=UTC)")
        return "wall", round(at.timestamp() * 1000)

    async def _put_timer(
        self, event: object, timer_id: str | None, clock: TimerClock, due_ms: int, recurrence: str | None
    ) -> str:
        envelope, event_type = self._publisher.envelope(event, self._cause, self._traceparent)
        unit = await self._begin()
        origin = INTERNAL if event_type.domain else PUBLISHED
        timer = Timer(timer_id or envelope.id, due_ms, clock, recurrence, envelope, origin)
        await unit.put_timer(timer)
        return timer.id


@contextmanager
def _not_counted(limit: asyncio.Timeout | None) -> Iterator[None]:
    """What is awaited is the store's time, and not that of whom *limit* ends."""
    end = None if limit is None or limit.expired() else limit.when()
    if limit is None or end is None:
        yield
        return
    loop = asyncio.get_running_loop()
    left = end - loop.time()
    limit.reschedule(None)
    try:
        yield
    finally:
        with suppress(RuntimeError):  # the handler has ended, and left a task behind
            limit.reschedule(loop.time() + left)


async def _undo(manager: AbstractAsyncContextManager[Unit] | None, unit: Unit | None, error: BaseException) -> None:
    """Roll back a transaction of its own, or of a shared one what came after its savepoint."""
    if manager is not None:
        try:
            await manager.__aexit__(type(error), error, error.__traceback__)
        except BaseException as raised:
            if raised is not error:
                raise
    elif unit is not None:
        await unit.rollback_to_savepoint()


def _is_over() -> DeclarationError:
    return DeclarationError(
        "the transaction is over", mend="Do it before the function returns; what comes later needs one of its own"
    )


def _due_within(envelope: Envelope, span: timedelta) -> Envelope:
    """*envelope* with a deadline, unless it has an earlier one."""
    deadline_ms = envelope.time_ms + milliseconds(span)
    if envelope.deadline_ms is not None:
        deadline_ms = min(deadline_ms, envelope.deadline_ms)
    return msgspec.structs.replace(envelope, deadline_ms=deadline_ms)


def recurrence_text(every: timedelta | None, cron: str | None, zone: str) -> str:
    """How a schedule recurs, as it is stored."""
    return json.dumps({"every_ms": milliseconds(every) if every else None, "cron": cron, "zone": zone})
