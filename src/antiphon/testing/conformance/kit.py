"""What the checks share: stores that are opened and closed, events, and assertions that tell what they found."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Protocol

from antiphon.errors import AntiphonError
from antiphon.model.delivery import DeadLetter, Done, Failure, RetryAt, Status, Verdict
from antiphon.model.envelope import Envelope
from antiphon.model.events import Event, event_type_of
from antiphon.model.handlers import HandlerSpec, Start
from antiphon.ports import PUBLISHED, Bus, Clock, Lease, LoggedEvent, OpenDelivery, Settled, Starting, Store, Unit
from antiphon.testing.clock import VirtualClock


class MakeStore(Protocol):
    """Makes a store that is not open yet."""

    def __call__(self, path: Path, *, clock: Clock, owner: str) -> Store: ...


class MakeBus(Protocol):
    """Makes a bus that is not open yet."""

    def __call__(self, path: Path, *, clock: Clock, owner: str) -> Bus: ...


class StoreCheck(Protocol):
    """One promise of a store."""

    __name__: str

    def __call__(self, make: MakeStore, path: Path) -> Awaitable[None]: ...


class BusCheck(Protocol):
    """One promise of a bus."""

    __name__: str

    def __call__(self, make: MakeBus, path: Path) -> Awaitable[None]: ...


class A(Event, key="key", type="conformance.A"):
    """One type of event."""

    key: str | None = None


class B(Event, key="key", type="conformance.B"):
    """Another."""

    key: str | None = None


TYPES = ("conformance.A", "conformance.B")


@asynccontextmanager
async def opened(make: MakeStore, path: Path, *owners: str, clock: Clock | None = None) -> AsyncIterator[list[Store]]:
    """A store for each of *owners* on one database, as processes of one machine have them."""
    clock = clock or VirtualClock()
    async with AsyncExitStack() as stack:
        stores = []
        for owner in owners or ("one",):
            store = make(path, clock=clock, owner=owner)
            await store.open()
            stack.push_async_callback(store.close)
            stores.append(store)
        yield stores


@asynccontextmanager
async def leased(
    make: MakeStore, path: Path, *types: type[Event], clock: VirtualClock | None = None
) -> AsyncIterator[tuple[Store, Lease]]:
    """A store with one handler of *types* (A), and its lease."""
    async with opened(make, path, clock=clock) as (store,):
        await store.register([handler("work", *types)])
        yield store, await take(store, "one")


def handler(name: str, *types: type[Event], start: Start = "earliest", service: str = "svc") -> HandlerSpec:
    """A handler ``svc.<name>`` of *types* (A)."""
    return HandlerSpec(
        name=f"{service}.{name}",
        service=service,
        fn=_work,
        types=tuple(event_type_of(type_) for type_ in types or (A,)),
        publishes=(),
        parameters=(("event", "event"),),
        is_async=True,
        source="",
        start=start,
    )


async def _work(event: A | B) -> None:
    """Never called."""


def envelope(
    n: int, *, key: str | None = None, type_: str = TYPES[0], data: bytes | None = None, service: str = "svc"
) -> Envelope:
    """Event number *n*: its id follows from it, and ids sort by it."""
    event_id = f"event-{n:09d}"
    return Envelope(event_id, type_, 1, key, service, 1_000 + n, data or b'{"n":%d}' % n, event_id)


async def append(store: Store, *envelopes: Envelope, origin: int = PUBLISHED) -> None:
    """Append in a unit of its own."""
    async with store.unit() as unit:
        await unit.append([(each, origin) for each in envelopes])


async def take(store: Store, owner: str, name: str = "svc.work") -> Lease:
    """The lease of a handler, which must be free."""
    lease = await store.acquire(name, owner)
    check(lease is not None, f"{owner} cannot take the free lease of {name}")
    assert lease is not None
    return lease


async def log_of(store: Store) -> list[LoggedEvent]:
    """The whole log."""
    found: list[LoggedEvent] = []
    position = 0
    while events := await store.read_log(position, 1_000):
        check(events[0].seq > position, f"position {events[0].seq} was read after {position}")
        position = events[-1].seq
        found += events
    return found


async def ids(store: Store) -> list[str]:
    """The ids in the log, in order."""
    return [event.envelope.id for event in await log_of(store)]


async def fresh(store: Store, lease: Lease, limit: int = 100, types: Sequence[str] = TYPES) -> list[LoggedEvent]:
    """The next events after the cursor."""
    return await store.read_fresh(lease, types, limit)


def numbers(events: Sequence[LoggedEvent | OpenDelivery]) -> list[int]:
    """The numbers of events made by `envelope`."""
    found = [each.event if isinstance(each, OpenDelivery) else each for each in events]
    return [int(event.envelope.id.removeprefix("event-")) for event in found]


async def settle(store: Store, lease: Lease, *results: Settled) -> None:
    """Settle in a unit of its own, and move the cursor over what was fresh."""
    upto = max([lease.seq, *(result.event.seq for result in results if result.fresh)])
    async with store.unit() as unit:
        await unit.settle(lease, results, upto)
    lease.seq = upto


def done(event: LoggedEvent, *, is_fresh: bool = True, number: int = 1) -> Settled:
    """It took effect."""
    return Settled(event, Done(), is_fresh, number, 0)


def failed(
    event: LoggedEvent, verdict: Verdict, *, is_fresh: bool = True, number: int = 1, burns: bool = True
) -> Settled:
    """It failed, and this is what follows."""
    failure = Failure("ValueError", "no", "Traceback ...", "0123456789 ValueError: no")
    return Settled(event, verdict, is_fresh, number, 0, failure, burns)


def retry_at(due_ms: int) -> RetryAt:
    """Another attempt at a store time."""
    return RetryAt(due_ms)


def dead() -> DeadLetter:
    """A dead letter."""
    return DeadLetter(Status.FAILED, "gave up")


async def start(store: Store, lease: Lease, *events: LoggedEvent, number: int = 1, alone: bool = False) -> None:
    """Record attempts as running."""
    upto = max([lease.seq, *(event.seq for event in events)])
    async with store.unit() as unit:
        await unit.start(lease, [Starting(event, number, store.store_ms(), alone) for event in events], upto)
    lease.seq = upto


async def park(store: Store, lease: Lease, *events: LoggedEvent) -> None:
    """Put fresh events behind an earlier one of their key."""
    async with store.unit() as unit:
        await unit.park(lease, events)
        await unit.settle(lease, [], events[-1].seq)
    lease.seq = events[-1].seq


async def make_notes(store: Store) -> None:
    """A table of the service's own."""
    async with store.unit() as unit:
        await unit.execute("CREATE TABLE notes (n INTEGER PRIMARY KEY)")


async def note(unit: Unit, n: int) -> None:
    """Write one row."""
    await unit.execute("INSERT INTO notes VALUES (?)", (n,))


async def notes(store: Store) -> list[int]:
    """The committed rows."""
    return [int(row[0]) for row in await store.fetch_all("SELECT n FROM notes ORDER BY n")]


def check(condition: bool, otherwise: str) -> None:
    """Raise AssertionError with *otherwise* unless *condition* holds (also under ``python -O``)."""
    if not condition:
        raise AssertionError(otherwise)


def same(found: object, wanted: object, what: str) -> None:
    """Raise AssertionError unless *found* is as *wanted*."""
    check(found == wanted, f"{what}: expected {wanted!r:.500}, found {found!r:.500}")


async def refused(work: Awaitable[object], error: type[AntiphonError], what: str) -> None:
    """Raise AssertionError unless *work* raises *error*."""
    try:
        await work
    except error:
        return
    raise AssertionError(f"{what}: {error.__name__} was expected, and nothing was raised")


class Interrupted(Exception):
    """What the checks raise in the middle of a unit."""


def once(wakes: list[int]) -> Callable[[], None]:
    """A listener that counts."""
    return lambda: wakes.append(1)
