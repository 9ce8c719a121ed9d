"""What a person does to a run: cancel, pause, resume, skip; and what a change of its code does."""

from pathlib import Path

import pytest

from antiphon import Service, Workflow, WorkflowCancelled, seconds
from antiphon.errors import NotFound
from antiphon.model.workflows import RUN_TRANSITIONS
from antiphon.testing.clock import VirtualClock
from tests.runtime.kit import World, running
from tests.workflow.orders import TABLES, Faults, OrderPlaced, Paid, shop
from tests.workflow.test_calls import Begun, Over, note, said

pytestmark = pytest.mark.anyio


async def act(world: World, service: Service, name: str, **options: str) -> None:
    """Do *name* to the run of order o1."""
    handle = service.workflows["fulfil"]
    async with world.runtime.transaction(service.name) as tx:
        assert await getattr(handle, name)(tx, key="o1", **options)
    await world.clock.rest()


async def standing(world: World) -> tuple[str, list[str]]:
    """The state of the one run, and what took effect."""
    ((state,),) = await world.rows("SELECT state FROM antiphon_runs")
    return str(state), [str(what) for (what,) in await world.rows("SELECT what FROM effects ORDER BY n")]


async def test_a_cancelled_run_is_undone(tmp_path: Path) -> None:
    """While it waits for the payment; the reservation is released."""
    service = shop()
    async with running(tmp_path, service) as world:
        await world.publish("orders", OrderPlaced("o1"))
        await act(world, service, "cancel", reason="changed my mind")
        assert await standing(world) == ("CANCELLED", ["reserve", "release"])
        assert await world.rows("SELECT cancelled FROM antiphon_runs") == [("changed my mind",)]
        assert await world.rows("SELECT * FROM antiphon_timers WHERE type LIKE 'antiphon.workflow%'") == []


async def test_the_function_may_hear_of_its_cancellation(tmp_path: Path) -> None:
    """It catches WorkflowCancelled, undoes what is done, and says so with an event."""
    work = Service("work", tables=TABLES)

    @work.workflow()
    async def long(begun: Begun, wf: Workflow) -> Over:
        await wf.step(note, "done", undo=note)
        try:
            await wf.sleep(seconds(60))
        except WorkflowCancelled:
            await wf.compensate("cancelled")
            return Over(begun.id, ["cancelled"])
        return Over(begun.id, [])

    async with running(tmp_path, work) as world:
        await world.publish("work", Begun("a"))
        async with world.runtime.transaction("work") as tx:
            assert await long.cancel(tx, key="a", reason="enough")
        await world.clock.rest()
        assert await said(world) == [["cancelled"]]
        assert await world.rows("SELECT state FROM antiphon_runs") == [("CANCELLED",)]


async def test_a_paused_run_stands_still_until_it_is_resumed(tmp_path: Path) -> None:
    """What arrives meanwhile is kept; its timers do not move it."""
    service = shop()
    async with running(tmp_path, service) as world:
        await world.publish("orders", OrderPlaced("o1"))
        await act(world, service, "pause", reason="look at it")
        await world.publish("orders", Paid("o1"))
        await world.clock.advance(70)
        assert await standing(world) == ("PAUSED", ["reserve"])
        await act(world, service, "resume")
        assert await standing(world) == ("WAITING", ["reserve", "charge"])


async def test_a_stuck_undo_is_resumed(tmp_path: Path) -> None:
    """Its attempts count anew, and the rest is undone after it."""
    service = shop(Faults(ship=3, refund=3))
    async with running(tmp_path, service) as world:
        await world.publish("orders", OrderPlaced("o1"), Paid("o1"))
        await world.clock.advance(60)
        assert (await standing(world))[0] == "STUCK"
        await act(world, service, "resume")
        assert await standing(world) == ("COMPENSATED", ["reserve", "charge", "refund", "release"])


async def test_a_stuck_undo_is_skipped_with_a_reason(tmp_path: Path) -> None:
    """The refund is left undone, which its record says; the rest is undone."""
    service = shop(Faults(ship=3, refund=3))
    async with running(tmp_path, service) as world:
        await world.publish("orders", OrderPlaced("o1"), Paid("o1"))
        await world.clock.advance(60)
        await act(world, service, "skip", reason="refunded by hand")
        assert await standing(world) == ("COMPENSATED", ["reserve", "charge", "release"])
        skipped = await world.rows("SELECT error FROM antiphon_journal WHERE mark = 'SKIPPED'")
        assert skipped == [("skipped: refunded by hand",)]


async def test_a_key_has_one_live_run(tmp_path: Path) -> None:
    """A second start of it is set aside as a dead letter that says why; after the end it begins a new run."""
    service = shop()
    async with running(tmp_path, service) as world:
        await world.publish("orders", OrderPlaced("o1"))
        await world.publish("orders", OrderPlaced("o1"))
        ((reason,),) = await world.rows("SELECT REASON FROM antiphon_dead_letters")
        assert "is not over" in str(reason)
        await act(world, service, "cancel", reason="again")
        await world.publish("orders", OrderPlaced("o1"))
        assert len(await world.rows("SELECT * FROM antiphon_runs")) == 2


async def test_a_run_that_goes_on_after_its_compensation_can_be_cancelled(tmp_path: Path) -> None:
    """What is undone is undone once; the wait that follows hears of the cancellation."""
    work = Service("work", tables=TABLES)

    @work.workflow()
    async def process(begun: Begun, wf: Workflow) -> Over:
        await wf.step(note, "done", undo=note)
        await wf.compensate("on second thought")
        await wf.signal("never")
        return Over(begun.id, [])

    async with running(tmp_path, work) as world:
        await world.publish("work", Begun("a"))
        async with world.runtime.transaction("work") as tx:
            await process.cancel(tx, "enough", key="a")
        await world.clock.rest()
        assert await world.rows("SELECT state FROM antiphon_runs") == [("CANCELLED",)]
        assert len(await world.rows("SELECT * FROM effects")) == 2


async def test_a_later_run_of_a_key_does_not_take_what_came_before_it(tmp_path: Path) -> None:
    """The payment of the first run is no payment of the second; nor is one that came between them."""
    service = shop()
    async with running(tmp_path, service) as world:
        await world.publish("orders", OrderPlaced("o1"))
        await world.publish("orders", Paid("o1"))
        await world.clock.advance(25)
        await world.publish("orders", Paid("o1"))
        await world.publish("orders", OrderPlaced("o1"))
        states = await world.rows("SELECT state, waiting FROM antiphon_runs ORDER BY nr")
        assert states == [("COMPLETED", None), ("WAITING", "wait Paid")]


async def test_who_is_not_there_cannot_be_signalled(tmp_path: Path) -> None:
    """NotFound names the workflow and the key."""
    service = shop()
    async with running(tmp_path, service) as world, world.runtime.transaction("orders") as tx:
        with pytest.raises(NotFound, match="o9"):
            await service.workflows["fulfil"].signal(tx, "hello", key="o9")


def worker(version: int) -> Service:
    """A service whose workflow has changed: 2 adds a step, 3 adds it behind a version branch, 4 drops one."""
    work = Service("work", tables=TABLES)

    @work.workflow()
    async def process(begun: Begun, wf: Workflow) -> Over:
        if version == 2 or (version == 3 and wf.version("check")):
            await wf.step(note, "check", name="check")
        if version != 4:
            await wf.step(note, "first", name="first")
        await wf.sleep(seconds(10))
        await wf.step(note, "second", name="second")
        return Over(begun.id, [version])

    return work


@pytest.mark.parametrize(("version", "state"), [(1, "COMPLETED"), (2, "STUCK"), (3, "COMPLETED"), (4, "STUCK")])
async def test_a_run_whose_code_has_changed_parks_or_goes_on(tmp_path: Path, version: int, state: str) -> None:
    """Code that does something else than the journal says leaves the run STUCK, never half wrong."""
    clock = VirtualClock()
    async with running(tmp_path, worker(1), clock=clock) as world:
        await world.publish("work", Begun("a"))
    async with running(tmp_path, worker(version), clock=clock) as world:
        await world.clock.advance(15)
        ((found, waiting),) = await world.rows("SELECT state, waiting FROM antiphon_runs")
        assert found == state, waiting
        assert await world.rows("SELECT what FROM effects WHERE what = 'check'") == []
        if state == "STUCK":
            assert "journal" in str(waiting)


async def test_a_parked_run_goes_on_when_the_code_is_mended(tmp_path: Path) -> None:
    """Resumed on code that fits, it ends as if nothing had been."""
    clock = VirtualClock()
    async with running(tmp_path, worker(1), clock=clock) as world:
        await world.publish("work", Begun("a"))
        await world.clock.advance(9)
    async with running(tmp_path, worker(2), clock=clock) as world:
        await world.clock.advance(15)
    service = worker(3)
    async with running(tmp_path, service, clock=clock) as world:
        async with world.runtime.transaction("work") as tx:
            assert await service.workflows["process"].resume(tx, key="a")
        await world.clock.advance(12)
        assert await world.rows("SELECT state FROM antiphon_runs") == [("COMPLETED",)]


async def test_runs_keep_the_version_that_they_began_with(tmp_path: Path) -> None:
    """Both versions stand in the code: an old run goes on with the old one, a new one begins with the new."""
    clock = VirtualClock()
    async with running(tmp_path, worker(1), clock=clock) as world:
        await world.publish("work", Begun("old"))
    work = worker(1)

    @work.workflow(version=2, name="process")
    async def newer(begun: Begun, wf: Workflow) -> Over:
        return Over(begun.id, ["newer"])

    async with running(tmp_path, work, clock=clock) as world:
        await world.publish("work", Begun("new"))
        await world.clock.advance(15)
        assert await said(world) == [["newer"], [1]]


def test_the_reference_tells_every_transition() -> None:
    """Each state has its row, with all that may follow it and why."""
    page = (Path(__file__).parents[2] / "docs" / "reference" / "workflows.md").read_text(encoding="utf-8")
    for state, following in RUN_TRANSITIONS.items():
        told = "; ".join(f"{after}: {why}" for after, why in following.items()) or "nothing"
        assert f"| {state} | {told} |" in page
