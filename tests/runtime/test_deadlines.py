"""Deadlines: they travel with what is caused, and work past them is not started."""

import asyncio
from pathlib import Path

import pytest

from antiphon import Delivery, Event, Retry, Service, Transaction, seconds
from antiphon.testing.clock import VirtualClock
from tests.runtime.kit import World, running

pytestmark = pytest.mark.anyio


class Asked(Event, key="name"):
    """Begins."""

    name: str


class Worked(Event, key="name"):
    """Follows from it."""

    name: str


async def publish_within(world: World, name: str, span: float | None) -> None:
    """Publish from outside, with a deadline."""
    async with world.runtime.transaction("work") as tx:
        tx.publish(Asked(name), within=None if span is None else seconds(span))
    await world.clock.rest()


@pytest.mark.parametrize("outside", [False, True])
async def test_work_past_its_deadline_is_not_started(tmp_path: Path, outside: bool) -> None:
    """A retry that comes too late, in a batch or outside, becomes a dead letter; what is in time, or has none, runs."""
    service, tried = Service("work"), []

    @service.on(Asked, retry=Retry(first=seconds(10), jitter=False))
    async def work(asked: Asked) -> None:
        if outside:
            await asyncio.sleep(0)
        tried.append(asked.name)
        if tried.count(asked.name) < 2:
            raise ValueError("once")

    async with running(tmp_path, service) as world:
        await publish_within(world, "short", 5)
        await publish_within(world, "long", 60)
        await publish_within(world, "none", None)
        await world.clock.advance(30)
        assert sorted(tried) == ["long", "long", "none", "none", "short"]
        rows = await world.rows("SELECT STATUS, REASON, ERROR_TYPE, ATTEMPTS FROM antiphon_dead_letters")
        ((status, reason, error, attempts),) = rows
        assert (status, error, attempts) == ("FAILED", "antiphon.errors.DeadlinePassed", 1)
        assert reason == "its deadline passed 5 s before it could be started"


async def test_a_deadline_travels_with_what_is_caused(tmp_path: Path) -> None:
    """What follows has the deadline of its cause; an earlier one may be set, a later one may not."""
    service = Service("work")
    seen: dict[str, int] = {}

    @service.on(Asked)
    async def work(asked: Asked, tx: Transaction) -> Worked | None:
        tx.publish(Worked("same"))
        tx.publish(Worked("earlier"), within=seconds(1))
        tx.publish(Worked("later"), within=seconds(100))
        return None

    @service.on(Worked)
    async def see(worked: Worked, delivery: Delivery) -> None:
        assert delivery.envelope.deadline_ms is not None
        seen[worked.name] = delivery.envelope.deadline_ms - world.clock.now_ms()

    async with running(tmp_path, service) as world:
        await publish_within(world, "a", 60)
        assert seen == {"same": 60_000, "earlier": 1_000, "later": 60_000}


async def test_what_undoes_is_owed_however_late(tmp_path: Path) -> None:
    """A compensation is started after the deadline; anything else of the same event is not."""
    service, undone, told = Service("work"), [], []

    @service.on(Worked)
    async def other(worked: Worked) -> None:
        told.append(worked.name)

    @service.on(Worked, compensates=other)
    async def undo(worked: Worked) -> None:
        undone.append(worked.name)

    @service.on(Asked)
    async def fail(asked: Asked, delivery: Delivery) -> Worked:
        await world.clock.sleep(10)
        return Worked(asked.name)

    async with running(tmp_path, service) as world:
        await publish_within(world, "a", 5)
        await world.clock.advance(20)
        assert undone == ["a"]
        assert told == []


async def test_a_deadline_survives_the_bus_and_a_restart(tmp_path: Path) -> None:
    """It is kept in the log and carried between stores: whoever starts later goes by it."""
    work, other, seen = Service("work"), Service("other"), []

    @other.on(Asked)
    async def see(asked: Asked) -> None:
        seen.append(asked.name)

    clock = VirtualClock()
    async with running(tmp_path, work, other, own_stores=True, only=["work"], clock=clock) as world:
        await publish_within(world, "short", 5)
        await publish_within(world, "long", 60)
        await clock.advance(10)
    async with running(tmp_path, work, other, own_stores=True, clock=clock) as world:
        await world.until(lambda: bool(seen))
        assert seen == ["long"]
