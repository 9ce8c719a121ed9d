"""Code changed under running workflows: what fits goes on, what does not is stuck, and the check foretells which."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from antiphon import Service, Workflow, seconds
from antiphon.runtime.workflow.rehearsing import Finding, Fit, rehearse
from antiphon.store.runs import Runs
from antiphon.testing.clock import VirtualClock
from tests.runtime.kit import World, running
from tests.workflow.orders import TABLES
from tests.workflow.test_calls import Begun, Over, note

#: What a call of the function is: ``step a``, ``both a b`` (a gather), ``sleep``, ``new a`` (behind a version branch).
Program = tuple[str, ...]
NAMES = st.sampled_from("abcde")
CALLS = st.one_of(
    NAMES.map("step {}".format), st.tuples(NAMES, NAMES).map(lambda two: f"both {two[0]} {two[1]}"), st.just("sleep")
)
STEPS = st.lists(CALLS.filter(lambda call: call != "sleep"), max_size=4)


def service(program: Program) -> Service:
    """A service whose workflow makes these calls."""
    work = Service("work", tables=TABLES)

    @work.workflow()
    async def process(begun: Begun, wf: Workflow) -> Over:
        for number, call in enumerate(program):
            kind, *names = call.split()
            if kind == "sleep":
                await wf.sleep(seconds(10))
            elif kind == "both":
                await wf.gather(*(wf.step(note, name, name=name) for name in names))
            elif kind == "step" or wf.version(f"{names[0]} at {number}"):
                await wf.step(note, names[0], name=names[0])
        return Over(begun.id, [])

    return work


def effects_of(program: Program) -> list[str]:
    """What takes effect in a run that makes all of the calls."""
    return [name for call in program for name in call.split()[1:]]


async def standing(world: World) -> tuple[str, str | None, list[str]]:
    """The run's state, what it waits for, and what took effect."""
    ((state, waiting),) = await world.rows("SELECT state, waiting FROM antiphon_runs")
    return state, waiting, [what for (what,) in await world.rows("SELECT what FROM effects ORDER BY n")]


async def foretold(world: World, changed: Service) -> Finding:
    """What ``antiphon workflow check`` says of the run."""
    ((run, records),) = await Runs(world.store).live("work.process")
    return await rehearse(changed.workflows["process"].versions, run, records, world.store, world.clock)


@st.composite
def changes(draw: st.DrawFn) -> tuple[list[str], list[str], Program]:
    """What a run has done when it sleeps, what it has still to do, and the whole program after one change."""
    before, rest = draw(STEPS), draw(st.lists(CALLS, max_size=4))
    program = [*before, "sleep", *rest]
    place = draw(st.integers(0, len(program)))
    match draw(st.sampled_from(["insert", "guard", "delete", "replace", "swap"])):
        case "insert":
            program.insert(place, draw(CALLS))
        case "guard":
            program.insert(place, f"new {draw(NAMES)}")
        case "delete":
            del program[place : place + 1]
        case "replace":
            program[place : place + 1] = [draw(CALLS)]
        case "swap":
            program[place : place + 2] = reversed(program[place : place + 2])
    return before, rest, tuple(program)


@settings(max_examples=30, deadline=None)
@given(changes())
@example((["step a"], ["step b"], ("new c", "step a", "sleep", "step b")))
@example((["step a"], ["step b"], ("step a", "sleep", "new c", "step b")))
@example((["both a b"], [], ("both a b", "step a", "sleep")))
def test_a_run_fits_the_changed_code_or_is_stuck_and_can_go_back(change: tuple[list[str], list[str], Program]) -> None:
    """A change behind the place where a run waits is taken up, one before it leaves the run stuck with nothing done.

    One behind a version branch always fits. The check says the same before it happens, and a run that is stuck goes on
    with the code that it began with as if nothing had been.
    """
    before, rest, changed = change
    old = (*before, "sleep", *rest)
    gone_by = len(before) + 1
    is_guarded = any(call.startswith("new") for call in changed)
    guarded_before = any(call.startswith("new") for call in changed[:gone_by])
    fits = is_guarded or changed[:gone_by] == old[:gone_by]
    # A run that has passed a version branch does without it.
    wanted = [call for call in changed if not (guarded_before and call.startswith("new"))]

    async def play(data: Path) -> None:
        clock = VirtualClock()
        async with running(data, service(old), clock=clock) as world:
            await world.publish("work", Begun("a"))
            done = (await standing(world))[2]
            assert done == effects_of(tuple(before))
            told = await foretold(world, service(changed))
        assert (told.fit is Fit.COMPATIBLE) == fits, told
        async with running(data, service(changed), clock=clock) as world:
            await world.clock.advance(100)
            state, why, did = await standing(world)
            if fits:
                assert (state, did) == ("COMPLETED", effects_of(tuple(wanted)))
                return
            assert (state, why, did) == ("STUCK", told.why, done)
        original = service(old)
        async with running(data, original, clock=clock) as world:
            async with world.runtime.transaction("work") as tx:
                await original.workflows["process"].resume(tx, key="a")
            await world.clock.advance(100)
            assert await standing(world) == ("COMPLETED", None, effects_of(old))

    with tempfile.TemporaryDirectory(prefix="antiphon-changing-") as folder:
        asyncio.run(play(Path(folder)))
