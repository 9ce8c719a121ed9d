"""Dead letters: found, grouped, shown, redriven one by one or many at a time, edited, archived."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import msgspec
import pytest

from antiphon import Event, InvalidEvent, Retry, Service, Status
from antiphon.errors import AntiphonError, NotFound
from antiphon.model.envelope import Envelope
from antiphon.model.events import event_type_of
from antiphon.model.views import DeadLetterFilter, RedriveJob
from antiphon.ports import PUBLISHED
from antiphon.store.sqlite.desk import Desk
from antiphon.store.sqlite.redrives import advance
from antiphon.testing.clock import VirtualClock
from tests.runtime.kit import World, running
from tests.store.shops import ONCE, TWICE, Ordered, Shop, order, statuses

pytestmark = pytest.mark.anyio

TYPES = {"Ordered": event_type_of(Ordered)}


def desk_of(world: World) -> Desk:
    """A desk that knows the app's event types."""
    return Desk(world.store, TYPES)


async def finish(world: World, desk: Desk, job: RedriveJob, seconds: float = 60) -> RedriveJob:
    """The job when it is over, in virtual time."""
    for _ in range(round(seconds * 4)):
        job = await desk.dead.job(job.id)
        if job.over:
            return job
        await world.clock.advance(0.25)
    return job


# ---------------------------------------------------------------------- looking


async def test_each_filter_narrows_the_list(tmp_path: Path) -> None:
    """By handler, type, group, status, time and text; the newest death comes first."""
    shop = Shop()
    shop.failing, shop.refused = {1, 2}, {3}
    async with running(tmp_path, *shop.services) as world:
        dead = desk_of(world).dead
        ids = await order(world, 1, 3, 4)
        await world.clock.advance(60)
        between = world.clock.now_ms()
        ids += await order(world, 2)
        found = await dead.list()
        assert [each.event_id for each in found] == [ids[3], *sorted(ids[:2], reverse=True)]
        assert {each.handler for each in found} == {"billing.bill"}
        assert [each.status for each in found] == [Status.FAILED, Status.ERROR, Status.FAILED]
        group = found[0].group

        async def numbers(**which: Any) -> set[str]:
            return {each.event_id for each in await dead.list(DeadLetterFilter(**which))}

        assert await numbers(handler="billing.bill") == {ids[0], ids[1], ids[3]}
        assert await numbers(handler="audit.note") == set()
        assert await numbers(type="Ordered", status=Status.ERROR) == {ids[1]}
        assert await numbers(type="Billed") == set()
        assert await numbers(group=group) == {ids[0], ids[3]} == await numbers(group=group[:4])
        assert await numbers(since_ms=between) == {ids[3]}
        assert await numbers(until_ms=between - 1) == {ids[0], ids[1]}
        assert await numbers(text="CARD FOR 2") == {ids[3]}
        assert await numbers(text='"n":1') == {ids[0]}
        assert await numbers(text="not ours") == {ids[1]}
        assert await numbers(text="100%") == set()
        assert [each.event_id for each in await dead.list(limit=1, offset=1)] == [found[1].event_id]


async def test_groups_are_by_failure(tmp_path: Path) -> None:
    """Equal failures are one group with its count, handlers, times and an example; the largest comes first."""
    shop = Shop()
    shop.failing, shop.refused = {1, 2, 3}, {9}
    async with running(tmp_path, *shop.services) as world:
        dead = desk_of(world).dead
        ids = await order(world, 1, 2, 9)
        await world.clock.advance(5)
        ids += await order(world, 3)
        first, second = await dead.groups()
        assert (first.count, first.handlers, first.example) == (3, ("billing.bill",), ids[3])
        assert first.last_ms - first.first_ms == 5_000
        assert first.label.startswith("RuntimeError in ")
        assert first.label.endswith(": no card for #")
        assert (second.count, second.label.split(" ")[0]) == (1, "Reject")
        assert await dead.groups(DeadLetterFilter(group=second.group)) == [second]
        assert (await dead.list(DeadLetterFilter(group=first.group)))[0].group == first.group


async def test_one_is_shown_whole(tmp_path: Path) -> None:
    """Event, data, error, traceback and every attempt with its time; by the beginning of its id too."""
    shop = Shop(TWICE)
    shop.failing = {7}
    async with running(tmp_path, *shop.services) as world:
        dead = desk_of(world).dead
        (event_id,) = await order(world, 7)
        await world.clock.advance(11)
        for name in (event_id, event_id[:30]):
            shown = await dead.show(name)
            assert shown.event.data == {"customer": "c7", "n": 7}
            assert shown.letter.attempts == 2
            assert shown.letter.reason == "gave up after 2 attempts in 10 s: RuntimeError: no card for 7"
            assert "RuntimeError: no card for 7" in (shown.traceback or "")
            assert [(each.number, each.outcome) for each in shown.history] == [(1, "failed"), (2, "failed")]
            assert shown.history[1].at_ms - shown.history[0].at_ms == 10_000
            assert "in bill" in (shown.history[0].traceback or "")
        assert msgspec.json.decode(msgspec.json.encode(shown))["event"]["data"]["n"] == 7


async def test_what_is_no_dead_letter_is_not_found(tmp_path: Path) -> None:
    """An unknown id, a handled event, another handler's: each is said."""
    shop = Shop()
    shop.failing = {1}
    async with running(tmp_path, *shop.services) as world:
        dead = desk_of(world).dead
        died, handled = await order(world, 1, 2)
        with pytest.raises(NotFound, match="no event has"):
            await dead.show("zzz")
        with pytest.raises(NotFound, match="no dead letter for any handler"):
            await dead.show(handled)
        with pytest.raises(NotFound, match=r"no dead letter for audit\.note"):
            await dead.show(died, "audit.note")
        with pytest.raises(NotFound, match="several events begin"):
            await dead.show(died[:8])
        with pytest.raises(NotFound, match="no redrive begins"):
            await dead.job("nothing")


async def test_an_event_that_is_dead_twice_needs_its_handler(tmp_path: Path) -> None:
    """Where two handlers have given up on one event, the handler is asked for, by name."""
    service = Service("both")
    seen: list[str] = []

    @service.on(Ordered, retry=ONCE)
    async def one(event: Ordered) -> None:
        seen.append("one")
        raise RuntimeError("one")

    @service.on(Ordered, retry=ONCE)
    async def two(event: Ordered) -> None:
        raise RuntimeError("two")

    async with running(tmp_path, Service("shop"), service) as world:
        dead = desk_of(world).dead
        (event_id,) = await order(world, 1)
        with pytest.raises(NotFound, match=r"Name one of both\.one, both\.two"):
            await dead.redrive_one(event_id)
        await dead.redrive_one(event_id, "both.one")
        await world.clock.rest()
        assert seen == ["one", "one"]
        assert (await dead.show(event_id, "both.two")).letter.message == "two"


async def test_raw_bytes_are_kept(tmp_path: Path) -> None:
    """Data that is no JSON is dead at once, and shown with its bytes, in base64 and to read."""
    shop = Shop()
    raw = b'{"customer": "c\xff", "n": 1'
    async with running(tmp_path, *shop.services) as world:
        now = world.clock.now_ms()
        envelope = Envelope("bad-1", "Ordered", 1, "c", "shop", now, raw, "bad-1")
        async with world.store.unit() as unit:
            await unit.append([(envelope, PUBLISHED)])
        await world.clock.rest()
        shown = await desk_of(world).dead.show("bad-1", "billing.bill")
        assert shown.letter.status is Status.ERROR
        assert shown.event.data is None
        assert shown.event.raw is not None
        assert base64.b64decode(shown.event.raw.base64) == raw
        assert shown.event.raw.text == repr(raw)
        assert "UTF-8" in shown.event.raw.why


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


# ---------------------------------------------------------------------- editing


async def test_an_edited_event_goes_to_the_failing_handler_alone(tmp_path: Path) -> None:
    """A new event, caused by the original, keyed anew; no other handler of its type sees it."""
    shop = Shop()
    shop.failing = {1}
    async with running(tmp_path, *shop.services) as world:
        desk = desk_of(world)
        (original,) = await order(world, 1)
        noted = list(shop.noted)
        edited = await desk.dead.edit(original, b'{"customer": "other", "n": 100}')
        await world.clock.rest()
        assert shop.billed == [("other", 100)]
        assert shop.noted == [*noted, ("Billed", 100)]
        assert (edited.causation_id, edited.correlation_id) == (original, original)
        assert (edited.key, edited.only_for, edited.origin) == ("other", "billing.bill", "internal")
        assert await statuses(desk, edited.id) == {"billing.bill": "COMPLETED"}
        shown = await desk.dead.show(original)
        assert shown.letter.archived == f"edited as {edited.id}"
        assert [(each.outcome, each.message) for each in shown.history[1:]] == [("edited", edited.id)]
        assert await desk.dead.list() == []
        assert [each.event_id for each in await desk.dead.list(DeadLetterFilter(archived=True))] == [original]
        trace = await desk.trace(original)
        assert [(node.depth, node.event.type) for node in trace.nodes] == [
            (0, "Ordered"),
            (1, "Ordered"),
            (2, "Billed"),
        ]
        rows = await world.rows("SELECT HANDLER FROM antiphon_events WHERE EVENT_ID = ?", edited.id)
        assert rows == [("billing.bill",)]
        assert [(each.handler, each.lag) for each in await desk.status()] == [("audit.note", 0), ("billing.bill", 0)]


async def test_an_edit_that_breaks_the_contract_changes_nothing(tmp_path: Path) -> None:
    """The field and the reason are told; the dead letter is as it was. Unknown types are checked as JSON."""
    shop = Shop()
    shop.failing = {1}
    async with running(tmp_path, *shop.services) as world:
        (event_id,) = await order(world, 1)
        for desk, data, field in (
            (desk_of(world), b'{"customer": "c"}', r"\$\.n: "),
            (desk_of(world), b'{"customer": "c", "n": "x"}', r"\$\.n: "),
            (desk_of(world), b'{"customer": "", "n": 1}', r"\$\.customer: "),
            (desk_of(world), b"{", r"\$: not JSON"),
            (Desk(world.store), b'{"a": 1, "a": 2}', r"\$\.a: this key occurs twice"),
        ):
            with pytest.raises(InvalidEvent, match=field):
                await desk.dead.edit(event_id, data)
        assert [each.event_id for each in await desk_of(world).dead.list()] == [event_id]
        assert world.store.head() == 1
        # Without the app's classes any JSON will do, under the old key; the handler has the last word.
        edited = await Desk(world.store).dead.edit(event_id, b'{"customer": 5}')
        await world.clock.rest()
        assert edited.key == "c1"
        (letter,) = await desk_of(world).dead.list()
        assert (letter.event_id, letter.status) == (edited.id, Status.ERROR)


async def test_an_edited_event_keeps_the_order_of_its_key(tmp_path: Path) -> None:
    """It comes after what was published before it, and before what comes later."""
    shop = Shop(TWICE)
    shop.refused = {1}
    shop.failing = {2}
    async with running(tmp_path, *shop.services) as world:
        desk = desk_of(world)
        first, _, _ = await order(world, 1, 2, 3, customer="k")
        await desk.dead.edit(first, b'{"customer": "k", "n": 11}')
        await order(world, 4, customer="k")
        assert shop.billed == []
        shop.failing.clear()
        await world.clock.advance(11)
        assert [n for _, n in shop.billed] == [2, 3, 11, 4]


async def test_an_edited_event_stays_in_its_store(tmp_path: Path) -> None:
    """With a file per service it is not sent to the bus: other services had the original."""
    shop = Shop()
    shop.failing = {1}
    async with running(tmp_path, *shop.services, own_stores=True) as world:
        desk = Desk(world.runtime.stores["billing"], TYPES)
        await order(world, 1)
        (letter,) = await desk.dead.list()
        edited = await desk.dead.edit(letter.event_id, b'{"customer": "c", "n": 2}')
        await world.clock.rest()
        assert shop.billed == [("c", 2)]
        assert [n for kind, n in shop.noted if kind == "Ordered"] == [1]
        assert world.runtime.bus is not None
        rows = await world.runtime.bus.store.fetch_all("SELECT 1 FROM antiphon_log WHERE id = ?", (edited.id,))
        assert rows == []


async def test_an_edited_event_outlives_a_restart(tmp_path: Path) -> None:
    """Edited while nothing runs, it is handled at the next start, once."""
    shop = Shop()
    shop.failing = {1}
    clock = VirtualClock()
    async with running(tmp_path, *shop.services, clock=clock) as world:
        await order(world, 1)
    async with running(tmp_path, *shop.services, only=["shop"], clock=clock) as world:
        desk = desk_of(world)
        (letter,) = await desk.dead.list()
        await desk.dead.edit(letter.event_id, b'{"customer": "c", "n": 2}')
        lags = {each.handler: each.lag for each in await desk.status()}
        assert lags == {"audit.note": 0, "billing.bill": 1}
    for _ in range(2):
        async with running(tmp_path, *shop.services, clock=clock):
            assert shop.billed == [("c", 2)]


# ---------------------------------------------------------------------- archiving


async def test_archived_ones_are_out_of_the_way(tmp_path: Path) -> None:
    """One, or all that match, with the reason; they are neither listed nor redriven, but can be looked at."""
    shop = Shop()
    shop.failing, shop.refused = {1, 2, 3}, {4}
    async with running(tmp_path, *shop.services) as world:
        desk = desk_of(world)
        ids = await order(world, 1, 2, 3, 4)
        assert (await desk.dead.archive_one(ids[3], "a test order")).archived is None
        with pytest.raises(AntiphonError, match="archived: a test order"):
            await desk.dead.redrive_one(ids[3])
        with pytest.raises(AntiphonError, match="archived"):
            await desk.dead.archive_one(ids[3], "again")
        group = (await desk.dead.groups())[0].group
        assert await desk.dead.archive(DeadLetterFilter(group=group), "duplicates") == 3
        assert await desk.dead.archive(DeadLetterFilter(group=group), "duplicates") == 0
        assert await desk.dead.list() == []
        assert (await desk.dead.plan()).count == 0
        archived = await desk.dead.list(DeadLetterFilter(archived=True))
        assert {each.archived for each in archived} == {"a test order", "duplicates"}
        assert (await desk.dead.show(ids[0])).history[-1].outcome == "archived"
        counts = next(each.counts for each in await desk.status() if each.handler == "billing.bill")
        assert (counts.dead, counts.archived) == (0, 4)


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
