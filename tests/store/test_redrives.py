"""Dead letters redriven: one by one, and many at a time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from antiphon import Event, Retry, Service, Status
from antiphon.errors import AntiphonError, NotFound
from antiphon.model.views import DeadLetterFilter, RedriveJob
from antiphon.store.desk import Desk
from antiphon.store.redrives import advance
from antiphon.testing.clock import VirtualClock
from tests.runtime.kit import World, running
from tests.store.shops import ONCE, TWICE, Ordered, Shop, desk_of, order, statuses

pytestmark = pytest.mark.anyio


async def finish(world: World, desk: Desk, job: RedriveJob, seconds: float = 60) -> RedriveJob:
    """The job when it is over, in virtual time."""
    for _ in range(round(seconds * 4)):
        job = await desk.dead.job(job.id)
        if job.over:
            return job
        await world.clock.advance(0.25)
    return job


# ---------------------------------------------------------------------- one by one


async def test_a_redriven_event_is_handled_at_once_and_keeps_its_history(tmp_path: Path) -> None:
    """It goes back to UNPROCESSED with fresh attempts; what was before stays on record."""
    shop = Shop(TWICE)
    shop.failing = {1}
    async with running(tmp_path, *shop.services) as world:
        desk = desk_of(world)
        (event_id,) = await order(world, 1)
        await world.clock.advance(11)
        assert (await statuses(desk, event_id))["billing.bill"] == "FAILED"
        # Still failing: it has all its attempts again, and all its time.
        await world.clock.jump(86_400 * 2)
        before = await desk.dead.redrive_one(event_id)
        assert (before.status, before.attempts) == (Status.FAILED, 2)
        await world.clock.rest()
        assert (await statuses(desk, event_id))["billing.bill"] == "RETRY"
        shop.failing.clear()
        await world.clock.advance(11)
        delivery = next(each for each in await desk.deliveries_of([event_id]) if each.handler == "billing.bill")
        assert (delivery.status, delivery.attempts) == (Status.COMPLETED, 2)
        outcomes = [(each.number, each.outcome) for each in delivery.history]
        assert outcomes == [(1, "failed"), (2, "failed"), (0, "redriven"), (1, "failed"), (2, "completed")]
        assert shop.billed == [("c1", 1)]
        assert await desk.dead.list() == []
        with pytest.raises(NotFound):
            await desk.dead.redrive_one(event_id)


async def test_a_redriven_event_goes_before_later_ones_of_its_key(tmp_path: Path) -> None:
    """Open deliveries of the key wait for it, even one whose retry is due, and nothing spins meanwhile."""
    shop = Shop(TWICE)
    shop.failing = {1, 3}
    async with running(tmp_path, *shop.services) as world:
        desk = desk_of(world)
        first, _, third, fourth = await order(world, 1, 2, 3, 4, customer="k")
        await world.clock.advance(11)  # 1 has failed for good; 2 went on; 3 failed, 4 waits behind it
        assert shop.billed == [("k", 2)]
        assert (await statuses(desk, first))["billing.bill"] == "FAILED"
        assert (await statuses(desk, third))["billing.bill"] == "RETRY"
        assert (await statuses(desk, fourth))["billing.bill"] == "UNPROCESSED"
        await desk.dead.redrive_one(first)
        await world.clock.advance(5)
        shop.failing = {1}
        started = len(shop.started)
        await world.clock.advance(4)  # the retry of 3 is due by now, but 1 comes first
        assert shop.started[started:] == []
        waiting = next(each for each in await desk.deliveries_of([fourth]) if each.handler == "billing.bill")
        assert waiting.waits_for == first
        shop.failing.clear()
        await world.clock.advance(10)
        assert shop.billed == [("k", 2), ("k", 1), ("k", 3), ("k", 4)]


async def test_a_redriven_event_never_runs_beside_one_of_its_key(tmp_path: Path) -> None:
    """While a later event of the key runs outside a transaction, the redriven one waits for its end."""
    service = Service("mail")
    failing = True
    running_now: list[int] = []
    seen: list[list[int]] = []
    gate = asyncio.Event()

    @service.on(Ordered, retry=ONCE, concurrency=4)
    async def send(event: Ordered) -> None:
        running_now.append(event.n)
        seen.append(list(running_now))
        try:
            await asyncio.sleep(0)
            if event.n == 1 and failing:
                raise RuntimeError("no")
            if event.n == 2:
                await gate.wait()
        finally:
            running_now.remove(event.n)

    async with running(tmp_path, Service("shop"), service) as world:
        desk = desk_of(world)
        first, _ = await order(world, 1, 2, customer="k")
        assert running_now == [2]
        failing = False
        await desk.dead.redrive_one(first)
        await world.clock.advance(3)
        assert running_now == [2]
        assert (await statuses(desk, first))["mail.send"] == "UNPROCESSED"
        gate.set()
        await world.clock.rest()
        assert (await statuses(desk, first))["mail.send"] == "COMPLETED"
        assert seen == [[1], [2], [1]]


async def test_what_a_handler_is_bound_to_no_more_stays_dead(tmp_path: Path) -> None:
    """Nobody would take it up, so redriving and editing say so; archiving works."""
    shop = Shop()
    shop.failing = {1}
    async with running(tmp_path, *shop.services) as world:
        (event_id,) = await order(world, 1)
    later = Service("billing")

    class Shipped(Event):
        n: int

    @later.on(Shipped)
    async def bill(event: Shipped) -> None:
        """Handles something else now."""

    async with running(tmp_path, Service("shop"), later) as world:
        desk = desk_of(world)
        for attempt in (desk.dead.redrive_one(event_id), desk.dead.edit(event_id, b'{"customer":"c","n":2}')):
            with pytest.raises(AntiphonError, match="does not handle Ordered"):
                await attempt
        job = await finish(world, desk, await desk.dead.redrive())
        assert (job.state, job.skipped) == ("done", 1)
        await desk.dead.archive_one(event_id, "gone")


# ---------------------------------------------------------------------- many


async def test_a_plan_changes_nothing(tmp_path: Path) -> None:
    """The dry run counts by handler and group, with examples, and leaves every row as it was."""
    shop = Shop()
    shop.failing, shop.refused = {1, 2, 3}, {4}
    async with running(tmp_path, *shop.services) as world:
        desk = desk_of(world)
        await order(world, 1, 2, 3, 4)
        before = await world.rows("SELECT * FROM antiphon_deliveries")
        plan = await desk.dead.plan(DeadLetterFilter(status=Status.FAILED))
        assert (plan.count, plan.handlers, len(plan.groups), len(plan.examples)) == (3, {"billing.bill": 3}, 1, 3)
        assert await world.rows("SELECT * FROM antiphon_deliveries") == before
        assert await desk.dead.jobs() == []


async def test_all_that_match_are_redriven_as_of_submit(tmp_path: Path) -> None:
    """What dies after the submit is not part of it; what is no dead letter when its turn comes is skipped."""
    shop = Shop()
    shop.refused = {1, 2, 3, 9}
    async with running(tmp_path, *shop.services) as world:
        desk = desk_of(world)
        ids = await order(world, 1, 2, 3)
        shop.refused = {9}
        job = await desk.dead.redrive(rate=1)
        assert (job.total, job.waiting, job.state) == (3, 3, "running")
        (late,) = await order(world, 9)
        await desk.dead.archive_one(ids[2], "not worth it")
        job = await finish(world, desk, job)
        assert (job.state, job.succeeded, job.failed, job.skipped, job.waiting) == ("done", 2, 0, 1, 0)
        assert sorted(shop.billed) == [("c1", 1), ("c2", 2)]
        assert [each.event_id for each in await desk.dead.list()] == [late]
        assert await desk.dead.jobs() == [job]
        assert (await desk.dead.redrive(DeadLetterFilter(handler="nobody.here"))).state == "done"


async def test_the_rate_is_kept(tmp_path: Path) -> None:
    """Two a second are two a second, whatever the number; a high rate goes in small portions."""
    shop = Shop()
    shop.refused = set(range(40))
    async with running(tmp_path, *shop.services) as world:
        desk = desk_of(world)
        await order(world, *range(40))
        shop.refused.clear()
        await desk.dead.redrive(DeadLetterFilter(text='"n":1'), rate=2)  # 1 and 10 to 19
        await world.clock.rest()
        assert len(shop.billed) == 1
        for count in (3, 5, 7):
            await world.clock.advance(1)
            assert len(shop.billed) == count
        await world.clock.advance(2)
        assert len(shop.billed) == 11
        await desk.dead.redrive(rate=100)
        await world.clock.rest()
        assert len(shop.billed) == 21
        await world.clock.advance(0.2)
        assert len(shop.billed) == 40


async def test_a_rate_limited_redrive_goes_on_after_a_restart(tmp_path: Path) -> None:
    """Which ones, at what rate and how far: all of it is in the store, nothing goes twice."""
    shop = Shop()
    shop.refused = set(range(6))
    clock = VirtualClock()
    async with running(tmp_path, *shop.services, clock=clock) as world:
        await order(world, *range(6))
        shop.refused.clear()
        job = await desk_of(world).dead.redrive(rate=1)
        await clock.advance(2)
        assert len(shop.billed) == 3
    await clock.jump(3_600)
    async with running(tmp_path, *shop.services, clock=clock) as world:
        desk = desk_of(world)
        assert len(shop.billed) <= 4  # the time that it was down earns nothing
        job = await finish(world, desk, job)
        assert (job.state, job.succeeded) == ("done", 6)
        assert sorted(shop.billed) == [(f"c{n}", n) for n in range(6)]


async def test_the_others_follow_a_canary_that_succeeds(tmp_path: Path) -> None:
    """One goes first; while its outcome is open nothing else does, and a retry keeps it open."""
    shop = Shop(TWICE)
    shop.failing = {1, 2, 3}
    async with running(tmp_path, *shop.services) as world:
        desk = desk_of(world)
        await order(world, 1, 2, 3)
        await world.clock.advance(11)
        job = await desk.dead.redrive(canary=True)
        await world.clock.advance(5)
        job = await desk.dead.job(job.id)
        assert (job.state, job.waiting, job.pending) == ("canary", 2, 1)
        shop.failing.clear()
        job = await finish(world, desk, job)
        assert (job.state, job.succeeded) == ("done", 3)
        assert shop.billed[0] == ("c1", 1)


async def test_a_canary_that_dies_again_stops_the_rest(tmp_path: Path) -> None:
    """The others stay dead letters, untouched, and the reason is told."""
    shop = Shop()
    shop.failing = {1, 2, 3}
    async with running(tmp_path, *shop.services) as world:
        desk = desk_of(world)
        ids = await order(world, 1, 2, 3)
        job = await finish(world, desk, await desk.dead.redrive(canary=True))
        assert (job.state, job.reason, job.failed, job.waiting) == ("stopped", "the canary failed again", 1, 2)
        assert len(shop.started) == 4
        assert len((await desk.dead.show(ids[1])).history) == 1


@pytest.mark.parametrize("retry", [ONCE, TWICE], ids=["dies", "is tried again"])
async def test_too_many_failures_stop_a_redrive(tmp_path: Path, retry: Retry) -> None:
    """At a share of failures among at least so many outcomes it ends; a first failed attempt is a failure."""
    shop = Shop(retry)
    shop.refused = set(range(40))
    async with running(tmp_path, *shop.services) as world:
        desk = desk_of(world)
        await order(world, *range(40))
        assert len(await desk.dead.list()) == 40
        shop.refused, shop.failing = set(), set(range(2, 40, 4))
        job = await desk.dead.redrive(rate=5, stop_share=0.2, stop_after=10)
        job = await finish(world, desk, job)
        assert job.state == "stopped"
        assert job.reason == f"2 of 10 failed again; {job.waiting} have not gone"
        assert job.waiting == 30


async def test_without_a_rate_a_stop_share_still_stops(tmp_path: Path) -> None:
    """No more are on their way untried than a window of them."""
    shop = Shop()
    shop.refused = set(range(400))
    async with running(tmp_path, *shop.services) as world:
        desk = desk_of(world)
        await order(world, *range(400))
        assert len(shop.started) == 400
        job = await finish(world, desk, await desk.dead.redrive(stop_share=0.5))
        assert job.state == "stopped"
        assert job.waiting >= 200


async def test_a_redrive_can_be_cancelled(tmp_path: Path) -> None:
    """What has not gone stays; outcomes of what has are still counted."""
    shop = Shop()
    shop.refused = set(range(5))
    async with running(tmp_path, *shop.services) as world:
        desk = desk_of(world)
        await order(world, *range(5))
        shop.refused.clear()
        job = await desk.dead.redrive(rate=1)
        await world.clock.advance(1)
        job = await desk.dead.cancel(job.id[:34])
        await world.clock.advance(10)
        job = await desk.dead.job(job.id)
        assert (job.state, job.waiting, job.succeeded, job.pending) == ("cancelled", 3, 2, 0)
        assert (await desk.dead.cancel(job.id)).state == "cancelled"


@pytest.mark.parametrize("options", [{"rate": 0}, {"stop_share": 0}, {"stop_share": 1.5}, {"stop_after": 0}])
async def test_options_without_sense_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    """The option is named; archived dead letters are no set to redrive."""
    async with running(tmp_path, *Shop().services) as world:
        dead = desk_of(world).dead
        with pytest.raises(AntiphonError, match=next(iter(options))):
            await dead.redrive(**options)
        with pytest.raises(AntiphonError, match="archived"):
            await dead.redrive(DeadLetterFilter(archived=True))


async def test_two_people_cannot_redrive_one_twice(tmp_path: Path) -> None:
    """Two redrives of the same set, and one by hand: each event takes effect once."""
    shop = Shop()
    shop.failing = {1, 2, 3}
    async with running(tmp_path, *shop.services) as world:
        desk = desk_of(world)
        ids = await order(world, 1, 2, 3)
        shop.failing.clear()
        first, second, _ = await asyncio.gather(desk.dead.redrive(), desk.dead.redrive(), desk.dead.redrive_one(ids[1]))
        await world.clock.advance(5)
        jobs = [await desk.dead.job(job.id) for job in (first, second)]
        assert sum(job.succeeded for job in jobs) == 2
        assert sum(job.skipped for job in jobs) == 4
        assert sorted(shop.billed) == [("c1", 1), ("c2", 2), ("c3", 3)]


async def test_several_processes_advance_a_redrive_as_one(tmp_path: Path) -> None:
    """However many redrivers look at the same moment, no more go than the rate allows."""
    shop = Shop()
    shop.refused = set(range(9))
    async with running(tmp_path, *shop.services) as world:
        desk = desk_of(world)
        await order(world, *range(9))
        shop.refused.clear()
        job = await desk.dead.redrive(rate=1)
        for count in (1, 2, 3):
            waits = await asyncio.gather(*(advance(world.store) for _ in range(5)))
            await world.clock.rest()
            assert len(shop.billed) == count
            assert all(wait is not None and wait <= 1_000 for wait in waits)
            await world.clock.advance(1)
        assert (await finish(world, desk, job)).succeeded == 9


async def test_a_killer_that_is_redriven_runs_alone_again(tmp_path: Path) -> None:
    """What had killed its process stays a suspect, so that no bystander is taken with it."""
    shop = Shop()
    shop.failing = {1}
    async with running(tmp_path, *shop.services, only=["shop", "billing"]) as world:
        (event_id,) = await order(world, 1)
        async with world.store.unit() as unit:
            await unit.execute("UPDATE antiphon_deliveries SET crashes = 3 WHERE status = 'FAILED'")
        await world.runtime._stewards[0].stop(0)
        await desk_of(world).dead.redrive_one(event_id)
        assert await world.rows("SELECT status, suspect, crashes, attempts FROM antiphon_deliveries") == [
            ("UNPROCESSED", 1, 0, 0)
        ]
