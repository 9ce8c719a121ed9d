"""Delayed publishing and recurring schedules."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from antiphon import Service, hours, minutes
from antiphon.testing.clock import START_MS, VirtualClock
from tests.runtime.kit import World, running
from tests.runtime.test_handling import Ordered

pytestmark = pytest.mark.anyio

START = datetime.fromtimestamp(START_MS / 1000, UTC)


def listener(seen: list[tuple[int, datetime]], clock: VirtualClock) -> Service:
    """Notes when an event is handled, in seconds since the start."""
    service = Service("listener")

    @service.on(Ordered)
    async def note(event: Ordered) -> None:
        seen.append((event.n, datetime.fromtimestamp(clock.now_ms() / 1000, UTC)))

    return service


async def later(world: World, n: int, delay: timedelta | None = None, at: datetime | None = None) -> str:
    """Publish an event for later."""
    async with world.runtime.transaction("listener") as tx:
        return await tx.publish_later(Ordered("a", n), delay=delay, at=at)


async def test_delays_and_dates_fire_once_at_their_time(tmp_path: Path) -> None:
    """Neither early nor twice; a cancelled one never."""
    clock = VirtualClock()
    seen: list[tuple[int, datetime]] = []
    async with running(tmp_path, listener(seen, clock), clock=clock) as world:
        await later(world, 1, delay=minutes(5))
        await later(world, 2, at=START + minutes(3))
        cancelled = await later(world, 3, delay=minutes(1))
        async with world.runtime.transaction("listener") as tx:
            assert await tx.cancel(cancelled)
            assert not await tx.cancel(cancelled)
        await clock.advance(600)
    assert seen == [(2, START + minutes(3)), (1, START + minutes(5))]


async def test_a_delay_survives_a_restart_and_a_wall_clock_that_jumps(tmp_path: Path) -> None:
    """A delay runs on the store's clock: setting the wall clock neither hurries nor stalls it."""
    clock = VirtualClock()
    seen: list[tuple[int, datetime]] = []
    async with running(tmp_path, listener(seen, clock), clock=clock) as world:
        await later(world, 1, delay=hours(1))
    clock.set_wall(-86_400)
    async with running(tmp_path, listener(seen, clock), clock=clock):
        await clock.jump(3_590)
        assert seen == []
        await clock.advance(40)
        assert [n for n, _ in seen] == [1]


async def test_schedules_tick_and_make_up_for_a_pause_once(tmp_path: Path) -> None:
    """``every`` and ``cron`` handlers run at their times; what was missed while stopped runs once."""
    clock = VirtualClock()
    ticks: list[str] = []

    def reports() -> Service:
        service = Service("reports")

        @service.every(minutes(10))
        async def often() -> Ordered:
            ticks.append("often")
            return Ordered("tick", 1)

        @service.cron("30 2 * * *", zone="Europe/Prague")
        async def nightly() -> None:
            ticks.append("nightly")

        return service

    async with running(tmp_path, reports(), clock=clock) as world:
        await clock.advance(35 * 60)
        assert ticks == ["often"] * 3
        assert (await world.rows("SELECT count(*) FROM antiphon_log WHERE type = 'Ordered'"))[0][0] == 3
    ticks.clear()
    async with running(tmp_path, reports(), clock=clock) as world:
        await clock.jump(6 * 3600)
        await clock.advance(30)
        assert sorted(ticks) == ["nightly", "often"]
        data = await world.rows("SELECT data FROM antiphon_log WHERE type = 'antiphon.tick.reports.nightly'")
        assert b'"due":"2026-01-01T01:30:00Z"' in data[0][0]


async def test_dynamic_schedules(tmp_path: Path) -> None:
    """A schedule made in a transaction publishes again and again until it is ended."""
    clock = VirtualClock()
    seen: list[tuple[int, datetime]] = []
    async with running(tmp_path, listener(seen, clock), clock=clock) as world:
        async with world.runtime.transaction("listener") as tx:
            await tx.schedule("hourly", Ordered("a", 9), every=hours(1))
        await clock.advance(2.5 * 3600, over_upkeep=True)
        assert len(seen) == 2
        async with world.runtime.transaction("listener") as tx:
            assert await tx.unschedule("hourly")
        await clock.advance(2 * 3600, over_upkeep=True)
        assert len(seen) == 2
