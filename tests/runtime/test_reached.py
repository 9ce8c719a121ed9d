"""Limits that are reached: rates, pauses with their probes, the budget of retries; none of them breaks an order."""

import asyncio
from pathlib import Path

import pytest

from antiphon import Rate, Retry, Service, minutes, seconds
from antiphon.policy.budget import Budget
from antiphon.testing.clock import VirtualClock
from tests.runtime.kit import outcome, running
from tests.runtime.test_handling import NO_JITTER, Ordered, shop

pytestmark = pytest.mark.anyio


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
