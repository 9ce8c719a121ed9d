"""Several workers and several stores: leases, fencing, the bus."""

from pathlib import Path

import pytest

from antiphon import Service, Transaction
from antiphon.errors import LeaseLost
from antiphon.testing.clock import VirtualClock
from tests.runtime.kit import running
from tests.runtime.test_handling import NO_JITTER, Billed, Ordered

pytestmark = pytest.mark.anyio

TABLES = "CREATE TABLE IF NOT EXISTS bills (id INTEGER PRIMARY KEY, customer TEXT, n INTEGER, worker TEXT);"


def billing(worker: str, *, handlers: int = 1) -> Service:
    """A service that notes who handled what."""
    service = Service("billing")
    service.tables = TABLES

    def declare(number: int) -> None:
        async def bill(event: Ordered, tx: Transaction) -> None:
            row = (event.customer, event.n, f"{worker}{number}")
            await tx.execute("INSERT INTO bills (customer, n, worker) VALUES (?, ?, ?)", *row)

        service.on(Ordered, name=f"bill{number}", retry=NO_JITTER)(bill)

    for number in range(handlers):
        declare(number)
    return service


async def test_two_workers_share_the_handlers_and_handle_each_event_once(tmp_path: Path) -> None:
    """Each takes its fair share of handlers; every event takes effect once per handler."""
    clock = VirtualClock()
    shop = Service("shop")
    async with running(tmp_path, shop, billing("first", handlers=4), clock=clock) as one:
        assert len(one.runtime.workers) == 4
        async with running(tmp_path, shop, billing("second", handlers=4), clock=clock) as two:
            await one.until(lambda: len(one.runtime.workers) == 2 and len(two.runtime.workers) == 2, seconds=20)
            await one.publish("shop", *(Ordered("a", n) for n in range(20)))
            await clock.advance(2)
            rows = await one.rows("SELECT worker, n FROM bills ORDER BY id")
            assert len(rows) == 80
            assert {str(worker)[:5] for worker, _ in rows} == {"first", "secon"}
            for worker in {worker for worker, _ in rows}:
                assert [n for name, n in rows if name == worker] == list(range(20))
        await one.until(lambda: len(one.runtime.workers) == 4, seconds=20)


async def test_a_lost_lease_changes_nothing(tmp_path: Path) -> None:
    """A worker whose lease was taken cannot settle: its batch is rolled back, the new owner's stands."""
    shop = Service("shop")
    async with running(tmp_path, shop, billing("w"), only=["shop"]) as world:
        store = world.store
        await store.register(billing("w").spec.handlers)
        first = await store.acquire("billing.bill0", world.runtime.owner)
        assert first is not None
        assert await store.acquire("billing.bill0", "other") is None
        await world.clock.jump(16)
        second = await store.acquire("billing.bill0", "other")
        assert second is not None
        assert second.epoch == first.epoch + 1
        with pytest.raises(LeaseLost):
            async with store.unit() as unit:
                await unit.execute("CREATE TABLE leftover (n)")
                await unit.settle(first, [], 0)
        assert await world.rows("SELECT name FROM sqlite_schema WHERE name = 'leftover'") == []
        async with store.unit() as unit:
            await unit.settle(second, [], 0)


async def test_wall_clocks_do_not_move_leases(tmp_path: Path) -> None:
    """A wall clock that is set forward by a day takes no lease away."""
    async with running(tmp_path, Service("shop"), billing("w")) as world:
        world.clock.set_wall(86_400)
        assert await world.store.acquire("billing.bill0", "other") is None


async def test_services_with_files_of_their_own_speak_over_the_bus(tmp_path: Path) -> None:
    """Each file holds its own service's events and what it received; order by key and once hold across."""
    counted: list[int] = []
    shop, counter = Service("shop"), Service("counter")
    middle = Service("billing")

    @middle.on(Ordered)
    async def bill(event: Ordered) -> Billed:
        return Billed(event.customer, event.n)

    @counter.on(Billed)
    async def count(event: Billed) -> None:
        counted.append(event.n)

    async with running(tmp_path, shop, middle, counter, own_stores=True) as world:
        await world.publish("shop", *(Ordered("a", n) for n in range(600)))
        await world.until(lambda: len(counted) == 600)
        assert counted == list(range(600))
        stores = world.runtime.stores
        origins = await stores["billing"].fetch_all("SELECT type, origin, count(*) FROM antiphon_log GROUP BY 1, 2")
        assert [tuple(row) for row in origins] == [("Billed", 0, 600), ("Ordered", 1, 600)]
        assert (await stores["shop"].fetch_all("SELECT count(*) FROM antiphon_log"))[0][0] == 600
    assert {path.name for path in tmp_path.glob("*.db")} == {"shop.db", "billing.db", "counter.db", "bus.db"}


async def test_a_stopped_service_finds_its_events_when_it_comes_back(tmp_path: Path) -> None:
    """Events wait for a service that does not run; it delays nobody else meanwhile."""
    clock = VirtualClock()
    counted: list[int] = []

    def counter() -> Service:
        service = Service("counter")

        @service.on(Ordered)
        async def count(event: Ordered) -> None:
            counted.append(event.n)

        return service

    async with running(tmp_path, Service("shop"), counter(), own_stores=True, only=["shop"], clock=clock) as world:
        await world.publish("shop", *(Ordered("a", n) for n in range(10)))
    async with running(tmp_path, Service("shop"), counter(), own_stores=True, only=["counter"], clock=clock) as world:
        await world.until(lambda: len(counted) == 10)
    assert counted == list(range(10))
    async with running(tmp_path, Service("shop"), counter(), own_stores=True, clock=clock) as world:
        await world.publish("shop", Ordered("a", 10))
        await world.until(lambda: len(counted) == 11)
    assert counted == list(range(11))


async def test_start_positions(tmp_path: Path) -> None:
    """A new handler starts at the earliest event, or with start='now' after those that are there."""
    clock = VirtualClock()
    async with running(tmp_path, Service("shop"), clock=clock) as world:
        await world.publish("shop", Ordered("a", 1))
    seen: list[tuple[str, int]] = []
    late = Service("late")

    @late.on(Ordered)
    async def from_earliest(event: Ordered) -> None:
        seen.append(("earliest", event.n))

    @late.on(Ordered, start="now")
    async def from_now(event: Ordered) -> None:
        seen.append(("now", event.n))

    async with running(tmp_path, Service("shop"), late, clock=clock) as world:
        await world.publish("shop", Ordered("a", 2))
        await clock.advance(2)
        assert sorted(seen) == [("earliest", 1), ("earliest", 2), ("now", 2)]
        table = await world.rows("SELECT HANDLER, STATUS FROM antiphon_events ORDER BY 1, 2")
        assert table == [("late.from_earliest", "COMPLETED")] * 2 + [("late.from_now", "COMPLETED")]
