"""Workflows: what a run of one is, what its journal holds, and what may follow what."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

import msgspec

from antiphon.errors import DeclarationError
from antiphon.model.envelope import Envelope
from antiphon.model.events import Event, EventType
from antiphon.model.retry import Retry

#: The type of the internal events that move a workflow's runs on begins so; its full name follows.
ADVANCE_TYPE = "antiphon.workflow."


class RunState(StrEnum):
    """The state of a run. There are no others."""

    RUNNING = "RUNNING"
    WAITING = "WAITING"
    PAUSED = "PAUSED"
    COMPENSATING = "COMPENSATING"
    STUCK = "STUCK"
    COMPLETED = "COMPLETED"
    COMPENSATED = "COMPENSATED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


#: The ends: nothing follows them.
ENDED = frozenset({RunState.COMPLETED, RunState.COMPENSATED, RunState.FAILED, RunState.CANCELLED})

_ENDS = {
    RunState.COMPLETED: "the function returned",
    RunState.COMPENSATED: "all that was done is undone",
    RunState.FAILED: "the function raised, and nothing had to be undone",
    RunState.CANCELLED: "cancelled; all that was done is undone",
}
_HALTS = {
    RunState.PAUSED: "a person paused it",
    RunState.STUCK: (
        "its journal no longer fits the code, an undo step has failed for good, or nobody knows what became of a call"
    ),
}

#: The one transition table. The diagram in the docs is generated from it.
RUN_TRANSITIONS: dict[RunState, dict[RunState, str]] = {
    RunState.RUNNING: {
        RunState.WAITING: "every branch waits for a time, an event or a retry",
        RunState.COMPENSATING: "an undo waits for its retry or its answer",
        **_HALTS,
        **_ENDS,
    },
    RunState.WAITING: {RunState.RUNNING: "what it waited for is there", RunState.PAUSED: _HALTS[RunState.PAUSED]},
    RunState.COMPENSATING: {
        RunState.RUNNING: "what the undo waited for is there",
        RunState.PAUSED: _HALTS[RunState.PAUSED],
    },
    RunState.PAUSED: {RunState.RUNNING: "a person resumed or cancelled it"},
    RunState.STUCK: {
        RunState.RUNNING: "a person resumed it, skipped the undo step, or cancelled it",
        RunState.PAUSED: _HALTS[RunState.PAUSED],
        RunState.FAILED: "a person gave it up, with a reason",
    },
    **{end: {} for end in _ENDS},
}


def check_run_transition(old: RunState, new: RunState) -> None:
    """Raise DeclarationError unless *new* may follow *old*. To stay is no transition."""
    if new is not old and new not in RUN_TRANSITIONS[old]:
        allowed = ", ".join(RUN_TRANSITIONS[old]) or "nothing"
        raise DeclarationError(f"a run cannot go from {old} to {new}; after {old} comes {allowed}")


class Kind(StrEnum):
    """What a record of a journal is of."""

    STEP = "step"
    UNDO = "undo"
    SLEEP = "sleep"
    WAIT = "wait"
    CHILD = "child"
    GATHER = "gather"
    PUBLISH = "publish"
    VALUE = "value"
    VERSION = "version"
    STATE = "state"
    COMPENSATE = "compensate"


class Mark(StrEnum):
    """How far what a record is of has come."""

    DONE = "DONE"
    WAITING = "WAITING"
    RETRY = "RETRY"
    FAILED = "FAILED"
    TIMED_OUT = "TIMED_OUT"
    CANCELLED = "CANCELLED"
    SKIPPED = "SKIPPED"


class Record(msgspec.Struct, gc=False):
    """One record of a run's journal.

    *position* is its place in the function: ``"3"``, or ``"3.1.2"`` for the second call of branch 1 of the gather
    at 3. *nr* counts records as they are closed, for undoing in reverse. *first_ms* and *due_ms* are store
    time; *timer* is the id of the timer that is set for *due_ms*.
    """

    position: str
    kind: Kind
    name: str
    mark: Mark
    nr: int = 0
    attempts: int = 0
    first_ms: int | None = None
    due_ms: int | None = None
    timer: str | None = None
    result: bytes | None = None
    error_type: str | None = None
    error: str | None = None
    at_ms: int = 0


class Run(msgspec.Struct):
    """One run of a workflow.

    *nr* is its row (0: it has none yet), *rev* counts its writes: who holds an older one has lost it.
    *order_key* is what its deliveries are ordered by. *start_seq* is the log position of the event that began it.
    """

    id: str
    workflow: str
    key: str
    order_key: str
    version: int
    state: RunState
    correlation_id: str
    start_seq: int
    start_type: str
    start_version: int
    start_data: bytes
    started_ms: int
    updated_ms: int
    nr: int = 0
    rev: int = 0
    parent: str | None = None
    shape: str = ""
    waiting: str | None = None
    due_ms: int | None = None
    user_state: bytes | None = None
    result: bytes | None = None
    error: str | None = None
    cancelled: str | None = None


class RunView(msgspec.Struct, frozen=True, kw_only=True):
    """A run as a person is shown it. Times are wall time; *data* is what began it, all JSON values.

    *waiting*: what it waits for, or why it is stuck or paused. *journal* and *dead_letters*
    (the events that should have moved it on, and have to be redriven) are filled where one run is shown.
    """

    id: str
    workflow: str
    key: str
    version: int
    state: RunState
    correlation_id: str
    parent: str | None
    started_ms: int
    updated_ms: int
    shape: str
    waiting: str | None
    error: str | None
    cancelled: str | None
    begun_by: str
    data: Any
    shows: Any
    result: Any
    journal: tuple[RecordView, ...] = ()
    dead_letters: tuple[str, ...] = ()


class RecordView(msgspec.Struct, frozen=True, kw_only=True):
    """A record of a run's journal. *nr* counts them as they are closed (0: it is open)."""

    position: str
    kind: Kind
    name: str
    mark: Mark
    nr: int
    attempts: int
    at_ms: int
    result: Any
    error_type: str | None
    error: str | None


def shown(run: Run, records: Iterable[Record] = ()) -> RunView:
    """The run as a person is shown it."""
    return RunView(
        id=run.id,
        workflow=run.workflow,
        key=run.key,
        version=run.version,
        state=run.state,
        correlation_id=run.correlation_id,
        parent=run.parent,
        started_ms=run.started_ms,
        updated_ms=run.updated_ms,
        shape=run.shape,
        waiting=run.waiting,
        error=run.error,
        cancelled=run.cancelled,
        begun_by=run.start_type,
        data=_value(run.start_data),
        shows=_value(run.user_state),
        result=_value(run.result),
        journal=tuple(
            RecordView(
                position=each.position,
                kind=each.kind,
                name=each.name,
                mark=each.mark,
                nr=each.nr,
                attempts=each.attempts,
                at_ms=each.at_ms,
                result=_value(each.result),
                error_type=each.error_type,
                error=each.error,
            )
            for each in sorted(records, key=lambda each: _place(each.position))
        ),
    )


def _place(position: str) -> tuple[tuple[int, int, str], ...]:
    """What sorts records as the function comes to them; undo steps stand last, the last step's first."""
    if position.startswith("version:"):
        return (*_place(position.removeprefix("version:").rpartition(".")[0]), (-1, 0, position))
    found: list[tuple[int, int, str]] = []
    onward = 1
    for part in filter(None, position.split(".")):
        number = part.removeprefix("u")
        if number != part or part == "end":
            onward = -1
            found.append((1, 0, ""))
        if number.isdigit():
            found.append((0, onward * int(number), ""))
    return tuple(found)


def _value(data: bytes | None) -> Any:
    return None if data is None else msgspec.json.decode(data)


class Advance(Event, type="antiphon.workflow", domain=True):
    """Moves one run on. *act*: ``advance``, ``start``, ``signal``, ``cancel``, ``pause``, ``resume``, ``skip``.

    *name* and *data* are a signal's; of a ``start``, *data* is the event's, *parent* the run that waits for it, and
    *deadline_ms* that of the run (wall).
    """

    run: str
    act: str = "advance"
    name: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"null")
    reason: str | None = None
    parent: str | None = None
    deadline_ms: int | None = None


#: Where an internal event goes: the workflow, the order key of the run's deliveries, the run's correlation.
Address = tuple[str, str, str]


def advance_envelope(
    advance: Advance, address: Address, event_id: str, now_ms: int, cause: Envelope | None = None
) -> Envelope:
    """The envelope of an internal event that moves a run on."""
    workflow, order_key, correlation_id = address
    return Envelope(
        event_id,
        f"{ADVANCE_TYPE}{workflow}",
        1,
        order_key,
        workflow.partition(".")[0],
        now_ms,
        msgspec.json.encode(advance),
        correlation_id,
        cause.id if cause is not None else None,
        cause.traceparent if cause is not None else None,
    )


@dataclass(frozen=True)
class WorkflowSpec:
    """One workflow, in one version. ``name`` is ``service.function``.

    *key_of* gives the run's key of the start event (None: that event's own key, else its id). *is_machine*: it is a
    definition, in which nothing can ask for the version of a run.
    """

    name: str
    service: str
    fn: Callable[..., Any]
    starts: tuple[EventType, ...]
    awaits: tuple[EventType, ...]
    publishes: tuple[EventType, ...]
    key_of: Callable[[Any], str | None] | None
    version: int
    retry: Retry
    source: str
    is_machine: bool = False

    @cached_property
    def published(self) -> frozenset[type]:
        """The classes of what it may publish."""
        return frozenset(each.cls for each in self.publishes)

    @property
    def advance_type(self) -> str:
        """The type of the internal events that move its runs on."""
        return f"{ADVANCE_TYPE}{self.name}"
