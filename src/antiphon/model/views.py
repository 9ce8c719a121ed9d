"""What a person is shown of a store: frozen values that turn into JSON as they are.

Times ending in ``_ms`` are wall time: Unix milliseconds, UTC.
"""

from __future__ import annotations

import base64
from typing import Any, Literal

import msgspec

from antiphon.errors import InvalidEvent
from antiphon.model.delivery import Status
from antiphon.model.envelope import Envelope, Kind
from antiphon.model.jsontext import strict_json
from antiphon.model.workflows import ADVANCE_TYPE, RunView

#: How an event came into a log, by the number that is kept there.
ORIGINS = ("published", "received", "internal")
#: The group of dead letters that left no error: their process died.
NO_FINGERPRINT = "0000000000"

_REPR_LIMIT = 500


class RawData(msgspec.Struct, frozen=True, kw_only=True):
    """Data that is no JSON text: why not, its bytes, and their first part to read."""

    why: str
    base64: str
    text: str


class LoggedView(msgspec.Struct, frozen=True, kw_only=True):
    """An event in the log of *store*, at position *seq*.

    *data* is its JSON value; bytes that are none are in *raw*. *only_for* names the one handler that is owed
    it (an edited dead letter); None: all that subscribe to its type. A command or reply goes to *target*; a reply
    answers *request_id*.
    """

    store: str
    seq: int
    id: str
    type: str
    version: int
    key: str | None
    service: str
    time_ms: int
    correlation_id: str
    causation_id: str | None
    traceparent: str
    origin: str
    kind: Kind = "event"
    target: str | None = None
    request_id: str | None = None
    deadline_ms: int | None = None
    only_for: str | None = None
    data: Any = None
    raw: RawData | None = None


class AttemptView(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt, or a person's act between two of them.

    *outcome*: ``completed``, ``failed``, ``crashed``, ``probe`` (failed, and did not count), ``redriven``.
    """

    number: int
    outcome: str
    at_ms: int
    error_type: str | None = None
    message: str | None = None
    traceback: str | None = None


class DeliveryView(msgspec.Struct, frozen=True, kw_only=True):
    """One event owed to one handler: where it stands, since when, every attempt, and why it ended so.

    *attempts* counts what the retry policy counts; *due_ms* is when it may run next. *waits_for* is the id
    of the earlier event of its key that it waits behind. *compensates* names the work that the handler undoes.
    """

    store: str
    event_id: str
    handler: str
    service: str
    status: Status
    attempts: int
    updated_ms: int
    due_ms: int | None = None
    reason: str | None = None
    waits_for: str | None = None
    archived: str | None = None
    compensates: str | None = None
    history: tuple[AttemptView, ...] = ()


class TraceNode(msgspec.Struct, frozen=True, kw_only=True):
    """An event of a trace: *depth* steps below the one that began it, in the logs of *stores*."""

    depth: int
    event: LoggedView
    deliveries: tuple[DeliveryView, ...]
    stores: tuple[str, ...]


class TracePart(msgspec.Struct, frozen=True, kw_only=True):
    """What one store knows of a correlation. *truncated*: there are more events than were read."""

    correlation_id: str
    events: tuple[LoggedView, ...]
    deliveries: tuple[DeliveryView, ...]
    truncated: bool = False
    runs: tuple[RunView, ...] = ()


SagaState = Literal["running", "completed", "compensated", "failed", "stuck"]
StepState = Literal["done", "undone", "undoing", "stuck", "failed", "expected"]


class SagaStep(msgspec.Struct, frozen=True, kw_only=True):
    """A step of a saga: a handler, for one event; or what a workflow's run has done, or waits for.

    *state*: ``done``, or then ``undone`` or ``undoing`` by its compensation, ``stuck`` if that is a dead letter;
    ``failed`` (it is a dead letter itself), ``expected`` (it waits, or runs). *why* says more of what is not done.
    *event_id* and *event_type* are of the event that was handled, or that began the run.
    """

    name: str
    state: StepState
    event_id: str
    event_type: str
    undone_by: str | None = None
    why: str | None = None


class Saga(msgspec.Struct, frozen=True, kw_only=True):
    """A process over several services, as far as it has come."""

    state: SagaState
    steps: tuple[SagaStep, ...]


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """All that belongs together, each event right below the one that caused it (depth first).

    *runs* are those of workflows, with their journals, in the order in which they began.
    """

    correlation_id: str
    nodes: tuple[TraceNode, ...]
    truncated: bool = False
    saga: Saga | None = None
    runs: tuple[RunView, ...] = ()


class StatusCounts(msgspec.Struct, frozen=True, kw_only=True):
    """How many deliveries of a handler have a row, by status. *parked* wait behind an earlier event."""

    parked: int = 0
    in_progress: int = 0
    retry: int = 0
    error: int = 0
    failed: int = 0
    archived: int = 0

    @property
    def open(self) -> int:
        """Those that are not over."""
        return self.parked + self.in_progress + self.retry

    @property
    def dead(self) -> int:
        """The dead letters that wait for somebody's decision."""
        return self.error + self.failed


class HandlerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One handler's state.

    *lag* counts the events after its cursor that it is owed; open deliveries come on top. It is an upper
    bound when *lag_exact* is false. *removed_ms*: since then the code has no such handler, but what it is
    owed is kept for it until it is forgotten. *running*: a live worker has its lease. A handler of several
    *partitions* has a cursor, lease and pause for each: shown are the cursor that is the most behind, the sums, all
    owners (parted by ", "), the longest pause, and whether all of them run.
    """

    store: str
    handler: str
    service: str
    types: tuple[str, ...]
    cursor: int
    lag: int
    lag_exact: bool
    oldest_unhandled_s: float | None
    handled: int
    failed_invocations: int
    counts: StatusCounts
    paused_until_ms: int | None
    pause_reason: str | None
    owner: str | None
    running: bool
    updated_ms: int
    removed_ms: int | None
    partitions: int = 1

    @property
    def unhandled(self) -> int:
        """All events that it still has to handle."""
        return self.lag + self.counts.open


class PositionView(msgspec.Struct, frozen=True, kw_only=True):
    """How far an inlet or an outlet has come.

    In a service's store ``sent`` is its outlet's place in this log, ``read:<type>`` its inlet's in the bus. In a
    bus ``outlet:<service>`` is a place in that service's log, ``inlet:<service>`` one in the bus, with its *lag*
    and, if the app has no such receiver any more, since when. *head* is the end of the log meant, if known here.
    """

    store: str
    name: str
    seq: int
    head: int | None
    updated_ms: int
    lag: int | None = None
    removed_ms: int | None = None


class DeadLetterFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which dead letters are meant; what is None does not matter.

    *group* is the start of a fingerprint, *text* part of the message, reason, key, id or data.
    *since_ms* and *until_ms* bound when it died. *archived* ones are another set.
    """

    handler: str | None = None
    type: str | None = None
    group: str | None = None
    status: Status | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    text: str | None = None
    archived: bool = False


class DeadLetterView(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery that was set aside. *group* and *handler* name it together with *event_id*."""

    store: str
    event_id: str
    seq: int
    type: str
    version: int
    key: str | None
    handler: str
    service: str
    status: Status
    reason: str | None
    error_type: str | None
    message: str | None
    group: str
    attempts: int
    time_ms: int
    died_ms: int
    archived: str | None


class DeadLetterDetail(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of one dead letter."""

    letter: DeadLetterView
    event: LoggedView
    label: str
    traceback: str | None
    history: tuple[AttemptView, ...]


class DeadLetterGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Dead letters of one failure: exception type, normalised message, own-code frame."""

    store: str
    group: str
    label: str
    count: int
    handlers: tuple[str, ...]
    first_ms: int
    last_ms: int
    example: str


class RedrivePlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a redrive would do; nothing is changed by it."""

    store: str
    count: int
    handlers: dict[str, int]
    groups: tuple[DeadLetterGroup, ...]
    examples: tuple[DeadLetterView, ...]


class RedriveJob(msgspec.Struct, frozen=True, kw_only=True):
    """A redrive of many, frozen at submit: how it is done and how far it is.

    *state*: ``canary`` (one has gone ahead), ``running``, ``settling`` (all have gone, some outcomes are
    open), and at the end ``done``, ``stopped`` or ``cancelled`` with its *reason*.
    Of *total*, *waiting* have not gone, *pending* have and are not over, *skipped* were no dead letters any
    more when their turn came.
    """

    store: str
    id: str
    state: str
    reason: str | None
    what: DeadLetterFilter
    canary: bool
    rate: float | None
    stop_share: float | None
    stop_after: int
    created_ms: int
    updated_ms: int
    total: int
    waiting: int
    pending: int
    succeeded: int
    failed: int
    skipped: int

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in ("done", "stopped", "cancelled")


class Forgotten(msgspec.Struct, frozen=True, kw_only=True):
    """A handler that is owed nothing any more, and what it left: unhandled events, open and dead deliveries."""

    handler: str
    unhandled: int
    open: int
    dead: int


class BackupReport(msgspec.Struct, frozen=True, kw_only=True):
    """A checked copy: *problems* is empty when it is sound."""

    path: str
    events: int
    handlers: int
    problems: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        """Whether it may be restored."""
        return not self.problems


def logged_view(store: str, seq: int, envelope: Envelope, origin: int, only_for: str | None = None) -> LoggedView:
    """The view of an event at *seq* of the log of *store*."""
    value, raw = read_data(envelope)
    return LoggedView(
        store=store,
        seq=seq,
        id=envelope.id,
        type=envelope.type,
        version=envelope.version,
        key=envelope.key,
        service=envelope.service,
        time_ms=envelope.time_ms,
        correlation_id=envelope.correlation_id,
        causation_id=envelope.causation_id,
        traceparent=envelope.trace,
        origin=ORIGINS[origin],
        kind=envelope.kind,
        target=envelope.target,
        request_id=envelope.request_id,
        deadline_ms=envelope.deadline_ms,
        only_for=only_for,
        data=value,
        raw=raw,
    )


def read_data(envelope: Envelope) -> tuple[Any, RawData | None]:
    """The JSON value of an event's data, or, if it has none, its bytes and why."""
    data = envelope.data
    try:
        return strict_json(data, limit=len(data), type_name=envelope.type), None
    except InvalidEvent as error:
        why = f"{error.field}: {error.reason}"
        return None, RawData(why=why, base64=base64.b64encode(data).decode(), text=repr(data)[:_REPR_LIMIT])


def run_of(event: LoggedView) -> str:
    """The id of the workflow's run that an event moves on, or that of the one that it would have begun."""
    is_internal = event.type.startswith(ADVANCE_TYPE) and isinstance(event.data, dict)
    return str(event.data["run"]) if is_internal else event.id
