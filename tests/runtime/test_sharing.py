"""Several workers and several stores: leases, fencing, the bus."""

from collections import Counter, defaultdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from antiphon import Rate, Service, Transaction
from antiphon.errors import DeclarationError, LeaseLost
from antiphon.testing.clock import VirtualClock
from tests.runtime.kit import World, running
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


# --- partitions ------------------------------------------------------------------------------------------

KEYS = 12


class Mill:
    """A service of a slow handler, as several processes run it; *begun* are the events that any of them came to."""

    def __init__(self, clock: VirtualClock, **options: Any) -> None:
        self.clock = clock
        self.options = options
        self.begun: set[int] = set()
        self.at_once: Counter[str] = Counter()
        self.most_at_once: Counter[str] = Counter()

    def service(self, worker: str) -> Service:
        """Its declaration in one process."""
        service = Service("mill")
        service.tables = TABLES

        @service.on(Ordered, name="grind", retry=NO_JITTER, **self.options)
        async def grind(event: Ordered, tx: Transaction) -> None:
            self.at_once[worker] += 1
            self.most_at_once[worker] = max(self.most_at_once[worker], self.at_once[worker])
            try:
                await self.clock.sleep(0.05)
            finally:
                self.at_once[worker] -= 1
            row = (event.customer, event.n, worker)
            await tx.execute("INSERT INTO bills (customer, n, worker) VALUES (?, ?, ?)", *row)
            self.begun.add(event.n)

        return service


async def is_sound(world: World, count: int) -> set[str]:
    """Each of so many events took effect once, those of a key in order; returns who did it."""
    rows = await world.rows("SELECT customer, n, worker FROM bills ORDER BY id")
    assert sorted(n for _, n, _ in rows) == list(range(count))
    of_key = defaultdict(list)
    for key, n, _ in rows:
        of_key[key].append(n)
    assert all(numbers == sorted(numbers) for numbers in of_key.values())
    return {worker for _, _, worker in rows}


def orders(first: int, count: int) -> list[Ordered]:
    """Events of some keys."""
    return [Ordered(f"k{n % KEYS}", n) for n in range(first, first + count)]


async def test_a_pressed_handler_is_divided_among_workers(tmp_path: Path) -> None:
    """With somebody to share with, one that has no rest becomes several partitions; keys keep their order, and one
    that joins, or goes, has or leaves its share within seconds."""
    clock = VirtualClock()
    mill, shop = Mill(clock), Service("shop")
    async with running(tmp_path, shop, mill.service("one"), clock=clock) as one:
        await one.runtime.publish("shop", *orders(0, 400))
        await clock.advance(5)
        assert list(one.runtime.workers) == ["mill.grind"]
        async with running(tmp_path, shop, mill.service("two"), clock=clock) as two:
            await one.until(lambda: len(two.runtime.workers) == 1 and len(one.runtime.workers) == 1, seconds=6)
            assert {*one.runtime.workers, *two.runtime.workers} == {"mill.grind", "mill.grind#1"}
            async with running(tmp_path, shop, mill.service("three"), clock=clock) as three:
                runtimes = (one.runtime, two.runtime, three.runtime)
                await one.until(lambda: sorted(len(each.workers) for each in runtimes) == [2, 3, 3], seconds=8)
                await clock.advance(2)
            await one.until(lambda: len(one.runtime.workers) == len(two.runtime.workers) == 4, seconds=4)
        await one.until(lambda: len(one.runtime.workers) == 8, seconds=4)
        await one.runtime.publish("shop", *orders(400, 30))
        await one.until(lambda: len(mill.begun) >= 430)
        await clock.advance(3)
        assert await is_sound(one, 430) == {"one", "two", "three"}


async def test_partitions_in_one_process_share_its_concurrency(tmp_path: Path) -> None:
    """However many partitions a process runs, no more attempts run in it at once than the handler says."""
    clock = VirtualClock()
    mill, shop = Mill(clock, concurrency=3), Service("shop")
    async with running(tmp_path, shop, mill.service("one"), clock=clock) as one:
        store = one.store
        await one.until(lambda: "mill.grind" in one.runtime.workers)
        one.runtime._stewards[0].workers["mill.grind"].stop()
        await clock.rest()
        lease = await store.acquire("mill.grind", one.runtime.owner)
        assert lease is not None
        await store.split(lease, 4)
        await one.until(lambda: len(one.runtime.workers) == 4)
        await one.runtime.publish("shop", *orders(0, 24))
        await one.until(lambda: len(mill.begun) >= 24)
        mill.most_at_once.clear()  # by now each partition knows that the handler waits for the outside
        await one.runtime.publish("shop", *orders(24, 120))
        await one.until(lambda: len(mill.begun) >= 144)
        await is_sound(one, 144)
        assert mill.most_at_once == {"one": 3}


@pytest.mark.parametrize(
    "options",
    [{"rate": Rate(5, timedelta(seconds=1))}, {"fair_by": "customer"}],
    ids=["rate", "fair_by"],
)
async def test_what_is_counted_over_all_events_stays_whole(tmp_path: Path, options: dict[str, Any]) -> None:
    """A handler with a rate, or that shares its time fairly, is run by one worker at a time."""
    clock = VirtualClock()
    mill, shop = Mill(clock, **options), Service("shop")
    async with (
        running(tmp_path, shop, mill.service("one"), clock=clock) as one,
        running(tmp_path, shop, mill.service("two"), clock=clock) as two,
    ):
        await one.runtime.publish("shop", *orders(0, 100))
        await clock.advance(15)
        assert [*one.runtime.workers, *two.runtime.workers] == ["mill.grind"]


async def test_who_hung_has_its_share_again(tmp_path: Path) -> None:
    """What a worker that hangs has lost is run by others soon after its leases end; back, it has its share again."""
    clock = VirtualClock()
    mill, shop = Mill(clock), Service("shop")
    async with (
        running(tmp_path, shop, mill.service("one"), clock=clock) as one,
        running(tmp_path, shop, mill.service("two"), clock=clock) as two,
    ):
        await one.runtime.publish("shop", *orders(0, 600))
        await one.until(lambda: len(one.runtime.workers) == len(two.runtime.workers) == 1, seconds=8)
        steward = two.runtime._stewards[0]
        tick, hangs = steward.tick, True

        async def tick_unless_it_hangs() -> None:
            if not hangs:
                await tick()

        steward.tick = tick_unless_it_hangs  # type: ignore[method-assign]
        await one.until(lambda: len(one.runtime.workers) == 2, seconds=25)
        hangs = False
        await one.until(lambda: len(one.runtime.workers) == 1, seconds=70)
        await one.until(lambda: len(two.runtime.workers) == 1, seconds=3)
        await one.until(lambda: len(mill.begun) >= 600)
        await clock.advance(3)
        await is_sound(one, 600)


async def test_a_divided_handler_is_not_given_a_rate(tmp_path: Path) -> None:
    """What counts over all events cannot be added to a handler that has been divided: that is said at the start."""
    clock = VirtualClock()
    mill, shop = Mill(clock), Service("shop")
    async with running(tmp_path, shop, mill.service("one"), clock=clock, only=["shop"]) as one:
        await one.store.register(mill.service("one").spec.handlers)
        lease = await one.store.acquire("mill.grind", "other")
        assert lease is not None
        await one.store.split(lease, 2)
    limited = Mill(clock, rate=Rate(5, timedelta(seconds=1)))
    with pytest.raises(DeclarationError, match="divided into 2 partitions"):
        async with running(tmp_path, shop, limited.service("one"), clock=clock):
            pass
