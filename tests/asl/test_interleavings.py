"""Any machine, crashed at any moments, ends as it does without a crash, and has done everything once."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from antiphon import StateFailed, Transaction
from antiphon.testing.clock import VirtualClock
from tests.asl.kit import Begun, Ended, carrying, ended, noted
from tests.runtime.kit import running
from tests.workflow.test_interleavings import copy

RETRY = [{"ErrorEquals": ["Busy"], "IntervalSeconds": 1, "BackoffRate": 1, "MaxAttempts": 9, "JitterStrategy": "FULL"}]
KINDS = st.sampled_from(["pass", "task", "busy", "wait", "parallel", "map", "chance"])
PLANS: st.SearchStrategy[Any] = st.recursive(
    st.lists(st.tuples(KINDS, st.just([])), min_size=1, max_size=3),
    lambda inner: st.lists(st.tuples(KINDS, st.lists(inner, min_size=1, max_size=2)), min_size=1, max_size=3),
    max_leaves=6,
)
Plan = list[tuple[str, list[Any]]]


def machine(plan: Plan, names: Callable[[], str]) -> dict[str, Any]:
    """The branch that does what a plan says, one state after another; each hands its input on."""
    made = [(names(), kind, inner) for kind, inner in plan]
    states: dict[str, Any] = {}
    for number, (name, kind, inner) in enumerate(made):
        within = (inner or [[("task", [])]]) if kind in ("parallel", "map") else []
        branches = [machine(each, names) for each in within]
        following = {"Next": made[number + 1][0]} if number + 1 < len(made) else {"End": True}
        states[name] = {**state(name, kind, branches), **following}
    return {"StartAt": made[0][0], "States": states}


def state(name: str, kind: str, branches: list[dict[str, Any]]) -> dict[str, Any]:
    """A state of that sort."""
    told = {"state": name, "of.$": "$.of"}
    match kind:
        case "task" | "busy":
            return {"Type": "Task", "Resource": kind, "Parameters": told, "Retry": RETRY, "ResultPath": None}
        case "wait":
            return {"Type": "Wait", "SecondsPath": "$.s"}
        case "chance":
            return {"Type": "Pass", "Parameters": {"u.$": "States.UUID()"}, "ResultPath": "$.chance"}
        case "parallel":
            return {"Type": "Parallel", "Branches": branches, "ResultPath": None}
        case "map":
            items = {"of.$": "States.Format('{}.{}', $.of, $$.Map.Item.Index)", "s.$": "$$.Map.Item.Value"}
            return {
                "Type": "Map",
                "ItemsPath": "$$.Execution.Input.items",
                "ItemSelector": items,
                "ItemProcessor": branches[0],
                "MaxConcurrency": 2,
                "ResultPath": None,
            }
        case _:
            return {"Type": "Pass"}


async def play(
    folder: Path, definition: dict[str, Any], crashes: list[float], outside: bool
) -> tuple[Ended, list[Any]]:
    """Run it, crash so many seconds after each start, then bring it to its end; that, and what it has done."""
    clock, store = VirtualClock(), folder / "0"

    async def task(given: dict[str, str], tx: Transaction) -> None:
        if outside:
            await asyncio.sleep(0)
        await tx.execute("INSERT INTO effects (what) VALUES (?)", json.dumps(given, sort_keys=True))

    async def busy(given: dict[str, str], tx: Transaction) -> None:
        await task(given, tx)
        failed = "SELECT 1 FROM antiphon_journal WHERE name = ? AND mark = 'FAILED'"
        if len(await tx.fetch_all(failed, given["state"])) < 2:
            raise StateFailed("Busy")

    for number, crash in enumerate([*crashes, None]):
        async with running(store, carrying(definition, {"task": task, "busy": busy}), clock=clock) as world:
            if number == 0:
                await world.publish("work", Begun(input={"of": "", "s": 2, "items": [1, 0, 3]}))
            await clock.advance(900 if crash is None else crash, over_upkeep=crash is None)
            if crash is None:
                assert await world.rows("SELECT * FROM antiphon_dead_letters") == []
                return await ended(world), sorted(map(str, await noted(world)))
            store = folder / str(number + 1)
            store.mkdir()
            await world.store.writer.exclusive(partial(copy, target=store / "app.db"))
    raise AssertionError("unreachable")


@settings(max_examples=20)
@given(PLANS, st.lists(st.floats(0, 5), min_size=1, max_size=4), st.booleans())
def test_crashes_change_nothing_at_the_end(plan: Plan, crashes: list[float], outside: bool) -> None:
    """Tasks that fail and are tried again, waits, branches and items within each other; outside the batch or in it."""
    numbers = count()
    definition = machine(plan, lambda: f"S{next(numbers)}")
    with tempfile.TemporaryDirectory() as folder:
        plainly, effects = asyncio.run(play(Path(folder) / "plain", definition, [], outside))
        crashed, again = asyncio.run(play(Path(folder) / "crashed", definition, crashes, outside))
    assert (plainly.state, plainly.error) == ("COMPLETED", None)
    assert (crashed.state, crashed.error) == ("COMPLETED", None)
    assert effects == again
    assert len(set(effects)) == len(effects)
