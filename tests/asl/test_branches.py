"""What runs in branches, and what a machine may take: Parallel, Map, the limits of the whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from antiphon import StateFailed, Transaction
from antiphon.runtime.workflow import machines
from tests.asl.kit import TASK, TOKEN_TASK, begun, done, ended, failed, note, noted, only, outcome, states

pytestmark = pytest.mark.anyio


# ---------------------------------------------------------------------- Parallel and Map


async def test_branches_run_beside_each_other(tmp_path: Path) -> None:
    """Each has a copy of the input and its own variables; the results are in their order."""
    branch = {"Wait": {"Type": "Wait", "SecondsPath": "$.s", "Next": "Echo"}, "Echo": {**TASK, "End": True}}
    parallel = {
        "Type": "Parallel",
        "Parameters": {"s.$": "$", "outer.$": "$v"},
        "Branches": [
            {"StartAt": "Wait", "States": branch},
            {
                "StartAt": "Own",
                "States": {
                    "Own": {"Type": "Pass", "Assign": {"v": 2}, "Next": "See"},
                    "See": {"Type": "Pass", "Parameters": {"v.$": "$v"}, "End": True},
                },
            },
        ],
        "ResultSelector": {"both.$": "$", "v.$": "$v"},
        "End": True,
    }
    definition = states("First", states={"First": {"Type": "Pass", "Assign": {"v": 1}, "Next": "P"}, "P": parallel})
    async with begun(tmp_path, definition, 20) as world:
        assert await world.rows("SELECT waiting FROM antiphon_runs") == [("sleep Wait",)]
        await world.clock.advance(21)
        assert await ended(world) == done({"both": [{"s": 20, "outer": 1}, {"v": 2}], "v": 1})


async def test_the_first_failed_branch_fails_them_all(tmp_path: Path) -> None:
    """What the others still wait for is dropped; a retry begins them all anew; the catcher gets the error."""
    fails: list[int] = []

    async def fail(_: Any) -> None:
        fails.append(1)
        raise StateFailed("Broken", str(len(fails)))

    parallel = {
        "Type": "Parallel",
        "Branches": [
            {"StartAt": "W", "States": {"W": {"Type": "Wait", "Seconds": 900, "End": True}}},
            {"StartAt": "F", "States": {"F": {"Type": "Task", "Resource": "fail", "End": True}}},
        ],
        "Retry": [{"ErrorEquals": ["Broken"], "IntervalSeconds": 10, "MaxAttempts": 1}],
        "Catch": [{"ErrorEquals": ["States.ALL"], "Next": "E"}],
        "Next": "E",
    }
    definition = states("P", states={"P": parallel, "E": {"Type": "Succeed"}})
    async with begun(tmp_path, definition, {}, {"fail": fail}) as world:
        assert await world.rows("SELECT waiting FROM antiphon_runs") == [("sleep P (retry 1)",)]
        await world.clock.advance(11)
        assert await ended(world) == done({"Error": "Broken", "Cause": "2"})


def mapping(**fields: Any) -> dict[str, Any]:
    """A Map over ``$.items``; *fields* are those of the state besides, ``task`` that of its one task."""
    task = {**TASK, "End": True, **fields.pop("task", {})}
    processor = {"StartAt": "Each", "States": {"Each": task}, **fields.pop("processor", {})}
    return {"Type": "Map", "ItemsPath": "$.items", "ItemProcessor": processor, **fields}


DISTRIBUTED = {"ProcessorConfig": {"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"}}


async def picky(given: Any, tx: Transaction) -> Any:
    """A task that refuses odd numbers."""
    if given % 2:
        raise StateFailed("Odd", str(given))
    return await note(given, tx)


@pytest.mark.parametrize(
    ("fields", "output"),
    [
        ({}, [0, 1, 2, 3]),
        ({"MaxConcurrency": 1}, [0, 1, 2, 3]),
        ({"ItemSelector": {"i.$": "$$.Map.Item.Index", "v.$": "$$.Map.Item.Value", "t.$": "$.t"}}, None),
        ({"ItemBatcher": {"MaxItemsPerBatch": 3, "BatchInput": {"t.$": "$.t"}}, "processor": DISTRIBUTED}, None),
        ({"ItemBatcher": {"MaxInputBytesPerBatch": 16}, "processor": DISTRIBUTED}, None),
        ({"ResultSelector": {"all.$": "$[*]"}, "ResultPath": "$.r", "OutputPath": "$.r.all[1:3]"}, [1, 2]),
    ],
)
async def test_a_map_works_on_each_item(tmp_path: Path, fields: dict[str, Any], output: Any) -> None:
    """Items as they are, selected with their index, or in batches; results in the order of the items."""
    got = await outcome(tmp_path, only(mapping(**fields)), {"items": [0, 1, 2, 3], "t": "T"})
    if "ItemSelector" in fields:
        output = [{"i": n, "v": n, "t": "T"} for n in range(4)]
    elif "MaxItemsPerBatch" in fields.get("ItemBatcher", {}):
        output = [{"BatchInput": {"t": "T"}, "Items": [0, 1, 2]}, {"BatchInput": {"t": "T"}, "Items": [3]}]
    elif "ItemBatcher" in fields:
        output = [{"Items": [0, 1]}, {"Items": [2, 3]}]
    assert got == done(output)


async def test_no_more_items_than_allowed_are_under_way(tmp_path: Path) -> None:
    """The next item begins when one has ended; the run goes on so over its waits."""
    processor = {
        "StartAt": "Tell",
        "States": {"Tell": {**TASK, "Next": "W"}, "W": {"Type": "Wait", "SecondsPath": "$", "End": True}},
    }
    definition = only({**mapping(MaxConcurrencyPath="$.n"), "ItemProcessor": processor})
    async with begun(tmp_path, definition, {"items": [30, 10, 10, 10, 1], "n": 2}) as world:
        assert await noted(world) == [30, 10]
        await world.clock.advance(11)
        assert await noted(world) == [30, 10, 10]
        await world.clock.advance(10)
        assert await noted(world) == [30, 10, 10, 10]
        await world.clock.advance(20)
        assert await noted(world) == [30, 10, 10, 10, 1]
        assert (await ended(world)).output == [30, 10, 10, 10, 1]


@pytest.mark.parametrize(
    ("fields", "items", "output"),
    [
        ({"ToleratedFailureCount": 2}, [0, 1, 2, 3], [0, 2]),
        ({"ToleratedFailureCountPath": "$.n"}, [0, 1, 2, 3], [0, 2]),
        ({"ToleratedFailurePercentage": 50}, [0, 1, 2, 3], [0, 2]),
        ({"ToleratedFailureCount": 1}, [0, 1, 2, 3], "States.ExceedToleratedFailureThreshold"),
        ({"ToleratedFailurePercentage": 49}, [0, 1, 2, 3], "States.ExceedToleratedFailureThreshold"),
        ({"ToleratedFailureCount": 0}, [0, 1], "States.ExceedToleratedFailureThreshold"),
        ({}, [0, 1], "Odd"),
    ],
)
async def test_so_many_items_may_fail(tmp_path: Path, fields: dict[str, Any], items: list[int], output: Any) -> None:
    """Their results are left out; one more, and the state fails with an error of its own."""
    definition = only(mapping(task={"Resource": "picky"}, processor=DISTRIBUTED, **fields))
    got = await outcome(tmp_path, definition, {"items": items, "n": 2}, {"picky": picky})
    if isinstance(output, str):
        assert got.state == "FAILED"
        assert str(got.error).startswith(f"StateFailed: {output}: ")
    else:
        assert got == done(output)


async def test_a_map_stops_at_its_first_failure(tmp_path: Path) -> None:
    """Items that have not begun do not begin any more."""
    definition = only(mapping(task={"Resource": "picky"}, MaxConcurrency=1))
    async with begun(tmp_path, definition, {"items": [0, 2, 1, 4]}, {"picky": picky}) as world:
        assert await ended(world) == failed("Odd: 1")
        assert await noted(world) == [0, 2]


async def test_a_map_of_no_items_has_no_results(tmp_path: Path) -> None:
    """An empty array is an empty result."""
    assert await outcome(tmp_path, only(mapping()), {"items": []}) == done([])


# ---------------------------------------------------------------------- the machine's own limits


@pytest.mark.parametrize(
    "inner", [{"Type": "Wait", "Seconds": 900}, {**TOKEN_TASK, "Resource": "note", "TimeoutSeconds": 900}]
)
async def test_a_machine_has_a_time_limit(tmp_path: Path, inner: dict[str, Any]) -> None:
    """TimeoutSeconds of the definition ends the run while it waits, and nothing catches it."""
    if "Resource" in inner:
        inner = {**inner, "Resource": "x.waitForTaskToken", "HeartbeatSeconds": 800}
    parallel = {
        "Type": "Parallel",
        "Branches": [{"StartAt": "In", "States": {"In": {**inner, "End": True}}}],
        "Catch": [{"ErrorEquals": ["States.ALL"], "Next": "E"}],
        "Next": "E",
    }
    definition = states("P", states={"P": parallel, "E": {"Type": "Succeed"}}, TimeoutSeconds=60)
    async with begun(tmp_path, definition, {}, {"x.waitForTaskToken": note}) as world:
        await world.clock.advance(59)
        assert (await ended(world)).state == "WAITING"
        await world.clock.advance(2)
        got = await ended(world)
        assert got.state == "FAILED"
        assert "States.Timeout: it has run longer than 60 s" in str(got.error)


async def test_a_loop_that_never_waits_comes_to_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lets others run now and then, which is recorded, and fails at the limit."""
    monkeypatch.setattr(machines, "MOST_STATES", 1_200)
    loop = {"A": {"Type": "Pass", "Next": "B"}, "B": {"Type": "Pass", "Next": "A"}, "C": {"Type": "Succeed"}}
    async with begun(tmp_path, states("A", states=loop), {}) as world:
        await world.clock.rest()
        assert await ended(world) == failed("States.Runtime: it has entered more than 1,200 states")
        assert await world.rows("SELECT name FROM antiphon_journal") == [("pause",)] * 2


async def test_what_a_failed_branch_has_cut_short_is_not_missed_later(tmp_path: Path) -> None:
    """Its records, of branches within branches too, are answered in every later turn."""
    waits = {"StartAt": "W", "States": {"W": {"Type": "Wait", "SecondsPath": "$", "End": True}}}
    parallel = {
        "Type": "Parallel",
        "Branches": [
            {"StartAt": "Soon", "States": {"Soon": {"Type": "Wait", "Seconds": 5, "Next": "F"}, "F": {"Type": "Fail"}}},
            {
                "StartAt": "M",
                "States": {"M": {"Type": "Map", "ItemsPath": "$.items", "ItemProcessor": waits, "End": True}},
            },
        ],
        "Catch": [{"ErrorEquals": ["States.ALL"], "Next": "Later"}],
        "Next": "Later",
    }
    later = {"Type": "Wait", "Seconds": 10, "Next": "E"}
    definition = states("P", states={"P": parallel, "Later": later, "E": {"Type": "Succeed"}})
    async with begun(tmp_path, definition, {"items": [2, 100, 3]}) as world:
        await world.clock.advance(16)
        assert await ended(world) == done({"Error": "", "Cause": ""})
