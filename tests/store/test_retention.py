"""Retention: what is old and needed by nobody goes, everything else stays."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from antiphon import Retry, Service, days, seconds
from antiphon.model.envelope import Envelope
from antiphon.model.views import DeadLetterFilter
from antiphon.ports import PUBLISHED, RECEIVED
from antiphon.runtime.clock import SystemClock
from antiphon.runtime.outlet import Outlet
from antiphon.runtime.runtime import Runtime
from antiphon.store import maintenance
from antiphon.store.desk import Desk
from antiphon.store.sqlite.queries import blocks, query
from antiphon.store.sqlite.store import SqliteStore
from antiphon.testing.clock import VirtualClock
from tests.runtime.kit import World, running
from tests.store.shops import TWICE, Ordered, Shop, order, statuses

pytestmark = pytest.mark.anyio

DAY = 86_400


async def prune(world: World, store: SqliteStore | None = None) -> int:
    """Prune all that is there now, however young; returns how many events went."""
    return (await Desk(store or world.store).prune(world.clock.now_ms() + 1)).events


async def rounds(clock: VirtualClock, count: int) -> None:
    """Let the duty have so many rounds."""
    for _ in range(count):
        await clock.jump(601)


async def types(world: World) -> list[str]:
    """What is left in the log."""
    return [row[0] for row in await world.rows("SELECT type FROM antiphon_log ORDER BY seq")]


async def test_handled_events_go_with_their_history(tmp_path: Path) -> None:
    """The newest row stays, so that no position is used twice; rows beside the log go with its events."""
    shop = Shop(TWICE)
    shop.failing = {2}
    async with running(tmp_path, *shop.services) as world:
        await order(world, 1, 2, 3)
        shop.failing.clear()
        await world.clock.advance(11)
        head = await world.store.head()
        assert await prune(world) == head - 1
        assert await types(world) == ["Billed"]
        for table in ("antiphon_deliveries", "antiphon_attempts"):
            assert await world.rows(f"SELECT 1 FROM {table}") == []
        assert len(await world.rows("SELECT 1 FROM antiphon_progress")) <= 2
        await order(world, 4)
        assert (await world.store.head()) == head + 2
        assert shop.billed[-1] == ("c4", 4)


async def test_age_counts_from_when_an_event_came(tmp_path: Path) -> None:
    """Not from what its producer says: an old event that came late, or a clock that is wrong, is kept as long."""
    clock = VirtualClock()
    async with running(tmp_path, *Shop().services, clock=clock) as world:
        now = clock.now_ms()
        async with world.store.unit() as unit:
            await unit.append(
                (Envelope(f"e{n}", "X", 1, None, "s", now + n * DAY * 1000, b"{}", f"e{n}"), RECEIVED)
                for n in (-30, -8, 0, 300, 1)
            )
        await rounds(clock, 1)
        await clock.jump(3 * DAY)
        await order(world, 1)
        await rounds(clock, 2)
        assert len(await types(world)) == 7
        await clock.jump(4 * DAY)  # seven days since these came
        await rounds(clock, 1)
        assert await types(world) == ["Ordered", "Billed"]
        await clock.jump(3 * DAY)
        await rounds(clock, 1)
        assert await types(world) == ["Billed"]


async def test_a_wrong_wall_clock_does_not_make_events_old(tmp_path: Path) -> None:
    """A machine that starts in 1970 for a while: what came meanwhile is not taken for fifty years old."""
    clock = VirtualClock()
    async with running(tmp_path, *Shop().services, clock=clock) as world:
        await order(world, 1)
        await rounds(clock, 1)
        clock.set_wall(-50 * 365 * DAY)
        await order(world, 2)
        await rounds(clock, 1)
        clock.set_wall(0)
        await order(world, 3)
        await rounds(clock, 1)
        assert len(await types(world)) == 6


async def test_what_a_handler_is_owed_stays(tmp_path: Path) -> None:
    """Of a handler that runs no more, of one that never ran here; what only others had is free to go."""
    shop = Shop()
    clock = VirtualClock()
    async with running(tmp_path, *shop.services, only=["shop", "audit"], clock=clock) as world:
        await order(world, 1, 2, 3)
        assert await prune(world) == 0
        async with world.store.unit() as unit:
            now = world.clock.now_ms()
            await unit.append(
                (Envelope(f"x{n}", "Other", 1, None, "shop", now, b"{}", f"x{n}"), PUBLISHED) for n in range(4)
            )
        assert await prune(world) == 3  # nobody is bound to these; the newest row stays
        assert await types(world) == ["Ordered"] * 3 + ["Other"]
    async with running(tmp_path, *shop.services, clock=clock) as world:
        assert [n for _, n in shop.billed] == [1, 2, 3]
        assert await prune(world) == 6
        assert await types(world) == ["Billed"]


async def test_open_deliveries_and_dead_letters_stay(tmp_path: Path) -> None:
    """Retries, what is parked behind them, and the dead until somebody archives them; others go from between."""
    shop = Shop(TWICE)
    shop.failing, shop.refused = {2}, {4}
    async with running(tmp_path, *shop.services) as world:
        desk = Desk(world.store)
        await order(world, 1)
        held = await order(world, 2, 3, customer="k")
        held += await order(world, 4)
        await order(world, 5)
        assert await prune(world) == 3  # orders 1 and 5, and one bill
        assert [row[0] for row in await world.rows("SELECT id FROM antiphon_log WHERE type = 'Ordered'")] == held
        # For the handlers that had them, when is still known.
        assert (await statuses(desk, held[0]))["audit.note"] == "COMPLETED"
        shop.failing.clear()
        await world.clock.advance(11)
        await prune(world)
        assert await types(world) == ["Ordered", "Billed"]
        assert await desk.dead.archive(DeadLetterFilter(), "over") == 1
        await prune(world)
        assert await types(world) == ["Billed"]
        assert await world.rows("SELECT 1 FROM antiphon_deliveries") == []
        assert await world.rows("SELECT 1 FROM antiphon_attempts") == []


async def test_a_redriven_event_is_needed_again(tmp_path: Path) -> None:
    """From the moment of the redrive until it is handled."""
    shop = Shop(Retry(attempts=2, first=seconds(100), jitter=False))
    shop.refused = {1}
    async with running(tmp_path, *shop.services) as world:
        desk = Desk(world.store)
        (event_id,) = await order(world, 1)
        await order(world, 2)
        shop.refused, shop.failing = set(), {1}
        await desk.dead.redrive_one(event_id)
        await world.clock.rest()
        await prune(world)
        assert (await desk.event(event_id)).id == event_id
        shop.failing.clear()
        await world.clock.advance(101)
        await prune(world)
        assert await types(world) == ["Billed"]


async def test_progress_of_what_stays_is_kept(tmp_path: Path) -> None:
    """When others handled a dead letter's event is known as long as the event is; other notes go."""
    shop = Shop()
    shop.refused = {3}
    async with running(tmp_path, *shop.services) as world:
        desk = Desk(world.store)
        times = {}
        ids = []
        for n in range(6):
            ids += await order(world, n)
            times[ids[-1]] = world.clock.now_ms()
            await world.clock.advance(60)
        before = len(await world.rows("SELECT 1 FROM antiphon_progress"))
        await prune(world)
        view = next(each for each in await desk.deliveries_of([ids[3]]) if each.handler == "audit.note")
        assert view.updated_ms == times[ids[3]]
        assert len(await world.rows("SELECT 1 FROM antiphon_progress")) <= 4 < before


async def test_a_removed_handler_holds_its_events_until_it_is_forgotten(tmp_path: Path) -> None:
    """Its lag shows it; forgetting sets the log free."""
    shop = Shop()
    clock = VirtualClock()
    async with running(tmp_path, *shop.services, clock=clock) as world:
        await order(world, 1)
    async with running(tmp_path, shop.shop, Service("billing"), shop.audit, clock=clock) as world:
        desk = Desk(world.store)
        await order(world, 2, 3)
        await prune(world)
        assert await types(world) == ["Ordered", "Ordered"]
        bill = next(each for each in await desk.status() if each.handler == "billing.bill")
        assert (bill.lag, bill.removed_ms is not None) == (2, True)
        await desk.forget("billing.bill")
        await prune(world)
        assert await types(world) == ["Ordered"]


async def test_an_edited_event_is_held_by_its_handler_alone(tmp_path: Path) -> None:
    """Other handlers of the type do not need it, its own does."""
    shop = Shop()
    shop.refused = {1}
    clock = VirtualClock()
    async with running(tmp_path, *shop.services, clock=clock) as world:
        await order(world, 1)
    async with running(tmp_path, *shop.services, only=["shop"], clock=clock) as world:
        desk = Desk(world.store)
        (letter,) = await desk.dead.list()
        edited = await desk.dead.edit(letter.event_id, b'{"customer": "c", "n": 2}')
        await order(world, 3)
        await prune(world)
        assert (await desk.event(edited.id)).only_for == "billing.bill"


# ---------------------------------------------------------------------- with a bus


async def test_what_the_bus_has_not_taken_stays(tmp_path: Path) -> None:
    """A service's own log is its outbox; how far it was sent is noted in it, and only so far it is pruned."""
    clock = VirtualClock()
    shop = Shop()
    runtime = Runtime("app", [each.spec for each in shop.services], data=tmp_path, own_stores=True, clock=clock)
    assert runtime.bus is not None
    store = runtime.stores["shop"]
    await runtime.bus.open()
    await store.open()
    try:
        outlet = Outlet("shop", store, runtime.bus, clock)
        now = clock.now_ms()
        async with store.unit() as unit:
            await unit.move_position("sent", 0)
            await unit.append(
                (Envelope(f"e{n}", "Ordered", 1, None, "shop", now, b"{}", f"e{n}"), PUBLISHED) for n in range(5)
            )
        assert (await Desk(store).prune(now + 1)).events == 0
        while await outlet.move():
            pass
        # Sent, but that is not noted yet: the note may lag, never lead.
        assert (await Desk(store).prune(now + 1)).events == 0
        await outlet.drain()
        assert (await Desk(store).prune(now + 1)).events == 4
    finally:
        await store.close()
        await runtime.bus.close()


async def test_a_service_that_only_receives_is_pruned_too(tmp_path: Path) -> None:
    """What it got from the bus need not be sent: its outlet passes it, and notes so."""
    shop = Shop()
    async with running(tmp_path, *shop.services, own_stores=True) as world:
        await order(world, *range(10))
        await world.clock.advance(12)
        audit = world.runtime.stores["audit"]
        assert await prune(world, audit) == 19
        assert await prune(world, world.runtime.stores["shop"]) == 9


async def test_the_bus_keeps_what_a_receiver_has_not_taken(tmp_path: Path) -> None:
    """Receivers that were stopped, and those that have never been started; one that is forgotten holds nothing."""
    shop = Shop()
    clock = VirtualClock()
    async with running(tmp_path, *shop.services, own_stores=True, only=["shop"], clock=clock) as world:
        assert world.runtime.hub is not None
        bus = world.runtime.hub
        await order(world, *range(5))
        await clock.advance(12)
        assert await prune(world, bus) == 0
        assert await Desk(bus).status() == []
        lags = {each.name: each.lag for each in await Desk(bus).positions()}
        assert lags == {"inlet:audit": 5, "inlet:billing": 5, "outlet:shop": None}
    async with running(tmp_path, *shop.services, own_stores=True, only=["shop", "billing"], clock=clock) as world:
        assert world.runtime.hub is not None
        bus = world.runtime.hub
        await clock.advance(12)
        assert len(shop.billed) == 5
        assert await prune(world, bus) == 0
        gone = await Desk(bus).forget("inlet:audit")
        assert gone.unhandled == 10
        assert await prune(world, bus) == 9
    async with running(tmp_path, *shop.services, own_stores=True, clock=clock) as world:
        await order(world, 77)
        assert ("Ordered", 77) in shop.noted


# ---------------------------------------------------------------------- besides the log


async def test_old_answers_and_redrives_go(tmp_path: Path) -> None:
    """Answers under an Idempotency-Key and redrives that are over, when they are older than what is kept."""
    shop = Shop()
    shop.refused = {1}
    async with running(tmp_path, *shop.services) as world:
        desk = Desk(world.store)
        await order(world, 1)
        shop.refused.clear()
        for key in ("old", "new"):
            if key == "new":
                await desk.dead.redrive()
            async with world.store.unit() as unit:
                await unit.execute(
                    "INSERT INTO antiphon_idempotency VALUES ('r', ?, 'f', 200, '[]', x'', ?)",
                    (key, world.clock.now_ms()),
                )
            await world.clock.advance(100)
        await desk.prune(world.clock.now_ms() - 150_000)
        assert await world.rows("SELECT key FROM antiphon_idempotency") == [("new",)]
        assert len(await desk.dead.jobs()) == 1  # it ended less than that ago
        await world.clock.advance(100)
        await desk.prune(world.clock.now_ms() - 150_000)
        assert await desk.dead.jobs() == []
        assert await world.rows("SELECT 1 FROM antiphon_redrive_items") == []


async def test_the_duty_prunes_by_itself(tmp_path: Path) -> None:
    """Every ten minutes, the bus and every store, to what the app says."""
    clock = VirtualClock()
    shop = Shop()
    runtime = Runtime(
        "app", [each.spec for each in shop.services], data=tmp_path, own_stores=True, clock=clock, retention=days(1)
    )
    await runtime.start()
    try:
        await runtime.publish("shop", *(Ordered(f"c{n}", n) for n in range(10)))
        await clock.advance(12)
        await rounds(clock, 2)
        await clock.jump(DAY)
        await rounds(clock, 2)
        assert runtime.hub is not None
        for store in (*runtime.stores.values(), runtime.hub):
            rows = await store.fetch_all("SELECT count(*) FROM antiphon_log")
            assert rows[0][0] == 1, store.path
        marks = await runtime.hub.fetch_all("SELECT count(*) FROM antiphon_marks")
        assert marks[0][0] <= 2
    finally:
        await runtime.stop(0.5)


# ---------------------------------------------------------------------- how fast

_LOG = "INSERT INTO antiphon_log (id, type, version, service, time_ms, data) VALUES (?, ?, 1, 's', 0, x'7b7d')"


@pytest.fixture
async def large(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """150,000 events, 5 handlers; one is behind by a third, and every tenth event is a dead letter of another."""
    store = SqliteStore(tmp_path / "large.db", clock=SystemClock(), owner="test")
    await store.open()
    async with store.unit() as unit:
        await unit.execute_many(_LOG, ((f"e{n:07}", f"T{n % 3}") for n in range(150_000)))
        for n in range(5):
            seq = 100_000 if n == 4 else 150_000
            await unit.execute(
                "INSERT INTO antiphon_handlers (name, service, seq, updated_ms) VALUES (?, 's', ?, 0)", (f"s.h{n}", seq)
            )
            await unit.execute("INSERT INTO antiphon_subscriptions VALUES (?, ?, 0)", (n + 1, f"T{n % 3}"))
            await unit.execute_many(
                "INSERT INTO antiphon_progress VALUES (?, ?, 0)", ((n + 1, end) for end in range(50, seq, 50))
            )
        await unit.execute_many(
            "INSERT INTO antiphon_deliveries (handler_id, seq, status, attempts, fingerprint, updated_ms)"
            " VALUES (1, ?, 'FAILED', 1, ?, ?)",
            ((seq, f"{seq % 7:010} RuntimeError: no", seq) for seq in range(1, 150_001, 10)),
        )
        await unit.execute_many(
            "INSERT INTO antiphon_attempts (handler_id, seq, number, outcome, at_ms) VALUES (1, ?, 1, 'failed', 0)",
            ((seq,) for seq in range(1, 150_001, 10)),
        )
    yield store
    await store.close()


async def test_no_statement_scans_what_grows(large: SqliteStore) -> None:
    """Every named statement reaches the large tables by an index, but for those that count or list them whole."""
    grows = "log|deliveries|attempts|progress|redrive_items|idempotency"
    whole = {"count_deliveries", "dead_letters", "views"}
    found = {}
    for name in (each for each in blocks() if not each.startswith("part_")):
        sql = query(name)
        numbered = [int(digits) for digits in re.findall(r"\?(\d+)", sql)]
        plan = await large.fetch_all(f"EXPLAIN QUERY PLAN {sql}", [0] * (max(numbered, default=0) or sql.count("?")))
        details = [str(row["detail"]) for row in plan]
        tables = dict(re.findall(rf"antiphon_({grows})(?: AS (\w+))?", sql))
        aliases = {alias or f"antiphon_{table}" for table, alias in tables.items()}
        scans = [detail for detail in details if detail.startswith("SCAN ") and detail.split()[1] in aliases]
        scans += [detail for detail in details if "AUTOMATIC" in detail]
        if scans and name not in whole:
            found[name] = scans
    assert found == {}


async def test_pruning_never_holds_the_lock_for_long(large: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each transaction takes a chunk; 100,000 events go, and the writers between wait no longer than for one."""
    longest = 0.0
    total = 0
    unit = large.unit

    def timed() -> object:
        manager = unit()

        class Timed:
            async def __aenter__(self) -> object:
                self.entered = await manager.__aenter__()
                self.since = time.perf_counter()
                return self.entered

            async def __aexit__(self, *error: object) -> object:
                nonlocal longest, total
                longest = max(longest, time.perf_counter() - self.since)
                total += 1
                return await manager.__aexit__(*error)  # type: ignore[arg-type]

        return Timed()

    monkeypatch.setattr(large, "unit", timed)
    pruned = await maintenance.prune(large, large.clock.now_ms() + 1)
    # Two thirds of the first 100,000 and a third of nothing else: T1 is held by the handler that is behind.
    kept = (await large.fetch_all("SELECT count(*) FROM antiphon_log"))[0][0]
    assert pruned.events == 150_000 - kept
    dead = 15_000
    behind = len(range(1, 150_000, 3)) - len([seq for seq in range(1, 100_001) if (seq - 1) % 3 == 1])
    assert dead < kept <= dead + behind + 1
    assert total > 150
    assert longest < 0.25  # some milliseconds each, on a machine that is not busy
    left = await large.fetch_all("SELECT count(*) FROM antiphon_attempts")
    assert left[0][0] == dead


async def test_the_status_of_a_large_store_is_quick(large: SqliteStore) -> None:
    """Its queries are bounded, whatever the backlog."""
    desk = Desk(large)
    started = time.perf_counter()
    (behind,) = [each for each in await desk.status() if each.lag]
    assert (behind.handler, behind.lag_exact, behind.lag) == ("s.h4", False, 50_000)
    assert len(await desk.dead.list(limit=10)) == 10
    assert sum(group.count for group in await desk.dead.groups()) == 15_000
    await desk.deliveries_of(["e0000000", "e0149999"])
    assert time.perf_counter() - started < 3
