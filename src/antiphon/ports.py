"""Every seam, each method with its contract in words.

A port is a promise, not a base class: anything with these methods will do. The conformance suite in
``antiphon.testing`` holds an implementation to the words below.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec

from antiphon.errors import InvalidEvent
from antiphon.model.channels import Message
from antiphon.model.delivery import Failure, Status, Verdict
from antiphon.model.effects import Effect
from antiphon.model.envelope import Envelope
from antiphon.model.handlers import HandlerSpec

#: How an event came into a log.
PUBLISHED, RECEIVED, INTERNAL = 0, 1, 2


class Clock(Protocol):
    """Time, randomness and ids. All of them are asked here, so that a simulator can own them."""

    def now_ms(self) -> int:
        """Wall time: Unix milliseconds, UTC. It may jump either way."""

    def boot_ms(self) -> int:
        """Milliseconds since the machine booted, suspended time included. It never goes back."""

    def boot_id(self) -> str:
        """A name of this boot of this machine: boot_ms of two boots cannot be compared."""

    def new_id(self) -> str:
        """A fresh UUIDv7; ids made by one process sort in the order in which they were made."""

    def random(self) -> float:
        """A random number in [0, 1)."""

    async def sleep(self, seconds: float) -> None:
        """Return when *seconds* have passed. Cancellable."""

    async def idle(self, seconds: float) -> None:
        """Return when about *seconds* have passed: between two rounds of upkeep, which may well be later.
        A clock of tests passes over it when nothing else happens. Cancellable."""

    async def run_blocking(self, fn: Callable[[], Any]) -> Any:
        """Run *fn* in a thread (a simulator: inline) and return its result."""


class LoggedEvent(msgspec.Struct, frozen=True, gc=False):
    """An event with its place in a log. *seq* grows in commit order; *origin* says how it came."""

    seq: int
    envelope: Envelope
    origin: int = PUBLISHED


class OpenDelivery(msgspec.Struct, frozen=True):
    """A delivery that has a row: it waits for a retry, behind one, or was running when its process died."""

    event: LoggedEvent
    status: Status
    attempts: int
    crashes: int
    suspect: bool
    first_ms: int | None


class Partition(msgspec.Struct, frozen=True):
    """A part of the events of a handler, with a cursor and a lease of its own; all those of a key are in one.

    *parts* is a power of two, and *part* less than that. Most handlers have one partition, 0 of 1.
    """

    handler: str
    part: int
    parts: int
    owner: str | None = None
    lease_until_ms: int = 0

    @property
    def name(self) -> str:
        """By which its lease is taken."""
        return partition_name(self.handler, self.part)


def partition_name(handler: str, part: int) -> str:
    """The name of a partition: the handler's own for the first, with its number for any other."""
    return f"{handler}#{part}" if part else handler


class Lease(msgspec.Struct):
    """A worker's exclusive, time-bounded claim on a partition of a handler. *epoch* is the fencing token, *seq* the
    cursor; up to *seen_seq* there is nothing after it."""

    handler: str
    handler_id: int
    owner: str
    epoch: int
    seq: int
    suspect_seq: int = 0
    part: int = 0
    parts: int = 1
    seen_seq: int = 0

    @property
    def name(self) -> str:
        """That of the partition."""
        return partition_name(self.handler, self.part)


class Settled(msgspec.Struct, frozen=True):
    """What became of one attempt, to be applied to the store.

    *fresh*: the event was read at the cursor and has no delivery row yet. *number* is the attempt's
    number; *burns* is False for an attempt that must not count (a probe, a stop of ours). *crashed*: no attempt
    has ended now: it is what its process has died of before, which is recorded already, or none was started.
    *answer* is an event to append with it, and its origin: a command that is set aside is answered.
    """

    event: LoggedEvent
    verdict: Verdict
    fresh: bool
    number: int
    first_ms: int
    failure: Failure | None = None
    burns: bool = True
    crashed: bool = False
    answer: tuple[Envelope, int] | None = None


class Starting(msgspec.Struct, frozen=True):
    """An attempt that is about to run. *alone*: nothing else runs meanwhile, so a crash is its own."""

    event: LoggedEvent
    number: int
    first_ms: int
    alone: bool = False


#: Listening to these "types" wakes at a new timer, and at a new redrive.
TIMER_SET = "antiphon.timer-set"
REDRIVE_SET = "antiphon.redrive-set"
#: The timer that answers a command if nobody else does is named so, and the command's id.
TIMEOUT_OF = "timeout:"
TimerClock = Literal["store", "wall"]


class Timer(msgspec.Struct, frozen=True):
    """An event that waits for its time: *due_ms* on the store's clock (a delay) or on the wall's (a date).

    *recurrence* is the JSON text of a schedule (``every_ms`` or ``cron``, and ``zone``); None: once.
    """

    id: str
    due_ms: int
    clock: TimerClock
    recurrence: str | None
    envelope: Envelope
    origin: int = PUBLISHED


class Held:
    """A statement that waits in its unit to be sent with others. To await it yields it to whoever drives the
    coroutine, who resumes the coroutine with its *result* once `Unit.send` has put it there."""

    __slots__ = ("fetches", "many", "parameters", "result", "sql")

    def __init__(self, sql: str, parameters: Sequence[Any], *, fetches: bool = False, many: bool = False) -> None:
        self.sql = sql
        self.parameters = parameters
        self.fetches = fetches
        self.many = many
        self.result: Any = None

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield self)


class Unit(Protocol):
    """One write transaction on a store. All of it commits, or none of it; other units may share its commit."""

    async def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run one statement with bound parameters; returns the number of rows that it changed."""

    async def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> int:
        """Run one statement for each of *rows*; returns the number of rows changed."""

    async def fetch_all(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """All rows of one query, this unit's own writes included. A row has index and name access."""

    def query(self, name: str) -> str:
        """The SQL of a named block, as `Store.query`."""

    async def savepoint(self) -> None:
        """Mark a place to return to; a second call moves the mark."""

    async def rollback_to_savepoint(self) -> None:
        """Undo everything after the mark."""

    def later(self, write: Callable[[Any, list[Any]], Awaitable[None]], item: object) -> None:
        """Have *write* called with this unit and every such *item* at its end: many rows cost less at once. Going
        back to the mark leaves them; nobody may need to read them in this unit."""

    def hold(self) -> bool:
        """From now on statements of the current task wait as `Held` ones for `send`. One that fails then costs the
        whole unit. False of a store that answers at once: nothing is held, and nothing changes."""

    async def send(self, *, last: bool = False) -> None:
        """Send what waits, in order and in one message, and put each its result. *last*: hold no more."""

    @property
    def busy(self) -> bool:
        """Whether a statement of this unit is on its way to the database or back: what is awaited is that."""

    async def append(self, events: Iterable[tuple[Envelope, int]]) -> None:
        """Append events, each with its origin, to the log, in order, at the latest when the unit ends; an id that
        is already there is skipped. What answers a command ends the timer ``TIMEOUT_OF`` it."""

    async def start(self, lease: Lease, attempts: Sequence[Starting], upto_seq: int) -> None:
        """Record attempts as IN_PROGRESS before they run, and move the cursor to *upto_seq*. Fenced."""

    async def park(self, lease: Lease, events: Sequence[LoggedEvent]) -> None:
        """Put fresh events behind an earlier, unsettled event of their key."""

    async def line_up(self, lease: Lease, events: Sequence[tuple[LoggedEvent, str]], upto_seq: int) -> None:
        """Give fresh events rows, each in its lane, and move the cursor to *upto_seq*. Order by key holds. Fenced."""

    async def put_effect(self, lease: Lease, effect: Effect) -> None:
        """Keep what is known of a call to the outside. Fenced: raises LeaseLost."""

    async def put_timer(self, timer: Timer) -> None:
        """Keep *timer*; one of the same id is replaced, its due time kept if it recurs as before."""

    async def end_timer(self, timer_id: str) -> bool:
        """Remove a timer; False if there is none, or it has fired."""

    async def move_position(self, name: str, seq: int) -> None:
        """Note that everything up to *seq* of *name* has been taken. Positions never go back."""

    async def fence(self, lease: Lease) -> None:
        """Let nobody take the lease, or settle by it, from now until the unit ends. Raises LeaseLost.

        `open_keys` tells what was open a moment ago: whoever parks by that, beside attempts that may end meanwhile,
        asks for this first.
        """

    async def open_keys(self, lease: Lease, keys: Iterable[str]) -> frozenset[str]:
        """Which of *keys* have a delivery of the handler that is not over. Without any, *keys* is not read."""

    async def pause(self, lease: Lease, until_ms: int | None, reason: str | None) -> None:
        """Record that the handler is paused until a store time, or (None) that it runs again. Fenced."""

    async def settle(self, lease: Lease, results: Sequence[Settled], upto_seq: int, plain: int = 0) -> None:
        """Apply verdicts, keep order by key, move the cursor to *upto_seq*.

        *plain*: how many fresh events took effect at once; they leave no row, and need not be in *results*.
        Raises LeaseLost, and changes nothing, if the lease's epoch is no longer the handler's.
        """


class Log(Protocol):
    """An append-only sequence of events, and the bell that rings when it grows."""

    async def read_log(self, after_seq: int, limit: int) -> list[LoggedEvent]:
        """What comes after a position, in order. Never skips an event that commits later.

        As all reads of events: up to *limit* of them, and none only if there are none.
        """

    async def positions(self) -> dict[str, int]:
        """The positions noted by `Unit.move_position`, by name."""

    def listen(self, types: Iterable[str], wake: Callable[[], None]) -> Callable[[], None]:
        """Call *wake* after a commit, by any process, that may have appended one of *types* (none given:
        anything); returns the undo."""


class Leases(Protocol):
    """Who may run a partition of a handler. One owner at a time, and a fence against the one before."""

    def neighbours(self) -> dict[str, frozenset[str]]:
        """The services of every live worker on this store, this one included, by owner."""

    async def partitions(self) -> list[Partition]:
        """The partitions of every handler, in order. Those of one handler share all of its events among them."""

    async def acquire(self, partition: str, owner: str) -> Lease | None:
        """Take the lease of a partition (a handler's name is that of its first) if it is free, expired, its owner is
        dead, or *owner* has it and does not use it (it could not release it); None otherwise."""

    async def renew(self, owner: str) -> frozenset[str]:
        """Extend every lease of *owner*; returns the names of the partitions that it still holds."""

    async def release(self, lease: Lease) -> None:
        """Give the lease back. What was IN_PROGRESS becomes due at once, and nobody is suspected."""

    async def split(self, lease: Lease, parts: int) -> None:
        """Give the lease back as `release` does, and have the partition be several: those of *parts* (a larger power
        of two) that together have its events. Each has the cursor, and the deliveries and history of its own events.
        In one transaction. Fenced: raises LeaseLost."""


class Deliveries(Protocol):
    """What is owed to handlers: the log after a cursor, and the rows of what is not plainly done."""

    async def register(self, handlers: Sequence[HandlerSpec], elsewhere: Sequence[HandlerSpec] = ()) -> None:
        """Make cursors and subscriptions of handlers not seen before, at their start position.

        *handlers* are all that their services have; those *elsewhere* are run by other processes on the
        same store, and are owed events from now on too.
        """

    async def read_fresh(self, lease: Lease, types: Sequence[str], limit: int) -> list[LoggedEvent]:
        """The next events of *types* after the cursor that are the partition's, in order; of INTERNAL ones, those of
        its own service."""

    async def read_due(self, lease: Lease, limit: int) -> list[OpenDelivery]:
        """Deliveries whose time has come, earliest first, never two of a key out of order."""

    async def lanes(self, lease: Lease, start: str, limit: int) -> list[str]:
        """The lanes from *start* on in which deliveries wait for their time or their turn, in order."""

    async def read_lane(self, lease: Lease, lane: str, limit: int) -> list[OpenDelivery]:
        """As `read_due`, of one lane."""

    async def next_due_ms(self, lease: Lease) -> int | None:
        """The store time at which the next delivery is due; None if none waits."""


class EffectRecords(Protocol):
    """What is known of the calls that handlers made to the outside."""

    async def read_effect(self, event_id: str, handler: str, name: str) -> Effect | None:
        """What is known of one call; None if it was never intended."""


class Timers(Protocol):
    """Events that wait for their time."""

    async def next_timer_ms(self) -> int | None:
        """In how many milliseconds the next timer is due (0 or less: now); None if none waits."""

    async def fire_timers(self, occur: Callable[[Timer], tuple[Envelope, int | None]], limit: int) -> int:
        """Append the events of due timers, and move or end the timers, in one transaction.

        *occur* gives a due timer's event, and when it is due again (None: never). Returns how many fired.
        """


class Store(Log, Leases, Deliveries, EffectRecords, Timers, Protocol):
    """A service's database: its own tables and the event log. Safe for many tasks of one loop."""

    @property
    def batch_ms(self) -> int:
        """For about how long a batch of events may keep a unit open, so that others do not wait much longer."""

    async def open(self) -> None:
        """Open or make the database, bring Antiphon's tables up to date. Raises StoreError."""

    async def close(self) -> None:
        """Wait for the running commit, close everything. Idempotent."""

    def unit(self) -> AbstractAsyncContextManager[Unit]:
        """A write transaction. When the ``async with`` ends, it is durable; on an exception it never was."""

    async def fetch_all(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Read committed data without waiting for writers."""

    def query(self, name: str) -> str:
        """The SQL of one of the named blocks in ``antiphon/store``, as this database understands it."""

    def store_ms(self) -> int:
        """The store's clock, for leases and retries: no change of a wall clock moves it."""

    async def look_after(self) -> None:
        """The upkeep of about once a second: signs of life, missed bells, the store's own files."""


#: What not every bus can: the events of a key come in the order in which they were sent (`order`); it knows how far
#: each sender's log was taken, and takes a batch once (`positions`); a receiver can read again from an earlier
#: position, in several processes too (`rereads`).
Ability = Literal["order", "positions", "rereads"]


class Unreadable(msgspec.Struct, frozen=True):
    """What came over a bus and is no event: its bytes, and why. *seq* as that of an event."""

    seq: int
    raw: bytes
    error: InvalidEvent


class Bus(Protocol):
    """Carries integration events between stores. What a bus lacks, the stores supply: an event that comes twice is
    taken once, whatever has not been confirmed is sent again.

    All but `close` and `listen` raise StoreError or BusError when the bus cannot do it now; they are called again.
    """

    abilities: frozenset[Ability]

    async def open(self) -> None:
        """Connect. Called again after it failed, and when it is connected."""

    async def close(self) -> None:
        """Disconnect. Idempotent."""

    async def send(self, sender: str, after_seq: int, upto_seq: int, events: Sequence[Envelope]) -> int:
        """Durably take *events*, the sender's log between the two positions. Returns the position from which to go
        on; a bus that knows the sender's position takes a batch that it has already once."""

    async def position(self, sender: str) -> int | None:
        """How far the sender's log has been taken; None if the bus does not know, and the sender's note counts."""

    async def receive(self, receiver: str, after: Mapping[str, int], limit: int) -> Sequence[LoggedEvent | Unreadable]:
        """The next events of each type after its position, in the bus's order. All events of these types
        up to the last one returned are among them. *receiver* has durably taken what lies before *after*. Raises
        PositionUnknown where that is further than the bus has ever gone; then it is read from its beginning."""

    async def expect(self, receivers: Mapping[str, Sequence[str]]) -> None:
        """Keep events of these types for each receiver, whether it runs yet or not, until it has taken them.

        The receivers are all that there are; what a former one has not taken is kept until it is forgotten.
        """

    async def report(self, receiver: str, seq: int) -> None:
        """Say that *receiver* has taken everything up to *seq*, so that it need not be kept for it."""

    def listen(self, types: Iterable[str], wake: Callable[[], None]) -> Callable[[], None]:
        """Call *wake* when one of *types* may have arrived (none given: anything); returns the undo."""


class MakeBus(Protocol):
    """Makes a bus that is not open yet: at *path*, if it lies beside the stores. *place* is for those alone."""

    def __call__(self, path: Path, *, clock: Clock, owner: str, **place: Any) -> Bus: ...


class Source(Protocol):
    """Where the messages of a foreign system come from. One object for each time that it is connected.

    All but `close` raise BusError or OSError when it cannot be done now; then the source is closed, and a new one is
    opened after a while.
    """

    async def open(self, notes: Mapping[str, str]) -> None:
        """Connect. *notes* are those of all messages taken so far, the last one of each name."""

    async def receive(self, limit: int) -> Sequence[Message]:
        """The next messages, in the order of their place, up to *limit*. Waits until there is one, or a while. What is
        not acknowledged when this object is closed comes again from the next one. Cancellable."""

    async def acknowledge(self, messages: Sequence[Message]) -> None:
        """All that was received up to and with *messages* has been taken durably."""

    async def close(self) -> None:
        """Disconnect; what breaks then is ignored. Idempotent."""


class Sink(Protocol):
    """Where messages to a foreign system go. One object for each time that it is connected; errors as a source's."""

    async def open(self) -> None:
        """Connect."""

    async def send(self, messages: Sequence[Message]) -> Mapping[int, str]:
        """Send *messages*, in their order; returns when the other side has confirmed them. Those that it will never
        take are returned by their index, with the reason."""

    async def close(self) -> None:
        """Disconnect; what breaks then is ignored. Idempotent."""
