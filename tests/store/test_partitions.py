"""A handler of several partitions is one handler to people, and its dead letters go where their keys are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from antiphon.errors import LeaseLost
from antiphon.model.envelope import Envelope
from antiphon.model.handlers import HandlerSpec
from antiphon.model.views import DeadLetterFilter
from antiphon.ports import INTERNAL, PUBLISHED, Lease, LoggedEvent
from antiphon.runtime.clock import SystemClock
from antiphon.store import maintenance
from antiphon.store.base import SqlStore
from antiphon.store.deadletters import DeadLetters
from antiphon.store.desk import Desk
from antiphon.store.sqlite.store import SqliteStore
from antiphon.testing.conformance.kit import (
    A,
    B,
    dead,
    done,
    envelope,
    failed,
    fresh,
    handler,
    numbers,
    retry_at,
    settle,
    start,
    take,
)
from antiphon.testing.conformance.kit import append as put
from tests.store.postgres import database, name_of

pytestmark = pytest.mark.anyio

PARTS = 4


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A database for all of these tests."""
    with database() as found:
        yield found


@pytest.fixture(params=["sqlite", "postgres"])
def where(request: pytest.FixtureRequest) -> str:
    """Where the store is: in a file (""), or in a database."""
    return "" if request.param == "sqlite" else str(request.getfixturevalue("url"))


@pytest.fixture
async def store(where: str, tmp_path: Path) -> AsyncIterator[SqlStore]:
    """A store of either engine."""
    if not where:
        made: SqlStore = SqliteStore(tmp_path / "shop.db", clock=SystemClock(), owner="one")
    else:
        from antiphon.store.postgres.connection import address
        from antiphon.store.postgres.store import PostgresStore

        made = PostgresStore(address(where, name_of(tmp_path)), clock=SystemClock(), owner="one")
    await made.open()
    try:
        yield made
    finally:
        await made.close()


WORK: HandlerSpec = handler("work")


async def append(store: SqlStore, numbers: range, *, origin: int = PUBLISHED) -> None:
    """Events of ten keys."""
    now = store.clock.now_ms()
    async with store.unit() as unit:
        await unit.append(
            (Envelope(f"event-{n:09d}", "conformance.A", 1, f"k{n % 10}", "svc", now, b"{}", f"event-{n:09d}"), origin)
            for n in numbers
        )


@asynccontextmanager
async def all_leases(store: SqlStore) -> AsyncIterator[list[Lease]]:
    """The leases of all partitions, given back at the end."""
    leases = [await take(store, "one", each.name) for each in await store.partitions()]
    yield leases
    for lease in leases:
        await store.release(lease)


async def split(store: SqlStore) -> None:
    """A handler with 20 events behind it, of which 10 are dead and 5 wait, and 20 before it; in four parts."""
    await store.register([WORK])
    await append(store, range(20))
    lease = await take(store, "one")
    events = await fresh(store, lease)
    await settle(
        store,
        lease,
        *(failed(event, dead()) for event in events[:10]),
        *(failed(event, retry_at(store.store_ms() + 3_600_000)) for event in events[10:15]),
        *(done(event) for event in events[15:]),
    )
    await append(store, range(20, 40))
    await store.split(lease, PARTS)


async def test_people_see_one_handler(store: SqlStore) -> None:
    """Status, event table, deliveries and dead letters have a line for an event and handler, whatever its partition."""
    await split(store)
    (status,) = await Desk(store).status()
    assert (status.handler, status.partitions, status.cursor, status.lag) == ("svc.work", PARTS, 20, 20)
    assert (status.counts.failed, status.counts.retry, status.handled) == (10, 5, 5)
    rows = await store.fetch_all("SELECT EVENT_ID, STATUS, ATTEMPTS FROM antiphon_events ORDER BY EVENT_ID")
    assert [row[0] for row in rows] == [f"event-{n:09d}" for n in range(40)]
    wanted = ["FAILED"] * 10 + ["RETRY"] * 5 + ["COMPLETED"] * 5 + ["UNPROCESSED"] * 20
    assert [row[1] for row in rows] == wanted
    for n, status_of_it in ((3, "FAILED"), (12, "RETRY"), (17, "COMPLETED"), (30, "UNPROCESSED")):
        (delivery,) = await Desk(store).deliveries_of([f"event-{n:09d}"])
        assert (delivery.handler, delivery.status.value) == ("svc.work", status_of_it)
        assert len(delivery.history) == (0 if n == 30 else 1)
    assert len(await store.fetch_all("SELECT * FROM antiphon_payloads")) == 40
    assert (await store.fetch_all("SELECT count(*) FROM antiphon_dead_letters"))[0][0] == 10


async def test_a_backlog_is_counted_while_nothing_runs(store: SqlStore) -> None:
    """The view for scaling counts fresh events of all partitions and what is due, not what waits for its time."""
    await split(store)
    rows = await store.fetch_all("SELECT SERVICE, HANDLER, WAITING FROM antiphon_lag ORDER BY HANDLER")
    assert [tuple(row) for row in rows] == [("svc", "svc.work", 20)]
    async with all_leases(store) as leases:
        for lease in leases:
            await settle(store, lease, *(done(event) for event in await fresh(store, lease)))
    assert (await store.fetch_all("SELECT sum(WAITING) FROM antiphon_lag"))[0][0] == 0
    async with store.unit() as unit:
        await unit.execute("UPDATE antiphon_deliveries SET due_ms = 0 WHERE status = 'RETRY'")
    assert (await store.fetch_all("SELECT sum(WAITING) FROM antiphon_lag"))[0][0] == 5


async def test_what_lies_far_beyond_the_cursor_is_not_overlooked(store: SqlStore) -> None:
    """Further on than is counted, one still stands for what there is."""
    await store.register([WORK])
    await append(store, range(1))
    async with store.unit() as unit:
        await unit.execute("UPDATE antiphon_log SET seq = 1000000")
    assert [row[0] for row in await store.fetch_all("SELECT WAITING FROM antiphon_lag")] == [1]


async def test_dead_letters_of_every_partition_are_redriven_and_edited(store: SqlStore) -> None:
    """A redrive submitted before the split goes on after it; one that is edited goes to the partition of its key."""
    await split(store)
    letters = DeadLetters(store, {type_.name: type_ for type_ in WORK.types})
    edited = await letters.edit("event-000000003", b'{"key":"k8"}')
    await letters.redrive_one("event-000000004")
    found: dict[str, str] = {}
    homes: list[set[str | None]] = []
    async with all_leases(store) as leases:
        for lease in leases:
            mine: list[LoggedEvent] = [each.event for each in await store.read_due(lease, 100)]
            while events := await fresh(store, lease):
                mine += events
                await settle(store, lease, *(done(event) for event in events))
            homes.append({event.envelope.key for event in mine})
            assert not found.keys() & {event.envelope.id for event in mine}
            found.update((event.envelope.id, str(event.envelope.key)) for event in mine)
    assert found[edited.id] == "k8"
    assert found["event-000000004"] == "k4"
    assert sum(len(home) for home in homes) == len(set().union(*homes))


async def test_a_type_that_newer_code_adds_is_not_passed_over_by_older_code(store: SqlStore) -> None:
    """Older code runs the handler when newer code binds it to a further type: it has lost it from then on, with what is
    in flight, and does not get it again; newer code does, and finds all events of both types."""
    await store.register([handler("work", A)])
    await append(store, range(2))
    old = await take(store, "one")
    first, second = await fresh(store, old)
    await start(store, old, first)
    older = store.registered.copy()
    await store.register([handler("work", A, B)])
    store.registered = older
    await put(store, envelope(2, type_="conformance.B"), envelope(3))
    with pytest.raises(LeaseLost):
        await settle(store, old, done(second))
    assert await store.acquire("svc.work", "one") is None
    await store.register([handler("work", A, B)])
    new = await take(store, "two")
    assert numbers(await store.read_due(new, 10)) == [0]
    assert numbers(await fresh(store, new)) == [1, 2, 3]
    await store.register([handler("work", A, B)])
    await settle(store, new, *(done(event) for event in await fresh(store, new)))


async def test_a_redrive_goes_on_after_a_split(store: SqlStore) -> None:
    """What was submitted for all dead letters finds them in their partitions."""
    await store.register([WORK])
    await append(store, range(20))
    lease = await take(store, "one")
    await settle(store, lease, *(failed(event, dead()) for event in await fresh(store, lease)))
    letters = DeadLetters(store, {type_.name: type_ for type_ in WORK.types})
    job = await letters.redrive(DeadLetterFilter(handler="svc.work"), canary=False)
    await store.split(lease, PARTS)
    items = await store.fetch_all(
        "SELECT count(*) FROM antiphon_redrive_items AS i JOIN antiphon_deliveries AS d"
        " ON d.handler_id = i.handler_id AND d.seq = i.seq WHERE i.redrive_id = ?",
        (job.id,),
    )
    assert items[0][0] == 20


async def test_retention_and_forgetting_take_all_partitions(store: SqlStore) -> None:
    """An event goes when its own partition has handled it, however far behind others are; a handler goes as a whole."""
    await store.register([WORK])
    await append(store, range(40), origin=INTERNAL)
    await store.split(await take(store, "one"), PARTS)
    first = await take(store, "one")
    mine = await fresh(store, first)
    await settle(store, first, *(done(event) for event in mine))
    await store.release(first)
    pruned = await maintenance.prune(store, store.clock.now_ms() + 1)
    assert pruned.events == len([event for event in mine if event.seq < 40])
    left = await store.fetch_all("SELECT count(*) FROM antiphon_log")
    assert left[0][0] == 40 - pruned.events
    forgotten = await maintenance.forget(store, "svc.work")
    assert forgotten.unhandled == 40 - len(mine)
    assert await store.partitions() == []
    assert (await store.fetch_all("SELECT count(*) FROM antiphon_subscriptions"))[0][0] == 0
