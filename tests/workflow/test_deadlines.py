"""The deadline of what begins a run is the run's: no work is begun after it, and what undoes is."""

from __future__ import annotations

from pathlib import Path

import pytest

from antiphon import Command, Event, Refused, Retry, Service, StepFailed, Transaction, Workflow, seconds
from antiphon.errors import ChildFailed
from tests.runtime.kit import World, running

pytestmark = pytest.mark.anyio

TABLES = "CREATE TABLE IF NOT EXISTS effects (n INTEGER PRIMARY KEY, what TEXT NOT NULL);"


class Begun(Event, key="id"):
    """Begins a run."""

    id: str


class Nested(Event, key="id"):
    """Begins a child."""

    id: str


class Told(Event, key="id"):
    """Published by a step."""

    id: str
    what: str


class Over(Event, key="id"):
    """What a run returns."""

    id: str
    how: str


class Kept(Event, key="id"):
    """An answer."""

    id: str


class Keep(Command[Kept], key="id", to="depot"):
    """Asks for something."""

    id: str


class GiveBack(Command[Kept], key="id", to="depot"):
    """Takes it back."""

    id: str


async def note(what: str, tx: Transaction) -> None:
    """An effect, and an event that says so."""
    await tx.execute("INSERT INTO effects (what) VALUES (?)", what)
    tx.publish(Told("t", what))


def desk() -> Service:
    """A service whose workflow does something, sleeps past its deadline, and tries something else."""
    made = Service("desk", tables=TABLES)

    @made.workflow(publishes=(Told,))
    async def nested(begun: Nested, wf: Workflow) -> None:
        await wf.step(note, "nested", undo=note)

    @made.workflow(starts=Begun, publishes=(Told, Keep, GiveBack), awaits=(Kept, Refused), retry=Retry(attempts=2))
    async def process(begun: Begun, wf: Workflow) -> Over:
        await wf.step(note, "early", undo=note)
        await wf.request(Keep(begun.id), Kept, undo=GiveBack(begun.id))
        await wf.sleep(seconds(20))
        try:
            await wf.child(nested, Nested(begun.id))
        except ChildFailed:
            try:
                await wf.step(note, "late")
            except StepFailed as error:
                await wf.compensate("too late")
                await wf.step(note, "told")
                return Over(begun.id, error.error_type)
        return Over(begun.id, "in time")

    return made


def depot(handled: list[str]) -> Service:
    """The service that is asked, and told of the end."""
    made = Service("depot")

    @made.on(Keep, GiveBack)
    async def serve(asked: Keep | GiveBack) -> Kept:
        handled.append(type(asked).__name__)
        return Kept(asked.id)

    @made.on(Over)
    async def hear(over: Over) -> None:
        handled.append(over.how)

    return made


async def begin(world: World, within_s: int) -> int:
    """Publish what begins the run, with a deadline; returns it."""
    async with world.runtime.transaction("desk") as tx:
        tx.publish(Begun("a"), within=seconds(within_s))
    await world.clock.rest()
    ((deadline,),) = await world.rows("SELECT deadline_ms FROM antiphon_log WHERE type = 'Begun'")
    return int(str(deadline))


async def test_no_step_is_begun_after_the_deadline(tmp_path: Path) -> None:
    """Neither the run's nor its child's; what was done is undone however late."""
    handled: list[str] = []
    async with running(tmp_path, desk(), depot(handled)) as world:
        deadline = await begin(world, 10)
        await world.clock.advance(40)
        assert [what for (what,) in await world.rows("SELECT what FROM effects ORDER BY n")] == [
            "early",
            "early",
            "told",
        ]
        states = await world.rows("SELECT workflow, state, error FROM antiphon_runs ORDER BY nr")
        assert [state[:2] for state in states] == [("desk.process", "COMPENSATED"), ("desk.nested", "FAILED")]
        assert "deadline passed" in str(states[1][2])
        assert handled == ["Keep", "GiveBack", "DeadlinePassed"]
        sent = await world.rows(
            "SELECT type, deadline_ms FROM antiphon_log WHERE type IN ('Told', 'Keep', 'GiveBack', 'Over') ORDER BY seq"
        )
        assert sent == [
            ("Told", deadline),
            ("Keep", deadline),
            ("GiveBack", None),
            ("Told", None),
            ("Told", None),
            ("Over", None),
        ]
        assert await world.rows("SELECT * FROM antiphon_dead_letters") == []


async def test_what_is_in_time_is_as_ever(tmp_path: Path) -> None:
    """The deadline goes with what the run publishes, in its first turn and in the later ones."""
    handled: list[str] = []
    async with running(tmp_path, desk(), depot(handled)) as world:
        deadline = await begin(world, 60)
        await world.clock.advance(40)
        assert handled == ["Keep", "in time"]
        sent = await world.rows("SELECT DISTINCT deadline_ms FROM antiphon_log WHERE type IN ('Told', 'Keep', 'Over')")
        assert sent == [(deadline,)]
        assert await world.rows("SELECT state FROM antiphon_runs") == [("COMPLETED",), ("COMPLETED",)]
