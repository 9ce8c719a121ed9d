"""Trouble of our own: stores that fail at the worst moment, cancellations, events that are broken."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from antiphon import Service
from antiphon.errors import StoreError, StoreLocked
from antiphon.model.delivery import Done
from antiphon.store.sqlite.store import SqliteStore
from antiphon.store.sqlite.unit import SqliteUnit
from antiphon.testing.clock import VirtualClock
from tests.runtime.kit import outcome, running
from tests.runtime.test_handling import NO_JITTER, Billed, Ordered, shop

pytestmark = pytest.mark.anyio


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
