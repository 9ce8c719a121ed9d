"""One turn of a run: what its journal holds, what the turn adds to it, and how that is written."""

from __future__ import annotations

from collections.abc import Callable, Container
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any, NoReturn

import msgspec

from antiphon.errors import DeclarationError
from antiphon.model.envelope import Envelope
from antiphon.model.retry import Retry
from antiphon.model.workflows import ENDED, Advance, Kind, Mark, Record, Run, RunState, WorkflowSpec, advance_envelope
from antiphon.policy import journal as journals
from antiphon.policy.words import span
from antiphon.ports import INTERNAL, Clock, Timer, Unit
from antiphon.runtime.effects import Effects
from antiphon.runtime.transaction import Transaction
from antiphon.store import workflows as rows

#: The position and the name of the record of a run's deadline.
_DEADLINE = "deadline"


class Parked(BaseException):
    """A call has to wait: the function is left here, and called again in a later turn."""


class Branch:
    """A line of calls within the function: the function itself, or one call of a gather.

    A *frozen* one only repeats what is recorded.
    """

    __slots__ = ("busy", "count", "frozen", "parked", "prefix")

    def __init__(self, prefix: str = "", *, frozen: bool = False) -> None:
        self.prefix = prefix
        self.count = 0
        self.frozen = frozen
        self.parked = False
        #: The step that runs in it.
        self.busy: str | None = None

    @property
    def next(self) -> str:
        """The position of the next call."""
        return f"{self.prefix}{self.count + 1}"

    def step(self) -> str:
        """Go on to the next call; its position."""
        self.count += 1
        return f"{self.prefix}{self.count}"

    def goes_on_in(self, journal: Container[str]) -> bool:
        """Whether the next call was recorded before."""
        return self.next in journal


#: The branch whose call runs. Branches of a gather may run in tasks of their own.
BRANCH: ContextVar[Branch] = ContextVar("antiphon_branch")


@dataclass(frozen=True, slots=True)
class Undoable:
    """A step that is done, and how it is undone."""

    position: str
    nr: int
    name: str
    undo: Callable[..., Any]
    args: tuple[Any, ...]
    result: Any
    retry: Retry


@dataclass(frozen=True, slots=True)
class UndoableRequest:
    """A command that was sent, and the one that takes back what it may have done."""

    position: str
    nr: int
    name: str
    command: object


class Taken(msgspec.Struct):
    """The result of a wait: what it has taken from the inbox."""

    id: str
    type: str
    version: int
    data: msgspec.Raw


class Turn:
    """What one turn of *run* knows and comes to. With *rehearsal* it repeats and does nothing."""

    def __init__(
        self, spec: WorkflowSpec, run: Run, records: list[Record], tx: Transaction, *, rehearsal: bool = False
    ) -> None:
        self.spec = spec
        self.run = run
        self.tx = tx
        self.clock: Clock = tx.publisher.clock
        self.journal = {record.position: record for record in records}
        self._before = tuple(self.journal)
        self.root = Branch(frozen=rehearsal)
        self.visited: set[str] = set()
        self.undoable: list[Undoable | UndoableRequest] = []
        self.undone: set[str] = set()
        self.waits: list[Record] = []
        #: The types that answer a request which undoes something, by the position of its record.
        self.answers: dict[str, list[str]] = {}
        self.seen: set[int] = set()
        self.taken = {
            msgspec.json.decode(each.result, type=Taken).id
            for each in records
            if each.kind is Kind.WAIT and each.mark is Mark.DONE and each.result is not None
        }
        self.state: Any = None
        self.stuck: str | None = None
        self.added = False
        self.compensating = False
        self.compensated = False
        self.cancelling = False
        #: Calls to the outside of steps that have failed: what became of them is written with the failure.
        self.outcomes: list[Effects] = []
        #: Wall time after which no step is begun any more.
        self.deadline_ms: int | None = None
        if (limit := self.journal.get(_DEADLINE)) is not None:
            self.visited.add(_DEADLINE)
            self.deadline_ms = msgspec.json.decode(limit.result or b"null")
        self._nr = max([record.nr for record in records], default=0)
        self._unsaved: dict[str, Record] = {}
        self._outgoing: list[tuple[Envelope, int]] = []
        self._timers: list[Timer] = []
        self._ended_timers: list[str] = []

    # ------------------------------------------------------------------ the journal

    def find(
        self, kind: Kind, name: str, position: str | None = None, *, holds_others: bool = False
    ) -> tuple[str, Record | None]:
        """The place of the next call, and its record if it was called before.

        Raises Parked if the record is of another call, or if there is none and nothing may be done. One that
        *holds_others* may have begun without a record of its own.
        """
        branch = BRANCH.get()
        if branch.parked or self.stuck is not None:
            raise Parked
        if branch.busy is not None:
            raise DeclarationError(
                f"step {branch.busy} calls the workflow ({kind.value} {name})",
                where=self.spec.name,
                mend="Only the workflow's function does; a step returns what it has to say",
            )
        if position is None:
            position = branch.step()
        record = self.journal.get(position)
        if record is None:
            if branch.frozen and not holds_others:
                self.park_branch()
            return position, None
        self.visited.add(position)
        why = journals.mismatch(record, kind, name)
        if why is not None:
            self.added = journals.is_added(self.journal.values(), kind, name)
            self.halt(why)
        return position, record

    def add(self, position: str, kind: Kind, name: str, mark: Mark, **values: Any) -> Record:
        """A new record."""
        record = Record(position, kind, name, mark, at_ms=self.clock.now_ms(), **values)
        self.journal[position] = record
        self.visited.add(position)
        return self._keep(record)

    def close(self, position: str, kind: Kind, name: str, result: bytes | None = None) -> Record:
        """A new record of what is done."""
        self._nr += 1
        record = Record(
            position, kind, name, Mark.DONE, self._nr, 0, None, None, None, result, None, None, self.clock.now_ms()
        )
        self.journal[position] = self._unsaved[position] = record
        self.visited.add(position)
        return record

    def change(self, record: Record, mark: Mark, **values: Any) -> Record:
        """*record* has come further; its timer, if it has not fired, is taken back."""
        if record.timer is not None and mark not in (Mark.WAITING, Mark.RETRY):
            self._ended_timers.append(record.timer)
            record.timer = None
        if mark is Mark.DONE or mark is Mark.FAILED:
            self._nr += 1
            record.nr = self._nr
        record.mark = mark
        record.at_ms = self.clock.now_ms()
        for name, value in values.items():
            setattr(record, name, value)
        return self._keep(record)

    def _keep(self, record: Record) -> Record:
        self._unsaved[record.position] = record
        return record

    def limit(self, deadline_ms: int) -> None:
        """The run begins, and has so long: what it does, and what follows from that, is not begun later."""
        self.close(_DEADLINE, Kind.VALUE, _DEADLINE, msgspec.json.encode(deadline_ms))
        self.deadline_ms = deadline_ms

    def too_late(self) -> str | None:
        """Why no step may be begun; None while one may. What undoes is owed, however late, and so is what follows."""
        if self.deadline_ms is None or self._is_undoing:
            return None
        late_ms = self.clock.now_ms() - self.deadline_ms
        return None if late_ms <= 0 else f"the run's deadline passed {span(late_ms)} before it could be started"

    @property
    def _is_undoing(self) -> bool:
        return self.compensating or self.compensated or bool(self.undone)

    def is_cancelled(self, record: Record) -> bool:
        """Whether what *record* is of is cancelled: it waits, and the run is being cancelled."""
        waits = record.mark in (Mark.WAITING, Mark.RETRY)
        if waits and self.cancelling and not BRANCH.get().frozen:
            self.change(record, Mark.CANCELLED)
        return record.mark is Mark.CANCELLED

    def set_timer(self, record: Record, due_ms: int) -> None:
        """Move the run on at *due_ms* (store time)."""
        record.due_ms = due_ms
        record.timer = self.clock.new_id()
        self._keep(record)
        envelope = self.advance_envelope(Advance(self.run.id), record.timer)
        self._timers.append(Timer(record.timer, due_ms, "store", None, envelope, INTERNAL))

    @cached_property
    def begun(self) -> frozenset[str]:
        """The prefixes of the branches that have done something in an earlier turn."""
        found: set[str] = set()
        for position in self._before:
            parts = position.split(".")
            found.update(f"{'.'.join(parts[:end])}." for end in range(2, len(parts), 2))
        return frozenset(found)

    # ------------------------------------------------------------------ waiting and stopping

    def park(self, record: Record) -> NoReturn:
        """This call waits. Raises Parked."""
        self.waits.append(record)
        self.park_branch()

    def park_branch(self) -> NoReturn:
        """Nothing more happens in this branch. Raises Parked."""
        BRANCH.get().parked = True
        raise Parked

    def halt(self, why: str) -> NoReturn:
        """The run cannot go on before a person has seen to it. Raises Parked."""
        self.stuck = self.stuck or why
        self.park_branch()

    @property
    def now_ms(self) -> int:
        """The store's time."""
        return self.tx.store.store_ms()

    # ------------------------------------------------------------------ what it publishes

    def publish(self, event: object, within: timedelta | None = None) -> Envelope:
        """Publish *event* with what the turn writes, with a deadline if *within*. Raises InvalidEvent, NotAnnotated."""
        self.tx.publish(event, within=within)
        published = [self.tx.outgoing.pop()]
        if self.deadline_ms is not None:
            published = self._timely(published)
        self._outgoing += published
        return published[0][0]

    def _timely(self, published: list[tuple[Envelope, int]]) -> list[tuple[Envelope, int]]:
        """What is published with the run's deadline, unless it has an earlier one. An answer has none."""
        limit = self.deadline_ms
        if limit is None or self._is_undoing:
            return published
        return [
            (envelope, origin)
            if envelope.request_id is not None
            else (msgspec.structs.replace(envelope, deadline_ms=min(envelope.deadline_ms or limit, limit)), origin)
            for envelope, origin in published
        ]

    def advance_envelope(self, advance: Advance, event_id: str | None = None) -> Envelope:
        """The envelope of an internal event that moves this run on."""
        run, clock = self.run, self.clock
        address = (run.workflow, run.order_key, run.correlation_id)
        return advance_envelope(advance, address, event_id or clock.new_id(), clock.now_ms(), self.tx.cause)

    def send(self, envelope: Envelope) -> None:
        """Append an internal event with what the turn writes."""
        self._outgoing.append((envelope, INTERNAL))

    def collect(self, tx: Transaction) -> None:
        """A step that used *tx* is complete: what it published goes with what the turn writes."""
        published = tx.mark()
        if published:
            self._outgoing += self._timely(published)

    # ------------------------------------------------------------------ writing

    async def write(self, unit: Unit) -> None:
        """Write what the turn has come to, except what is published. Raises LeaseLost if the run has moved on."""
        self.run.updated_ms = self.clock.now_ms()
        await rows.save_run(unit, self.run)
        for effects in self.outcomes:
            await effects.record(unit)
        self.outcomes = []
        if self._unsaved:
            await rows.put_records(unit, self.run.nr, self._unsaved.values())
            self._unsaved = {}
        for timer in self._timers:
            await unit.put_timer(timer)
        for timer_id in self._ended_timers:
            await unit.end_timer(timer_id)
        self._timers, self._ended_timers = [], []

    async def leave_batch(self) -> None:
        """A step is about to wait for the outside: hand what is recorded to the batch, which commits it."""
        if self.tx.wrote or not self.tx.attached:
            return
        unfinished, self.tx.outgoing = self.tx.outgoing, []
        unit = await self.tx.unmarked_unit()
        await self.write(unit)
        await unit.append(self._outgoing)
        self._outgoing = []
        self.tx.mark()
        self.tx.outgoing = unfinished

    async def checkpoint(self, tx: Transaction) -> None:
        """Commit a step that ran outside the batch, with all that was recorded before it."""
        try:
            unit = await tx.unit()
            if tx.effects is not None:
                await tx.effects.record(unit)
            await self.write(unit)
            tx.outgoing[:0] = self._outgoing
            self._outgoing = []
            await unit.append(self._timely(tx.mark()))
        except BaseException as error:
            await tx.back_to_mark(error)
            raise
        await tx.checkpoint()

    async def finish(self, state: RunState) -> None:
        """End the turn: the run's row, its journal, and what is published go into the delivery's transaction."""
        run = self.run
        run.state = state
        run.due_ms = min([each.due_ms for each in self.waits if each.due_ms is not None], default=None)
        if state in (RunState.WAITING, RunState.COMPENSATING):
            run.waiting = ", ".join(f"{each.kind.value} {each.name}" for each in self.waits[:4]) or None
            run.shape = journals.shape(self.journal.values())
        else:
            run.waiting = self.stuck
        attached = self.tx.attached
        unit = await self.tx.unmarked_unit()
        if attached and run.nr == 0 and state in ENDED and not self._timers:
            run.updated_ms = self.clock.now_ms()
            unit.later(rows.save_ended, (run, list(self._unsaved.values())))
        else:
            await self.write(unit)
        if not attached and state in (RunState.WAITING, RunState.COMPENSATING):
            await self._look_again()
        self.tx.outgoing = [*self._outgoing, *self.tx.outgoing]
        self._outgoing = []

    async def _look_again(self) -> None:
        """What arrived between a look outside the transaction and now found no run that waits for it."""
        for record in self.waits:
            if record.kind is Kind.WAIT:
                correlation, types = wait_address(self.run, record.name)
            elif record.position in self.answers:
                correlation, types = self.run.correlation_id, self.answers[record.position]
            else:
                continue
            arrived = await rows.arrivals(self.tx.rows, self.run, correlation, types)
            if any(each.seq not in self.seen for each in arrived):
                self.send(self.advance_envelope(Advance(self.run.id)))
                return


SIGNAL = "signal:"


def wait_address(run: Run, name: str) -> tuple[str, list[str]]:
    """The correlation and the types under which what a wait *name* takes lies in the inbox."""
    types = name.split("|")
    return (run.id if name.startswith(SIGNAL) else run.correlation_id), types
