"""What has been committed in a world, store by store, read as it grows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from antiphon.model.delivery import DEAD
from antiphon.ports import INTERNAL, RECEIVED

_DEAD = frozenset(status.value for status in DEAD)


class Reads(Protocol):
    """Reads what is committed now."""

    def rows(self, store: str, sql: str, *parameters: Any) -> Sequence[Any]:
        """All rows of a query on the store of a service, or on ``bus``."""


class Logged(msgspec.Struct, frozen=True):
    """An event in a log."""

    seq: int
    id: str
    type: str
    key: str | None
    service: str
    correlation_id: str
    causation_id: str | None
    origin: int
    data: bytes
    traceparent: str | None
    target: str | None = None
    request_id: str | None = None
    addressee: int | None = None
    deadline_ms: int | None = None
    bucket: int = 0


class Effect(msgspec.Struct, frozen=True):
    """An attempt that took effect (see observing.py)."""

    n: int
    handler: str
    event_id: str
    seq: int
    key: str | None
    owner: str
    lease_owner: str | None
    epoch: int
    store_ms: int
    published: str


class Takeover(msgspec.Struct, frozen=True):
    """A change of a lease."""

    n: int
    handler: str
    old_owner: str | None
    owner: str | None
    old_epoch: int
    epoch: int
    until_ms: int


class Step(msgspec.Struct, frozen=True):
    """A step of a workflow, or the undo of one, that took effect (see stepping.py). *position* is the step's."""

    n: int
    workflow: str
    run: str
    position: str
    is_undo: int
    can_be_undone: int


class WorkflowRun(msgspec.Struct, frozen=True):
    """A run of a workflow as it is now."""

    nr: int
    workflow: str
    id: str
    state: str
    order_key: str
    correlation_id: str
    due_ms: int | None


class JournalRecord(msgspec.Struct, frozen=True):
    """A record of a run's journal as it is now."""

    run: int
    position: str
    kind: str
    mark: str
    nr: int
    result: bytes | None


class Handler(msgspec.Struct, frozen=True):
    """A partition of a handler as its store knows it."""

    id: int
    name: str
    service: str
    seq: int
    owner: str | None
    part: int = 0
    parts: int = 1
    first_id: int = 0

    def has(self, event: Logged) -> bool:
        """Whether an event is one of this partition's."""
        return event.bucket & (self.parts - 1) == self.part


class Delivery(msgspec.Struct, frozen=True):
    """A delivery that is not plainly done."""

    handler_id: int
    seq: int
    status: str
    attempts: int
    crashes: int
    suspect: int
    reason: str | None
    due_ms: int | None

    @property
    def dead(self) -> bool:
        """Whether it is a dead letter."""
        return self.status in _DEAD


_LOG = (
    "SELECT seq, id, type, key, service, coalesce(correlation_id, id), causation_id, origin, data, traceparent, "
    "target, request_id, addressee, deadline_ms, bucket FROM antiphon_log WHERE seq > ? ORDER BY seq"
)
_EFFECTS = (
    "SELECT n, handler, event_id, seq, key, owner, lease_owner, epoch, store_ms, published FROM sim_effects "
    "WHERE n > ? ORDER BY n"
)
_LEASES = "SELECT n, handler, old_owner, owner, old_epoch, epoch, until_ms FROM sim_leases WHERE n > ? ORDER BY n"
_HANDLERS = "SELECT id, name, service, seq, owner, part, parts, coalesce(first_id, id) FROM antiphon_handlers"
_DELIVERIES = "SELECT handler_id, seq, status, attempts, crashes, suspect, reason, due_ms FROM antiphon_deliveries"
_TIMERS = "SELECT id, due_ms, clock, recurring, type FROM sim_timers"
_FIRED = "SELECT n, id, id IN (SELECT l.id FROM antiphon_log AS l) FROM sim_fired WHERE n > ? ORDER BY n"
_STEPS = "SELECT n, workflow, run, position, is_undo, can_be_undone FROM sim_steps WHERE n > ? ORDER BY n"
_RUNS = "SELECT nr, workflow, id, state, order_key, correlation_id, due_ms FROM antiphon_runs ORDER BY nr"
_JOURNAL = "SELECT run, position, kind, mark, nr, result FROM antiphon_journal"
_SHOWN = "SELECT HANDLER, EVENT_ID, STATUS FROM antiphon_events"
_OF_EVENTS = " WHERE EVENT_ID IN (SELECT value FROM json_each(?))"
_WRONGS = "SELECT n, invariant, text FROM sim_wrongs WHERE n > ? ORDER BY n"
#: The types of the engine's own events begin so.
OURS = "antiphon."
_SUBSCRIPTIONS = "SELECT handler_id, type, start_seq FROM antiphon_subscriptions"


class StoreHistory:
    """One store. What `refresh` found last is in ``new_log``, ``new_effects``, ``takeovers`` and ``wrongs``."""

    def __init__(self, name: str, services: Iterable[str], reads: Reads) -> None:
        self.name = name
        self.services = frozenset(services)
        self._reads = reads
        self._version: object = None
        self._last_wrong = 0
        self._last_lease = 0
        self._last_fired = 0
        self.log: list[Logged] = []
        self.by_id: dict[str, Logged] = {}
        self._by_seq: dict[int, Logged] = {}
        self.effects: list[Effect] = []
        self.new_log: list[Logged] = []
        self.new_effects: list[Effect] = []
        self.takeovers: list[Takeover] = []
        self.wrongs: list[tuple[str, str]] = []
        #: The partitions of all handlers, by their numbers.
        self.handlers: dict[int, Handler] = {}
        self.deliveries: dict[tuple[int, int], Delivery] = {}
        self.subscriptions: list[tuple[int, str, int]] = []
        #: Events that waited for a time of their own (due time and clock), and the types that recur.
        self.timers: dict[str, tuple[int, str]] = {}
        self.recurring: set[str] = set()
        #: Timers that their loop has just ended, and whether each has become an event.
        self.ended_timers: list[tuple[str, bool]] = []
        self.steps: list[Step] = []
        self.new_steps: list[Step] = []

    def refresh(self, age: object) -> bool:
        """Read what is new; False if nothing was committed. *age*: whatever changes when files are replaced."""
        version = (age, self._rows("PRAGMA data_version")[0][0])
        self.new_log, self.new_effects, self.takeovers, self.wrongs = [], [], [], []
        self.ended_timers, self.new_steps = [], []
        if version == self._version:
            return False
        self._version = version
        self.new_log = [Logged(*row) for row in self._rows(_LOG, self.log[-1].seq if self.log else 0)]
        self.new_effects = [Effect(*row) for row in self._rows(_EFFECTS, self.effects[-1].n if self.effects else 0)]
        self.takeovers = [Takeover(*row) for row in self._rows(_LEASES, self._last_lease)]
        wrongs = self._rows(_WRONGS, self._last_wrong)
        self.wrongs = [(str(invariant), str(text)) for _, invariant, text in wrongs]
        self._last_wrong = wrongs[-1][0] if wrongs else self._last_wrong
        self._last_lease = self.takeovers[-1].n if self.takeovers else self._last_lease
        self.log += self.new_log
        self.by_id.update((event.id, event) for event in self.new_log)
        self._by_seq.update((event.seq, event) for event in self.new_log)
        self.effects += self.new_effects
        fired = self._rows(_FIRED, self._last_fired)
        self._last_fired = fired[-1][0] if fired else self._last_fired
        self.ended_timers = [(row[1], bool(row[2])) for row in fired]
        self.new_steps = [Step(*row) for row in self._rows(_STEPS, self.steps[-1].n if self.steps else 0)]
        self.steps += self.new_steps
        self.handlers = {row[0]: Handler(*row) for row in self._rows(_HANDLERS)}
        self.deliveries = {(row[0], row[1]): Delivery(*row) for row in self._rows(_DELIVERIES)}
        self.subscriptions = [tuple(row) for row in self._rows(_SUBSCRIPTIONS)]
        timers = self._rows(_TIMERS)
        self.timers = {row[0]: (row[1], row[2]) for row in timers if not row[3]}
        self.recurring = {row[4] for row in timers if row[3]}
        return True

    def has(self, ids: Iterable[str]) -> set[str]:
        """Which of these events are in the log now."""
        wanted = msgspec.json.encode(sorted(ids)).decode()
        return {
            row[0]
            for row in self._rows("SELECT id FROM antiphon_log WHERE id IN (SELECT value FROM json_each(?))", wanted)
        }

    def at(self, seq: int) -> Logged:
        """The event at a position."""
        return self._by_seq[seq]

    def counts(self) -> tuple[int, int]:
        """How many events and effects there are now."""
        row = self._rows("SELECT (SELECT count(*) FROM antiphon_log), (SELECT count(*) FROM sim_effects)")[0]
        return int(row[0]), int(row[1])

    def partition_of(self, name: str, event: Logged) -> Handler:
        """The partition of a handler that has an event."""
        return next(each for each in self.handlers.values() if each.name == name and each.has(event))

    def owed(self, handler: Handler, after_seq: int = 0) -> list[Logged]:
        """The events after a position that *handler* is owed, in order."""
        starts = {type_: start for handler_id, type_, start in self.subscriptions if handler_id == handler.id}
        return [event for event in self.log if event.seq > after_seq and _is_owed(event, handler, starts)]

    def owes(self, handler: Handler, event: Logged) -> bool:
        """Whether *handler* is, or was, owed *event*."""
        starts = {type_: start for handler_id, type_, start in self.subscriptions if handler_id == handler.id}
        return _is_owed(event, handler, starts)

    @property
    def has_workflows(self) -> bool:
        """Whether any run of a workflow has taken a step."""
        return bool(self.steps)

    def dead_events(self) -> list[Logged]:
        """The events of the dead letters."""
        dead = {delivery.seq for delivery in self.deliveries.values() if delivery.dead}
        return [event for event in self.log if event.seq in dead]

    def is_timed(self, event: Logged) -> bool:
        """Whether a timer or a schedule has published it, not a handler that has just run."""
        return event.id in self.timers or event.type in self.recurring or event.type.startswith(OURS)

    def attempts_on_record(self, outcome: str) -> dict[tuple[int, int], int]:
        """How many attempts have ended so by the store's own history, by handler and position."""
        rows = self._rows(
            "SELECT handler_id, seq, count(*) FROM antiphon_attempts WHERE outcome = ? GROUP BY handler_id, seq",
            outcome,
        )
        return {(row[0], row[1]): row[2] for row in rows}

    def handlers_now(self) -> list[Handler]:
        """The handlers as they are now, whatever was found last."""
        return [Handler(*row) for row in self._rows(_HANDLERS)]

    def running_now(self, handler_id: int) -> list[Delivery]:
        """The deliveries of a handler that are recorded as running now."""
        rows = self._rows(f"{_DELIVERIES} WHERE handler_id = ? AND status = 'IN_PROGRESS'", handler_id)
        return [Delivery(*row) for row in rows]

    def waiting_timers(self) -> list[tuple[str, int, str]]:
        """Timers that are to fire once: id, due time and clock."""
        rows = self._rows("SELECT id, due_ms, clock FROM antiphon_timers WHERE recurrence IS NULL ORDER BY due_ms, id")
        return [(row[0], row[1], row[2]) for row in rows]

    def runs_now(self) -> list[WorkflowRun]:
        """The runs of workflows as they are now."""
        return [WorkflowRun(*row) for row in self._rows(_RUNS)]

    def journal_now(self) -> list[JournalRecord]:
        """The journals of all runs as they are now."""
        return [JournalRecord(*row) for row in self._rows(_JOURNAL)]

    def shown_now(self, ids: Iterable[str] | None = None) -> dict[tuple[str, str], str]:
        """The status that the event table shows, by handler and event (None: of all events)."""
        wanted = None if ids is None else msgspec.json.encode(sorted(ids)).decode()
        rows = self._rows(_SHOWN) if wanted is None else self._rows(_SHOWN + _OF_EVENTS, wanted)
        return {(row[0], row[1]): row[2] for row in rows}

    def effect_states_now(self) -> dict[tuple[str, str, str], str]:
        """What is known of the calls to the outside, by handler, event and name."""
        rows = self._rows("SELECT handler, event_id, name, state FROM antiphon_effects")
        return {(row[0], row[1], row[2]): row[3] for row in rows}

    def damage(self) -> list[str]:
        """What SQLite finds wrong with the file."""
        found = [str(row[0]) for row in self._rows("PRAGMA integrity_check") if row[0] != "ok"]
        return found + [f"a foreign key of {row[0]} leads nowhere" for row in self._rows("PRAGMA foreign_key_check")]

    def _rows(self, sql: str, *parameters: Any) -> Sequence[Any]:
        return self._reads.rows(self.name, sql, *parameters)


def _is_owed(event: Logged, handler: Handler, starts: Mapping[str, int]) -> bool:
    """Whether a handler, of which each type's *starts* are given, is owed an event."""
    if event.seq <= starts.get(event.type, event.seq) or not handler.has(event):
        return False
    if event.addressee is not None:
        return event.addressee == handler.first_id
    return (event.origin != INTERNAL or event.service == handler.service) and event.target in (None, handler.service)


class History:
    """All stores of a world."""

    def __init__(self, reads: Reads, stores: Mapping[str, Iterable[str]], bus: bool) -> None:
        self.stores = {name: StoreHistory(name, services, reads) for name, services in stores.items()}
        self.of_service = {service: store for store in self.stores.values() for service in store.services}
        self.has_bus = bus
        #: What triggers in the bus's file have noted since the last look.
        self.bus_wrongs: list[tuple[str, str]] = []
        self._last_bus_wrong = 0
        self._reads = reads

    def refresh(self, age: object) -> bool:
        """Read what is new in every store, as of one moment; False if there is nothing."""
        fresh = [store.refresh(age) for store in self.stores.values()]
        self.bus_wrongs = []
        if any(fresh) and self.has_bus:
            wrongs = self._reads.rows("bus", _WRONGS, self._last_bus_wrong)
            self.bus_wrongs = [(str(invariant), str(text)) for _, invariant, text in wrongs]
            self._last_bus_wrong = wrongs[-1][0] if wrongs else self._last_bus_wrong
        return any(fresh)

    def received(self, store: StoreHistory) -> list[Logged]:
        """What `StoreHistory.refresh` found in *store* that came over the bus."""
        return [event for event in store.new_log if event.origin == RECEIVED]

    def bus_damage(self) -> list[str]:
        """What SQLite finds wrong with the bus's file."""
        if not self.has_bus:
            return []
        return [str(row[0]) for row in self._reads.rows("bus", "PRAGMA integrity_check") if row[0] != "ok"]
