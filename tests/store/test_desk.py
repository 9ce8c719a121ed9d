"""What a person asks of a store: handlers, events, deliveries, traces."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import msgspec
import pytest

from antiphon import Event, Retry, Service, Status, seconds
from antiphon.errors import AntiphonError, NotFound
from antiphon.model.envelope import Envelope
from antiphon.ports import PUBLISHED
from antiphon.store import desk as desks
from antiphon.store import looking
from antiphon.store.desk import Desk
from antiphon.store.sqlite.desks import open_desk, open_desks
from antiphon.testing.clock import VirtualClock
from tests.runtime.kit import World, running
from tests.store.shops import TWICE, Ordered, Shop, order, statuses

pytestmark = pytest.mark.anyio


class Counted(Event, domain=True):
    n: int


async def fill(world: World, count: int, *, type_: str = "Ordered") -> None:
    """Append so many events in one go."""
    now = world.clock.now_ms()
    async with world.store.unit() as unit:
        await unit.append(
            (Envelope(f"{type_}-{n:07}", type_, 1, None, "shop", now, b"{}", f"{type_}-{n:07}"), PUBLISHED)
            for n in range(count)
        )


# ---------------------------------------------------------------------- handlers


async def test_the_status_tells_how_a_handler_stands(tmp_path: Path) -> None:
    """Cursor, counters, rows by status, the age of what is oldest, and who runs it."""
    shop = Shop(TWICE)
    shop.failing, shop.refused = {2}, {3}
    async with running(tmp_path, *shop.services) as world:
        desk = Desk(world.store)
        await order(world, 1, 2, 3, customer="k")
        await order(world, 4, 5, customer="k")
        await world.clock.advance(3)
        note, bill = await desk.status()
        assert (note.handler, note.service, note.types) == ("audit.note", "audit", ("Billed", "Ordered"))
        assert (note.lag, note.lag_exact, note.counts.open, note.oldest_unhandled_s) == (0, True, 0, None)
        assert (bill.handler, bill.service, bill.store) == ("billing.bill", "billing", "app")
        # 2 waits for its retry; all later ones of the key are parked behind it.
        assert (bill.lag, bill.counts.retry, bill.counts.parked, bill.counts.dead) == (0, 1, 3, 0)
        assert bill.unhandled == 4
        assert bill.oldest_unhandled_s == 3
        assert (bill.handled, bill.failed_invocations) == (1, 1)
        assert (bill.running, bill.owner) == (True, world.runtime.owner)
        assert bill.removed_ms is None
        shop.failing.clear()
        await world.clock.advance(8)
        bill = (await desk.status())[1]
        assert (bill.counts.open, bill.counts.error, bill.handled, bill.failed_invocations) == (0, 1, 4, 2)
        assert bill.oldest_unhandled_s is None
        assert msgspec.json.decode(msgspec.json.encode(bill))["counts"]["error"] == 1


async def test_lag_is_counted_when_short_and_estimated_when_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped handler's lag is exact up to a limit; beyond it, the distance to the head, and said to be so."""
    monkeypatch.setattr(looking, "EXACT_LAG", 50)
    shop = Shop()
    async with running(tmp_path, *shop.services):
        pass
    async with running(tmp_path, *shop.services, only=["shop"]) as world:
        desk = Desk(world.store)
        await fill(world, 30)
        await fill(world, 20, type_="Other")
        lags = {each.handler: (each.lag, each.lag_exact) for each in await desk.status()}
        assert lags == {"audit.note": (30, True), "billing.bill": (30, True)}
        await fill(world, 25, type_="Billed")
        lags = {each.handler: (each.lag, each.lag_exact) for each in await desk.status()}
        assert lags == {"audit.note": (75, False), "billing.bill": (30, True)}
        await world.clock.advance(30)
        assert [each.oldest_unhandled_s for each in await desk.status()] == [30, 30]
        assert [each.running for each in await desk.status()] == [False, False]


async def test_what_a_handler_never_gets_is_no_lag(tmp_path: Path) -> None:
    """A domain event of another service passes it by, whatever it is bound to."""
    outside = Service("outside")

    @outside.on(Counted)
    async def theirs(event: Counted) -> None:
        """Never called."""

    async with running(tmp_path, Service("inside"), outside, only=["inside"]) as world:
        await world.publish("inside", Counted(1), Counted(2))
        (status,) = await Desk(world.store).status()
        assert (status.lag, status.lag_exact, status.oldest_unhandled_s) == (0, True, None)
        assert (await Desk(world.store).prune(world.clock.now_ms() + 1)).events == 1


async def test_a_pause_is_shown_with_its_reason(tmp_path: Path) -> None:
    """While a handler fails on everything, when it is tried next, in wall time."""
    shop = Shop(Retry(attempts=50, first=seconds(1)))
    shop.failing = set(range(20))
    async with running(tmp_path, *shop.services) as world:
        await order(world, *range(20))
        bill = (await Desk(world.store).status())[1]
        assert bill.pause_reason == "RuntimeError: no card for 4"
        assert bill.paused_until_ms is not None
        assert 0 < bill.paused_until_ms - world.clock.now_ms() <= 1_000


async def test_a_handler_that_left_the_code_is_shown_until_it_is_forgotten(tmp_path: Path) -> None:
    """Its service runs without it: since when is told; it is still owed its events; forgetting ends that."""
    clock = VirtualClock()
    shop = Shop()
    shop.failing = {1}
    async with running(tmp_path, *shop.services, clock=clock) as world:
        await order(world, 1, 2)
    empty = Service("billing")
    async with running(tmp_path, shop.shop, empty, shop.audit, clock=clock) as world:
        desk = Desk(world.store)
        removed = clock.now_ms()
        await clock.advance(5)
        await order(world, 3)
        note, bill = await desk.status()
        assert (note.removed_ms, bill.removed_ms) == (None, removed)
        assert (bill.lag, bill.counts.dead, bill.running) == (1, 1, False)
        with pytest.raises(AntiphonError, match="it runs"):
            await desk.forget("audit.note")
        with pytest.raises(NotFound, match=r"no handler 'billing\.nobody'"):
            await desk.forget("billing.nobody")
        gone = await desk.forget("billing.bill")
        assert (gone.unhandled, gone.open, gone.dead) == (1, 0, 1)
        assert [each.handler for each in await desk.status()] == ["audit.note"]
        for table in ("antiphon_deliveries", "antiphon_subscriptions"):
            rows = await world.rows(f"SELECT 1 FROM {table} WHERE handler_id NOT IN (SELECT id FROM antiphon_handlers)")
            assert rows == []
    # It comes back as a new handler, from the start of the log.
    async with running(tmp_path, *shop.services, clock=clock) as world:
        bill = (await Desk(world.store).status())[1]
        assert (bill.removed_ms, bill.handled, bill.counts.dead) == (None, 2, 1)


async def test_other_processes_services_are_not_taken_for_removed(tmp_path: Path) -> None:
    """A process that runs one service says nothing of another's handlers; those are owed events all the same."""
    shop = Shop()
    async with running(tmp_path, *shop.services, only=["shop"]) as world:
        await order(world, 1, 2)
        lags = {each.handler: (each.lag, each.removed_ms) for each in await Desk(world.store).status()}
        assert lags == {"audit.note": (2, None), "billing.bill": (2, None)}
    async with running(tmp_path, *shop.services, only=["audit"]) as world:
        assert [each.removed_ms for each in await Desk(world.store).status()] == [None, None]


# ---------------------------------------------------------------------- events


async def test_the_log_is_read_from_any_place(tmp_path: Path) -> None:
    """Forward from a position, the newest, by type, by correlation; oldest first each time."""
    shop = Shop()
    async with running(tmp_path, *shop.services) as world:
        desk = Desk(world.store)
        first, second = await order(world, 1, 2)
        assert [(each.seq, each.type) for each in await desk.tail()] == [
            (1, "Ordered"),
            (2, "Ordered"),
            (3, "Billed"),
            (4, "Billed"),
        ]
        assert [each.seq for each in await desk.tail(2, 1)] == [3]
        assert [each.seq for each in await desk.tail(type="Billed")] == [3, 4]
        assert [each.seq for each in await desk.tail(correlation_id=second)] == [2, 4]
        assert [each.seq for each in await desk.tail(2, type="Billed", correlation_id=first)] == [3]
        assert [each.seq for each in await desk.latest(2)] == [3, 4]
        assert [each.seq for each in await desk.latest(1, type="Ordered")] == [2]
        assert [each.seq for each in await desk.events_of(first, 1)] == [3]
        billed = (await desk.events_of(first))[1]
        assert (billed.causation_id, billed.correlation_id, billed.service) == (first, first, "billing")
        assert billed.data == {"customer": "c1", "n": 1}
        assert billed.traceparent.startswith("00-")


async def test_an_event_is_found_by_the_beginning_of_its_id(tmp_path: Path) -> None:
    """As long as only one begins so; an id that is whole wins over longer ones."""
    async with running(tmp_path, *Shop().services) as world:
        desk = Desk(world.store)
        now = world.clock.now_ms()
        async with world.store.unit() as unit:
            await unit.append(
                (Envelope(name, "X", 1, None, "shop", now, b"{}", name), PUBLISHED) for name in ("abc", "abcd", "xü%")
            )
        assert (await desk.event("abc")).id == "abc"
        assert (await desk.event("abcd")).id == "abcd"
        assert (await desk.event("x")).id == "xü%"
        for name, message in (("ab", "several events begin"), ("", "no event has"), ("%", "no event has")):
            with pytest.raises(NotFound, match=message):
                await desk.event(name)


async def test_waiting_for_events_ends_with_the_first_or_with_time(tmp_path: Path) -> None:
    """What is there already counts; else the commit wakes it, or the time-out does."""
    async with running(tmp_path, *Shop().services) as world:
        desk = Desk(world.store)
        waiting = asyncio.ensure_future(desk.wait_for_events(0, 60))
        await world.clock.rest()
        assert not waiting.done()
        await order(world, 1)
        assert await waiting is True
        assert await desk.wait_for_events(0, 60) is True
        waiting = asyncio.ensure_future(desk.wait_for_events(99, 5))
        await world.clock.advance(4)
        assert not waiting.done()
        await world.clock.advance(2)
        assert await waiting is False


# ---------------------------------------------------------------------- deliveries and traces


async def test_what_became_of_an_event_is_told_for_each_handler(tmp_path: Path) -> None:
    """Handled at once, on a retry, waiting, behind which event, and dead: with times, attempts and why."""
    shop = Shop(TWICE)
    shop.failing = {1, 2}
    async with running(tmp_path, *shop.services) as world:
        desk = Desk(world.store)
        start = world.clock.now_ms()
        (first,) = await order(world, 1, customer="a")
        second, third = await order(world, 2, 3, customer="b")
        views = {(each.event_id, each.handler): each for each in await desk.deliveries_of([first, second, third])}
        noted = views[first, "audit.note"]
        assert (noted.status, noted.attempts, noted.updated_ms, noted.service) == (Status.COMPLETED, 1, start, "audit")
        assert [(each.number, each.outcome) for each in noted.history] == [(1, "completed")]
        retried = views[second, "billing.bill"]
        assert (retried.status, retried.due_ms, retried.attempts) == (Status.RETRY, start + 10_000, 1)
        parked = views[third, "billing.bill"]
        assert (parked.status, parked.waits_for, parked.due_ms) == (Status.UNPROCESSED, second, None)
        shop.failing = {1}
        await world.clock.advance(11)
        views = {(each.event_id, each.handler): each for each in await desk.deliveries_of([first, second, third])}
        done = views[second, "billing.bill"]
        assert (done.status, done.attempts, done.updated_ms) == (Status.COMPLETED, 2, start + 10_000)
        assert [each.outcome for each in done.history] == ["failed", "completed"]
        dead = views[first, "billing.bill"]
        assert (dead.status, dead.reason) == (
            Status.FAILED,
            "gave up after 2 attempts in 10 s: RuntimeError: no card for 1",
        )
        assert await desk.deliveries_of(["unknown"]) == []


async def test_what_is_not_reached_yet_is_unprocessed(tmp_path: Path) -> None:
    """For a handler that does not run, and not at all for one that began after it."""
    shop = Shop()
    async with running(tmp_path, *shop.services, only=["shop"]) as world:
        (event_id,) = await order(world, 1)
        late = Service("late")

        @late.on(Ordered, start="now")
        async def watch(event: Ordered) -> None:
            """Begins with what comes next."""

        await world.store.register(late.spec.handlers)
        assert await statuses(Desk(world.store), event_id) == {
            "audit.note": "UNPROCESSED",
            "billing.bill": "UNPROCESSED",
        }


async def test_a_trace_tells_the_whole_story(tmp_path: Path) -> None:
    """From any event of it: what caused what, who handled it when, after how many attempts, and how it ended."""
    shop = Shop(TWICE)
    shop.failing = {1}
    async with running(tmp_path, *shop.services) as world:
        desk = Desk(world.store)
        first, _ = await order(world, 1, 2)
        shop.failing.clear()
        await world.clock.advance(11)
        trace = await desk.trace(first)
        assert trace.correlation_id == first
        assert [(node.depth, node.event.type) for node in trace.nodes] == [(0, "Ordered"), (1, "Billed")]
        ordered, billed = trace.nodes
        assert {each.handler: (str(each.status), each.attempts) for each in ordered.deliveries} == {
            "audit.note": ("COMPLETED", 1),
            "billing.bill": ("COMPLETED", 2),
        }
        assert ordered.deliveries[1].history[0].message == "no card for 1"
        assert await desk.trace(billed.event.id) == trace
        with pytest.raises(NotFound):
            await desk.trace("nothing")


async def test_a_trace_goes_over_all_stores(tmp_path: Path) -> None:
    """With a file per service: each event once, with everybody's deliveries, whichever store is asked first."""
    shop = Shop()
    async with running(tmp_path, *shop.services, own_stores=True) as world:
        (first,) = await order(world, 1)
        await world.clock.advance(12)
        found = [Desk(store) for store in world.runtime.stores.values()]
        assert world.runtime.hub is not None
        found.append(Desk(world.runtime.hub))
        trace = await desks.trace(found, first)
        assert [(node.depth, node.event.type, node.event.store) for node in trace.nodes] == [
            (0, "Ordered", "shop"),
            (1, "Billed", "billing"),
        ]
        assert [sorted(node.stores) for node in trace.nodes] == [
            ["audit", "billing", "bus", "shop"],
            ["audit", "billing", "bus"],
        ]
        handled = [sorted(each.handler for each in node.deliveries) for node in trace.nodes]
        assert handled == [["audit.note", "billing.bill"], ["audit.note"]]
        assert (await desks.trace(found[::-1], first)).nodes[0].event.origin == "published"
        positions = {each.name: (each.seq, each.head, each.lag) for each in await found[-1].positions()}
        assert positions == {
            "inlet:audit": (2, 2, 0),
            "inlet:billing": (1, 2, 0),
            "outlet:billing": (2, None, None),
            "outlet:shop": (1, None, None),
        }
        positions = {each.name: (each.seq, each.head, each.lag) for each in await found[1].positions()}
        assert positions == {"read:Ordered": (1, None, None), "sent": (2, 2, None)}


async def test_a_huge_correlation_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop without an end does not take the reader with it; that it was cut is told."""
    monkeypatch.setattr(desks, "TRACE_LIMIT", 5)
    async with running(tmp_path, *Shop().services) as world:
        now = world.clock.now_ms()
        async with world.store.unit() as unit:
            await unit.append((Envelope(f"e{n}", "X", 1, None, "shop", now, b"{}", "e0"), PUBLISHED) for n in range(9))
        trace = await Desk(world.store).trace("e8")
        assert (len(trace.nodes), trace.truncated) == (5, True)


# ---------------------------------------------------------------------- from another process


async def test_looking_from_outside_changes_nothing(tmp_path: Path) -> None:
    """A desk takes no lease and no share, writes nothing at open, and is gone without a trace."""
    shop = Shop()
    async with running(tmp_path, *shop.services) as world:
        await order(world, 1)
        before = await world.rows("PRAGMA data_version"), await world.rows("PRAGMA schema_version")
        leases = await world.rows("SELECT name, owner, epoch FROM antiphon_handlers")
        async with open_desk(tmp_path / "app.db", world.clock) as desk:
            assert (await world.rows("PRAGMA data_version"), await world.rows("PRAGMA schema_version")) == before
            others = {owner: services for owner, services in world.store.neighbours().items() if "desk" in owner}
            assert [set(services) & {"shop", "billing", "audit"} for services in others.values()] == [set()]
            await world.clock.advance(3)
            assert len(world.runtime.workers) == 2
            assert [each.handler for each in await desk.status()] == ["audit.note", "billing.bill"]
            # What is published by one process wakes who waits in another.
            waiting = asyncio.ensure_future(desk.wait_for_events(2, 60))
            await order(world, 2)
            assert await asyncio.wait_for(waiting, 10) is True
        assert await world.rows("SELECT name, owner, epoch FROM antiphon_handlers") == leases
        assert [owner for owner in world.store.neighbours() if "desk" in owner] == []


async def test_a_desk_in_another_process_redrives(tmp_path: Path) -> None:
    """The running worker is woken by the bell of the process in which somebody pressed the button."""
    shop = Shop()
    shop.failing = {1}
    script = """
        import asyncio, sys
        from pathlib import Path
        from antiphon.runtime.clock import SystemClock
        from antiphon.store.sqlite.desks import open_desk

        class Clock(SystemClock):
            # That of the worker's virtual clock, which was never earlier than this.
            def boot_id(self):
                return sys.argv[2]

            def boot_ms(self):
                return 0

        async def main():
            async with open_desk(Path(sys.argv[1]), Clock()) as desk:
                for letter in await desk.dead.list():
                    await desk.dead.redrive_one(letter.event_id)
                print(len(await desk.dead.list()))

        asyncio.run(main())
    """
    async with running(tmp_path, *shop.services) as world:
        (event_id,) = await order(world, 1)
        shop.failing.clear()
        command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "app.db"), world.clock.boot_id()]
        done = await world.clock.run_blocking(
            lambda: subprocess.run(command, capture_output=True, text=True, check=False)
        )
        assert done.stdout == "0\n", done.stderr
        await world.clock.rest()
        assert shop.billed == [("c1", 1)]
        assert (await statuses(Desk(world.store), event_id))["billing.bill"] == "COMPLETED"


async def test_only_stores_are_opened(tmp_path: Path) -> None:
    """A database of somebody else is left alone, a missing file is said; the bus comes last."""
    async with running(tmp_path, *Shop().services, own_stores=True):
        pass
    foreign = tmp_path / "aaa.db"
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE notes (n)")
    connection.close()
    clock = VirtualClock()
    async with open_desks(tmp_path, clock) as found:
        assert [desk.name for desk in found] == ["audit", "billing", "shop", "bus"]
    with pytest.raises(NotFound, match="there is no store"):
        async with open_desk(foreign, clock):
            pass
    with pytest.raises(NotFound, match="there is no store"):
        async with open_desk(tmp_path / "missing.db", clock):
            pass
    assert not (tmp_path / "missing.db").exists()
    assert not (tmp_path / "aaa.db-host").exists()


async def test_the_event_table_agrees_with_the_desk(tmp_path: Path) -> None:
    """Anybody's SQL client sees the statuses that the desk tells."""
    shop = Shop(TWICE)
    shop.failing, shop.refused = {1, 2}, {3}
    async with running(tmp_path, *shop.services) as world:
        desk = Desk(world.store)
        ids = await order(world, 1, 2, 3, 4, customer="k")
        shop.failing = {1}
        await world.clock.advance(11)
        await desk.dead.redrive_one(ids[0])
        rows = await world.rows("SELECT EVENT_ID, HANDLER, STATUS, ATTEMPTS FROM antiphon_events")
        told = [
            (each.event_id, each.handler, str(each.status), each.attempts)
            for each in await desk.deliveries_of([row[0] for row in rows])
        ]
        assert sorted(rows) == sorted(told)
        assert len({status for _, _, status, _ in rows}) >= 3
