"""Trouble of our own: stores that fail at the worst moment, limits that are reached, neighbours that differ."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from antiphon import Event, Rate, Retry, Service, Transaction, minutes, seconds
from antiphon.errors import StoreError, StoreFull, StoreLocked
from antiphon.model.delivery import Done
from antiphon.policy.budget import Budget
from antiphon.store.sqlite.store import SqliteStore
from antiphon.store.sqlite.unit import SqliteUnit
from antiphon.testing.clock import VirtualClock
from tests.runtime.kit import World, running
from tests.runtime.test_handling import NO_JITTER, Billed, Ordered, shop

pytestmark = pytest.mark.anyio


async def outcome(world: World, handler: str) -> list[str]:
    """The statuses of a handler's events, in order."""
    return list((await world.statuses(handler)).values())


def failing_once(monkeypatch: pytest.MonkeyPatch, cls: type, name: str, when: Callable[..., bool]) -> list[int]:
    """Let the first call of a method that *when* picks raise StoreLocked; the list counts it."""
    real = getattr(cls, name)
    failed: list[int] = []

    async def method(self: Any, *arguments: Any, **options: Any) -> Any:
        if not failed and when(self, *arguments):
            failed.append(1)
            raise StoreLocked("another connection holds the write lock")
        return await real(self, *arguments, **options)

    monkeypatch.setattr(cls, name, method)
    return failed


# --- limits ----------------------------------------------------------------------------------------------


async def test_a_retry_that_waits_for_its_rate_does_not_stall_the_loop(tmp_path: Path) -> None:
    """A delivery that is due while no token is left waits for the token; everything else goes on."""
    service = Service("svc")
    starts: list[int] = []
    clock = VirtualClock()

    @service.on(Ordered, rate=Rate(2, minutes(1)), retry=Retry(attempts=3, first=seconds(1), jitter=False))
    async def work(event: Ordered) -> None:
        starts.append(clock.now_ms())
        raise RuntimeError("no")

    async with running(tmp_path, shop(), service, clock=clock) as world:
        await world.publish("shop", Ordered("a", 0), Ordered("b", 1), Ordered("c", 2))
        await clock.advance(10 * 60)
        assert await outcome(world, "svc.work") == ["FAILED"] * 3
        assert all(late - early >= 60_000 for early, late in zip(starts, starts[2:], strict=False))


@pytest.mark.parametrize("outside", [False, True])
async def test_a_rate_is_used_up(tmp_path: Path, outside: bool) -> None:
    """Ten a minute means ten, also for a handler that runs one at a time; no token is spent on what did not start."""
    service = Service("svc")
    starts: list[int] = []
    clock = VirtualClock()

    @service.on(Ordered, rate=Rate(10, minutes(1)), retry=NO_JITTER)
    async def work(event: Ordered) -> None:
        starts.append(clock.now_ms())
        if outside:
            await asyncio.sleep(0)

    async with running(tmp_path, shop(), service, clock=clock) as world:
        await world.publish("shop", *(Ordered(f"c{n}", n) for n in range(25)))
        await clock.advance(59)
        assert len(starts) == 10
        await clock.advance(60)
        assert len(starts) == 20
        await clock.advance(60)
        assert len(starts) == 25
    assert all(late - early >= 60_000 for early, late in zip(starts, starts[10:], strict=False))


async def test_probes_keep_to_the_rate(tmp_path: Path) -> None:
    """A paused handler that is probed starts no more attempts than its rate allows."""
    service = Service("svc")
    starts: list[int] = []
    clock = VirtualClock()

    @service.on(Ordered, rate=Rate(6, minutes(10)), retry=NO_JITTER)
    async def work(event: Ordered) -> None:
        starts.append(clock.now_ms())
        raise ConnectionError("down")

    async with running(tmp_path, shop(), service, clock=clock) as world:
        await world.publish("shop", *(Ordered(f"c{n}", n) for n in range(30)))
        await clock.advance(45 * 60)
    assert len(starts) > 12
    assert all(late - early >= 600_000 for early, late in zip(starts, starts[6:], strict=False))


async def test_a_paused_handler_is_probed_by_one_attempt_at_a_time(tmp_path: Path) -> None:
    """Whatever its concurrency: an outside world that does not answer is not asked by many at once."""
    service = Service("svc")
    running_now = most = 0
    hang = asyncio.Event()

    @service.on(Ordered, retry=NO_JITTER, concurrency=8, timeout=minutes(60))
    async def work(event: Ordered) -> None:
        nonlocal running_now, most
        paused = world.runtime.workers["svc.work"].judge.circuit.paused
        await asyncio.sleep(0)
        if not paused:
            raise ConnectionError("down")
        running_now += 1
        most = max(most, running_now)
        await hang.wait()
        running_now -= 1
        raise ConnectionError("down")

    async with running(tmp_path, shop(), service) as world:
        await world.publish("shop", *(Ordered(f"c{n}", n) for n in range(40)))
        await world.clock.advance(120)
        found = (running_now, most)
        hang.set()
        await world.clock.advance(1)
        assert found == (1, 1)


async def test_a_pause_is_written_when_it_changes(tmp_path: Path) -> None:
    """Events that come to a paused handler cost no transaction each; a restart forgets the pause."""

    def failing() -> Service:
        service = Service("svc")

        @service.on(Ordered, retry=NO_JITTER)
        async def work(event: Ordered) -> None:
            raise ConnectionError("down")

        return service

    clock = VirtualClock()
    shown = "SELECT 1 FROM antiphon_handlers WHERE paused_until_ms IS NOT NULL"
    async with running(tmp_path, shop(), failing(), clock=clock) as world:
        await world.publish("shop", *(Ordered(f"c{n}", n) for n in range(10)))
        assert await world.rows(shown) == [(1,)]
        commits: list[str] = []
        world.store.writer.connection.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)
        for n in range(20):
            await world.publish("shop", Ordered(f"d{n}", n))
        world.store.writer.connection.set_trace_callback(None)
        assert len(commits) == 20
    async with running(tmp_path, shop(), failing(), clock=clock, only=["shop"]) as world:
        await world.store.register(failing().spec.handlers)
        lease = await world.store.acquire("svc.work", world.runtime.owner)
        assert lease is not None
        assert await world.rows(shown) == []


async def test_the_budget_of_retries_keeps_the_order(tmp_path: Path) -> None:
    """A retry that may not start yet holds back what waits behind it, which would need no token itself."""
    service = Service("svc")
    seen: list[int] = []
    failing = {0}

    @service.on(Ordered, retry=Retry(attempts=9, first=seconds(0.05), jitter=False))
    async def work(event: Ordered) -> None:
        if event.n in failing:
            raise RuntimeError("not yet")
        seen.append(event.n)

    async with running(tmp_path, shop(), service) as world:
        await world.publish("shop", Ordered("a", 0), Ordered("a", 1), Ordered("b", 2))
        failing.clear()
        judge = world.runtime.workers["svc.work"].judge
        judge.budget = Budget(0, world.store.store_ms())  # the next token comes in 100 ms
        await world.clock.advance(0.06)
        assert seen == [2]
        await world.clock.advance(0.1)
        assert seen == [2, 0, 1]


@pytest.mark.parametrize("outside", [False, True])
async def test_a_probe_keeps_the_order(tmp_path: Path, outside: bool) -> None:
    """A paused handler is tried with an event that is not known to fail, but never with one that waits for another."""
    service = Service("svc")
    seen: list[tuple[str, int]] = []
    down = [True]

    @service.on(Ordered, retry=NO_JITTER)
    async def work(event: Ordered) -> None:
        if outside:
            await asyncio.sleep(0)
        if down:
            raise ConnectionError("down")
        seen.append((event.customer, event.n))

    async with running(tmp_path, shop(), service) as world:
        await world.publish("shop", *(Ordered(f"c{key}", n) for n in range(3) for key in range(5)))
        await world.clock.advance(100)
        down.clear()
        await world.clock.advance(100)
        assert all([n for key, n in seen if key == f"c{number}"] == [0, 1, 2] for number in range(5)), seen


# --- a store that fails at the worst moment --------------------------------------------------------------


@pytest.mark.parametrize("first", [True, False])
async def test_an_outside_attempt_that_cannot_be_settled_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    """The row does not stay IN_PROGRESS until the next restart, and holds back its key no longer than that."""
    service = Service("svc")
    seen: list[int] = []

    @service.on(Ordered, retry=NO_JITTER)
    async def work(event: Ordered) -> None:
        await asyncio.sleep(0)
        seen.append(event.n)

    def settles_outside(unit: SqliteUnit, lease: object, results: Any, *_: object) -> bool:
        wanted = 0 if first else 2
        found = [each for each in results if each.event.envelope.type == "Ordered" and not each.fresh]
        return any(f'"n":{wanted}'.encode() in each.event.envelope.data for each in found)

    failed = failing_once(monkeypatch, SqliteUnit, "settle", settles_outside)
    async with running(tmp_path, shop(), service) as world:
        await world.publish("shop", *(Ordered("a", n) for n in range(4)))
        await world.clock.advance(30)
        assert failed
        assert await outcome(world, "svc.work") == ["COMPLETED"] * 4
        assert sorted(set(seen)) == [0, 1, 2, 3]
        assert [n for n in seen if n != (0 if first else 2)] == [n for n in range(4) if n != (0 if first else 2)]


async def test_a_failure_that_cannot_be_settled_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same where the attempt itself had failed, whatever goes wrong while that is written down."""
    service = Service("svc")
    broken: list[int] = []

    @service.on(Ordered, retry=NO_JITTER)
    async def work(event: Ordered) -> None:
        await asyncio.sleep(0)
        raise RuntimeError("no")

    real = SqliteUnit.settle

    async def settle(self: SqliteUnit, lease: Any, results: Any, *rest: Any) -> None:
        if not broken and results and not isinstance(results[0].verdict, Done):
            broken.append(1)
            raise OverflowError("something nobody thought of")
        await real(self, lease, results, *rest)

    monkeypatch.setattr(SqliteUnit, "settle", settle)
    async with running(tmp_path, shop(), service) as world:
        await world.publish("shop", Ordered("a", 0), Ordered("a", 1))
        await world.clock.advance(120)
        assert broken
        assert await outcome(world, "svc.work") == ["FAILED"] * 2


async def test_a_lease_that_could_not_be_released_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner lives and renews what it holds; it must not keep itself from working."""
    service = Service("svc")
    seen: list[int] = []
    failing = [True]

    @service.on(Ordered, retry=NO_JITTER)
    async def work(event: Ordered) -> None:
        seen.append(event.n)

    @service.on(Billed)
    async def other(event: Billed) -> None:
        """Keeps the process's leases renewed."""

    real = SqliteStore.read_fresh

    async def read_fresh(self: SqliteStore, lease: Any, *rest: Any) -> Any:
        if failing and lease.handler == "svc.work":
            failing.clear()
            raise OverflowError("something nobody thought of")
        return await real(self, lease, *rest)

    monkeypatch.setattr(SqliteStore, "read_fresh", read_fresh)
    failed = failing_once(monkeypatch, SqliteStore, "release", lambda *_: True)
    async with running(tmp_path, shop(), service) as world:
        await world.publish("shop", Ordered("a", 0))
        await world.clock.advance(60)
        assert failed
        assert seen == [0]
        assert await world.rows("SELECT strikes FROM antiphon_handlers WHERE name = 'svc.work'") == [(0,)]


async def test_a_worker_that_is_cancelled_while_it_releases_can_be_started_again(tmp_path: Path) -> None:
    """A hand-over may meet the renewal that finds the lease gone; the handler is not forgotten for that."""
    service = Service("svc")

    @service.on(Ordered, retry=NO_JITTER)
    async def work(event: Ordered) -> None:
        """Nothing to do."""

    async with running(tmp_path, shop(), service) as world:
        steward = world.runtime._stewards[0]
        task = steward._tasks["svc.work"]
        steward.workers["svc.work"].stop()
        real, released = world.store.release, asyncio.Event()

        async def release(lease: Any) -> None:
            released.set()
            await real(lease)

        world.store.release = release
        await released.wait()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert "svc.work" not in steward._tasks
        await world.clock.advance(3)
        assert "svc.work" in steward.workers


async def test_the_announcement_of_a_commit_cannot_undo_it(tmp_path: Path) -> None:
    """Who publishes is not told of a failure when only a bell could not be rung."""
    async with running(tmp_path, shop()) as world:

        def broken(group: object) -> None:
            raise OSError("too many open files")

        world.store.writer._committed = broken
        await world.publish("shop", Ordered("a", 0))
        assert await world.rows("SELECT count(*) FROM antiphon_log") == [(1,)]


async def test_a_closed_store_says_so(tmp_path: Path) -> None:
    """Publishing after the stop is an error in our words."""
    async with running(tmp_path, shop()) as world:
        runtime = world.runtime
    with pytest.raises(StoreError, match="closed"):
        await runtime.publish("shop", Ordered("a", 0))


# --- neighbours ------------------------------------------------------------------------------------------


def letters(*names: str) -> Service:
    """A service with a handler for each name."""
    service = Service("svc")
    for name in names:

        async def work(event: Ordered) -> None:
            """Nothing to do."""

        service.on(Ordered, name=name, retry=NO_JITTER)(work)
    return service


async def test_a_handler_that_a_neighbour_does_not_know_is_not_left_alone(tmp_path: Path) -> None:
    """During a deployment old and new code run side by side; what only the new one has is run by the new one."""
    clock = VirtualClock()
    async with running(tmp_path, shop(), letters("a"), clock=clock) as old:
        async with running(tmp_path, shop(), letters("a", "b", "c", "d"), clock=clock) as new:
            await old.publish("shop", Ordered("x", 1))
            await clock.advance(20)
            held = [*old.runtime.workers, *new.runtime.workers]
            assert sorted(held) == ["svc.a", "svc.b", "svc.c", "svc.d"]
            await clock.advance(30)
            assert sorted([*old.runtime.workers, *new.runtime.workers]) == sorted(held)
        await clock.advance(5)
        assert list(old.runtime.workers) == ["svc.a"]


async def test_a_stop_suspects_nobody(tmp_path: Path) -> None:
    """Started and stopped again and again, at once or while leases are taken: no strike is counted."""
    clock = VirtualClock()
    for pause in (0, 0, 1, 0):
        async with running(tmp_path, shop(), letters("a", "b"), clock=clock) as world:
            await world.runtime.publish("shop", Ordered("x", pause))
            if pause:
                await clock.advance(pause)
    async with running(tmp_path, shop(), clock=clock) as world:
        owners = await world.rows("SELECT owner, strikes FROM antiphon_handlers")
        assert owners == [(None, 0), (None, 0)]


async def test_a_lease_that_is_taken_while_stopping_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The grace may be over by then, and nobody would end what such a worker began."""
    clock, calls = VirtualClock(), []
    service = Service("svc")

    @service.on(Ordered, retry=NO_JITTER)
    async def work(event: Ordered) -> None:
        calls.append(event.n)
        await clock.sleep(3_600)

    real = SqliteStore.acquire
    asked, stopping = asyncio.Event(), asyncio.Event()

    async def acquire(self: SqliteStore, handler: str, owner: str) -> Any:
        asked.set()
        await stopping.wait()
        return await real(self, handler, owner)

    monkeypatch.setattr(SqliteStore, "acquire", acquire)
    async with running(tmp_path, shop(), service, clock=clock) as world:
        await world.runtime.publish("shop", Ordered("a", 1))
        await asyncio.wait_for(asked.wait(), 5)
        stop = asyncio.ensure_future(world.runtime.stop(grace_s=0))
        await clock.rest()
        stopping.set()
        await asyncio.wait_for(stop, 5)
        assert calls == []


class Counted(Event, key="customer", domain=True):
    customer: str


@pytest.mark.parametrize("own_stores", [False, True])
async def test_a_domain_event_stays_inside_its_service(tmp_path: Path, own_stores: bool) -> None:
    """In whatever layout: a handler of another service does not get it, and is not shown as owing it."""
    inside, outside = Service("inside"), Service("outside")
    seen: list[str] = []

    @inside.on(Ordered)
    async def note(event: Ordered) -> Counted:
        return Counted(event.customer)

    @inside.on(Counted)
    async def mine(event: Counted) -> None:
        seen.append("mine")

    @outside.on(Counted)
    async def theirs(event: Counted) -> None:
        seen.append("theirs")

    async with running(tmp_path, inside, outside, own_stores=own_stores) as world:
        await world.runtime.publish("inside", Ordered("a", 1))
        await world.clock.advance(2)
        assert seen == ["mine"]
        for store in set(world.runtime.stores.values()):
            assert await store.fetch_all("SELECT 1 FROM antiphon_events WHERE HANDLER = 'outside.theirs'") == []


@pytest.mark.parametrize("key", ["a\0b", "\0", "x" * 1_024, "ключ 🔑", "a'b\"c", "[]", " "])
async def test_any_text_can_be_a_key(tmp_path: Path, key: str) -> None:
    """However it is written, later events of a key wait for an earlier one that failed."""
    service = Service("svc")
    seen: list[int] = []
    failing = [True]

    @service.on(Ordered, retry=NO_JITTER)
    async def work(event: Ordered) -> None:
        if event.n == 0 and failing:
            raise RuntimeError("not yet")
        seen.append(event.n)

    async with running(tmp_path, shop(), service) as world:
        await world.publish("shop", Ordered(key, 0), Ordered(key, 1))
        await world.publish("shop", Ordered(key, 2), Ordered("other", 9))
        failing.clear()
        await world.clock.advance(30)
    assert seen == [9, 0, 1, 2]


# --- suspects --------------------------------------------------------------------------------------------

ALONE = """
import asyncio, os, signal, sys
from pathlib import Path
from antiphon import App, Event, Service

class Work(Event):
    n: int

class Call(Event):
    n: int

svc = Service("svc")
working, started = asyncio.Event(), asyncio.Event()

@svc.on(Work)
async def work(event: Work) -> None:
    await asyncio.sleep(0)
    working.set()
    await started.wait()
    await asyncio.get_running_loop().create_future()

@svc.on(Call)
async def call(event: Call) -> None:
    await asyncio.sleep(0)
    started.set()
    await asyncio.get_running_loop().create_future()

async def main() -> None:
    app = App(svc, name="app")
    async with app.run_in(Path(sys.argv[1])):
        await app.publish(Work(n=1))
        await working.wait()
        await app.publish(Call(n=1))
        await started.wait()
        print("ready", flush=True)
        await asyncio.get_running_loop().create_future()

asyncio.run(main())
"""


class Work(Event):
    n: int


class Call(Event):
    n: int


RUNNING = "SELECT count(*) FROM antiphon_deliveries WHERE status = 'IN_PROGRESS'"


async def test_a_suspect_shares_the_process_with_no_outside_call(tmp_path: Path) -> None:
    """What ran when a process died is run alone: another's call that is under way has ended before, none starts."""
    script = tmp_path / "victim.py"
    script.write_text(ALONE)
    with subprocess.Popen([sys.executable, script, tmp_path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, signal.SIGKILL)
    busy: set[str] = set()
    together: list[set[str]] = []

    def service() -> Service:
        made = Service("svc")

        async def attempt(name: str) -> None:
            busy.add(name)
            together.append(set(busy))
            for _ in range(20):
                await asyncio.sleep(0)
            busy.discard(name)

        @made.on(Work)
        async def work(event: Work) -> None:
            await attempt("work")

        @made.on(Call)
        async def call(event: Call) -> None:
            await attempt("call")

        return made

    clock = VirtualClock()
    async with running(tmp_path, service(), clock=clock) as world:
        suspects = await world.rows(
            "SELECT name FROM antiphon_attempts JOIN antiphon_handlers AS h ON h.id = handler_id"
            " WHERE outcome = 'crashed' ORDER BY 1"
        )
        assert suspects == [("svc.call",), ("svc.work",)]
        await world.until(lambda: len(together) >= 2)
    assert all(len(each) == 1 for each in together), together


async def test_a_suspect_that_cannot_be_settled_is_given_back_before_another_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row says that it runs. Whoever ran beside it and killed the process would have it blamed too."""
    script = tmp_path / "victim.py"
    script.write_text(ALONE)
    with subprocess.Popen([sys.executable, script, tmp_path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, signal.SIGKILL)
    made, recorded, troubles = Service("svc"), list[int](), [StoreFull("the disk is full") for _ in range(3)]

    def fails_at_first(method: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        async def fails(*given: Any) -> None:
            if troubles and recorded:
                raise troubles.pop()
            await method(*given)

        return fails

    @made.on(Work)
    async def work(event: Work, tx: Transaction) -> None:
        recorded.append(await tx.fetch_value(RUNNING))

    @made.on(Call)
    async def call(event: Call, tx: Transaction) -> None:
        recorded.append(await tx.fetch_value(RUNNING))

    monkeypatch.setattr(SqliteUnit, "settle", fails_at_first(SqliteUnit.settle))
    monkeypatch.setattr(SqliteStore, "release", fails_at_first(SqliteStore.release))
    async with running(tmp_path, made, clock=VirtualClock()) as world:
        await world.until(lambda: len(recorded) >= 3)
    assert set(recorded) == {1}, recorded


async def test_a_transaction_of_the_runtime_is_atomic_under_cancellation(tmp_path: Path) -> None:
    """Cancelled at any of its awaits, it is there as a whole or not at all, and the store goes on."""
    service = Service("svc")
    service.tables = "CREATE TABLE IF NOT EXISTS notes (n INTEGER);"
    async with running(tmp_path, service) as world:

        async def work(n: int) -> None:
            async with world.runtime.transaction("svc") as tx:
                await tx.execute("INSERT INTO notes VALUES (?)", n)
                await asyncio.sleep(0)
                tx.publish(Ordered("a", n))
                await tx.execute("INSERT INTO notes VALUES (?)", n)

        for rounds in range(40):
            tasks = [asyncio.ensure_future(work(rounds * 10 + n)) for n in range(4)]
            for _ in range(rounds % 20):
                await asyncio.sleep(0)
            tasks[rounds % 4].cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        async with asyncio.timeout(5):
            await world.publish("svc", Ordered("a", -1))
        pairs = await world.rows("SELECT n, count(*) FROM notes GROUP BY n")
        events = await world.rows("SELECT json_extract(data, '$.n') FROM antiphon_log ORDER BY 1")
        assert {count for _, count in pairs} == {2}
        assert [(n,) for n, _ in pairs] == events[1:]


async def test_a_handler_gets_what_came_before_it_was_bound(tmp_path: Path) -> None:
    """Over the bus, a service that binds one more type gets that type's history, and misses none of the others."""
    clock = VirtualClock()
    seen: list[tuple[str, int]] = []

    def counter(*types: type) -> Service:
        service = Service("counter")

        async def count(event: Ordered | Billed) -> None:
            seen.append((type(event).__name__, event.n))

        service.on(*types, name="count")(count)
        return service

    async with running(tmp_path, shop(), counter(Billed), own_stores=True, clock=clock) as world:
        await world.publish("shop", *(Ordered("a", n) for n in range(5)), *(Billed("a", n) for n in range(300)))
        await clock.advance(3)
    assert seen == [("Billed", n) for n in range(300)]
    async with running(tmp_path, shop(), counter(Billed, Ordered), own_stores=True, clock=clock) as world:
        await world.publish("shop", Billed("a", 300))
        await clock.advance(3)
    assert sorted(seen[300:]) == [("Billed", 300), *(("Ordered", n) for n in range(5))]


async def test_broken_events_are_dead_letters_with_their_bytes(tmp_path: Path) -> None:
    """An unknown version, a broken payload: ERROR at once, with the very bytes; what follows is handled."""
    import msgspec

    from antiphon.ports import PUBLISHED

    service = Service("svc")
    seen: list[int] = []

    @service.on(Ordered)
    async def work(event: Ordered) -> None:
        seen.append(event.n)

    async with running(tmp_path, shop(), service) as world:
        await world.publish("shop", Ordered("a", 0))
        good = (await world.store.read_log(0, 1))[0].envelope
        texts = [b"\xff\xfe not json", b'{"customer":"a"}', b'{"customer":"a","n":"x"}', b"[" * 5_000, b"{}"]
        bad = [msgspec.structs.replace(good, id=f"bad-{n}", data=text) for n, text in enumerate(texts)]
        bad.append(msgspec.structs.replace(good, id="bad-version", version=9))
        async with world.store.unit() as unit:
            await unit.append([(envelope, PUBLISHED) for envelope in bad])
        await world.publish("shop", Ordered("a", 1))
        assert await outcome(world, "svc.work") == ["COMPLETED", *["ERROR"] * len(bad), "COMPLETED"]
        kept = await world.rows("SELECT data FROM antiphon_log WHERE id LIKE 'bad-%' ORDER BY seq")
        assert [row[0] for row in kept] == [envelope.data for envelope in bad]
        assert seen == [0, 1]
