"""Runs small state machines on the durable engine, and says what became of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from antiphon import Event, Service, Transaction, Workflow
from antiphon.testing.clock import VirtualClock
from antiphon.workflow import MachineHandle
from tests.runtime.kit import World, running

JSONATA = {"QueryLanguage": "JSONata"}
TASK = {"Type": "Task", "Resource": "note"}
TOKEN_TASK = {
    "Type": "Task",
    "Resource": "hand_out.waitForTaskToken",
    "Parameters": {"token.$": "$$.Task.Token"},
    "HeartbeatSeconds": 100,
    "TimeoutSeconds": 250,
}
TABLES = "CREATE TABLE IF NOT EXISTS effects (n INTEGER PRIMARY KEY, what TEXT NOT NULL)"


class Begun(Event, key="id"):
    """Begins a run of the machine on *input*."""

    id: str = "a"
    input: Any = None


class Ended(NamedTuple):
    """What became of a run."""

    state: str
    output: Any
    error: str | None


def done(output: Any) -> Ended:
    """A run that has come to *output*."""
    return Ended("COMPLETED", output, None)


def failed(text: str) -> Ended:
    """A run that has failed so."""
    return Ended("FAILED", None, f"StateFailed: {text}.")


async def note(given: Any, tx: Transaction) -> Any:
    """A task that writes down what it is given, and returns it."""
    await tx.execute("INSERT INTO effects (what) VALUES (?)", json.dumps(given))
    return given


async def noted(world: World) -> list[Any]:
    """What `note` was given, in order."""
    return [json.loads(what) for (what,) in await world.rows("SELECT what FROM effects ORDER BY n")]


def states(start: str, /, **options: Any) -> dict[str, Any]:
    """A definition; the options whose names begin with a capital are fields of it, ``states`` are its states."""
    return {"StartAt": start, "States": options.pop("states"), **options}


def only(state: Mapping[str, Any], **options: Any) -> dict[str, Any]:
    """A definition of one state, named ``S``."""
    final = {} if state["Type"] in ("Succeed", "Fail", "Choice") else {"End": True}
    return {"StartAt": "S", "States": {"S": {**final, **state}}, **options}


def carrying(definition: Any, resources: Mapping[str, Any] | None = None, **options: Any) -> Service:
    """A service `work` with the machine `play`, whose tasks may call ``note``."""
    work = Service("work", tables=TABLES)
    machine = Workflow.from_asl(
        definition,
        name="play",
        starts=Begun,
        resources={"note": note, **(resources or {})},
        **{"input": lambda event: event.input, **options},
    )
    work.add(machine)
    return work


def machine_of(service: Service) -> MachineHandle:
    """The handle of its machine."""
    handle = service.workflows["play"]
    assert isinstance(handle, MachineHandle)
    return handle


@asynccontextmanager
async def begun(
    folder: Path, definition: Any, given: Any = None, resources: Mapping[str, Any] | None = None, **options: Any
) -> AsyncIterator[World]:
    """A world in which a run of the definition has begun on *given*."""
    async with running(folder, carrying(definition, resources, **options), clock=VirtualClock()) as world:
        await world.publish("work", Begun(input=given))
        yield world


async def ended(world: World) -> Ended:
    """What became of the run."""
    ((state, result, error),) = await world.rows("SELECT state, result, error FROM antiphon_runs")
    return Ended(str(state), json.loads(result)["value"] if result else None, error)


async def outcome(
    folder: Path, definition: Any, given: Any = None, resources: Mapping[str, Any] | None = None, **options: Any
) -> Ended:
    """What becomes of a run within an hour of virtual time."""
    async with begun(folder, definition, given, resources, **options) as world:
        await world.clock.advance(3600, over_upkeep=True)
        return await ended(world)


@asynccontextmanager
async def skipping() -> AsyncIterator[Callable[[float], None]]:
    """Makes the loop's own clock, which time limits of steps run on, jump by so many seconds."""
    loop = asyncio.get_running_loop()
    real, skipped = loop.time, [0.0]

    def jump(seconds: float) -> None:
        skipped[0] += seconds

    loop.time = lambda: real() + skipped[0]  # type: ignore[method-assign]
    try:
        yield jump
    finally:
        loop.time = real  # type: ignore[method-assign]
