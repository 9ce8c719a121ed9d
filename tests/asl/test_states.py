"""What each type of state does, in both query languages."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from antiphon import Effects, Event, Heartbeat, StateFailed, Transaction
from antiphon.runtime.workflow import machines
from tests.asl.kit import Begun, Ended, begun, carrying, ended, machine_of, note, noted, only, outcome, skipping, states
from tests.runtime.kit import running

pytestmark = pytest.mark.anyio

JSONATA = {"QueryLanguage": "JSONata"}
TASK = {"Type": "Task", "Resource": "note"}
ECHO = {"StartAt": "Echo", "States": {"Echo": {**TASK, "End": True}}}


def done(output: Any) -> Ended:
    """A run that has come to *output*."""
    return Ended("COMPLETED", output, None)


def failed(text: str) -> Ended:
    """A run that has failed so."""
    return Ended("FAILED", None, f"StateFailed: {text}.")


# ---------------------------------------------------------------------- Pass, Succeed, Fail


@pytest.mark.parametrize(
    ("state", "given", "output"),
    [
        ({"Type": "Pass"}, {"a": 1}, {"a": 1}),
        ({"Type": "Pass", "Result": {"b.$": 2}}, {"a": 1}, {"b.$": 2}),
        ({"Type": "Pass", "Result": 2, "ResultPath": "$.b.c"}, {"a": 1}, {"a": 1, "b": {"c": 2}}),
        ({"Type": "Pass", "Result": 2, "ResultPath": "$.l[1]"}, {"l": [0, 0]}, {"l": [0, 2]}),
        ({"Type": "Pass", "Result": 2, "ResultPath": None}, {"a": 1}, {"a": 1}),
        ({"Type": "Pass", "InputPath": "$.a", "Parameters": {"x.$": "$.b", "y": 3}}, {"a": {"b": 1}}, {"x": 1, "y": 3}),
        ({"Type": "Pass", "InputPath": None}, {"a": 1}, {}),
        ({"Type": "Pass", "OutputPath": None}, {"a": 1}, {}),
        ({"Type": "Pass", "OutputPath": "$.a"}, {"a": [1]}, [1]),
        ({"Type": "Pass", "InputPath": "$$.Execution.Input.a"}, {"a": 4}, 4),
        ({"Type": "Succeed", "InputPath": "$.a", "OutputPath": "$.b"}, {"a": {"b": 1}}, 1),
        ({"Type": "Pass", "Output": "{% $states.input.a + 1 %}", **JSONATA}, {"a": 1}, 2),
        (
            {"Type": "Pass", "Output": {"n": "{% $states.context.State.Name %}", "k": [1]}, **JSONATA},
            0,
            {"n": "S", "k": [1]},
        ),
        ({"Type": "Succeed", "Output": "{% $states.input.l[0] %}", **JSONATA}, {"l": [None]}, None),
    ],
)
async def test_data_passes_through_states_that_only_hand_on(
    tmp_path: Path, state: dict[str, Any], given: Any, output: Any
) -> None:
    """Input, result and output are chosen, shaped and merged as the fields say."""
    assert await outcome(tmp_path, only(state), given) == done(output)


@pytest.mark.parametrize(
    ("state", "given", "told"),
    [
        ({"Type": "Fail", "Error": "E", "Cause": "C"}, {}, "E: C"),
        (
            {"Type": "Fail", "ErrorPath": "$.e", "CausePath": "States.Format('no {}', $.c)"},
            {"e": "E", "c": 1},
            "E: no 1",
        ),
        ({"Type": "Fail", "Error": "{% 'E' & $states.input %}", **JSONATA}, 1, "E1"),
        ({"Type": "Fail"}, {}, "no error is named"),
    ],
)
async def test_a_fail_state_fails_the_run(tmp_path: Path, state: dict[str, Any], given: Any, told: str) -> None:
    """With its error and its cause, given as they are or by expressions."""
    assert await outcome(tmp_path, only(state), given) == failed(told)


@pytest.mark.parametrize(
    ("state", "given", "told"),
    [
        ({"Type": "Pass", "InputPath": "$.a"}, {}, "States.Runtime: Invalid path '$.a': it selects nothing"),
        ({"Type": "Pass", "InputPath": "$v"}, {}, "States.Runtime: Invalid path '$v': it selects nothing"),
        (
            {"Type": "Pass", "Result": 1, "ResultPath": "$.a.b"},
            {"a": 1},
            "States.ResultPathMatchFailure: there is no place for the result at 'b' in the state's input",
        ),
        (
            {"Type": "Pass", "Parameters": {"a.$": "States.ArrayGetItem($, 9)"}},
            [1],
            "States.IntrinsicFailure: States.ArrayGetItem failed: there is no item 9",
        ),
    ],
)
async def test_what_does_not_fit_the_data_fails(tmp_path: Path, state: dict[str, Any], given: Any, told: str) -> None:
    """With the error name that the language has for it, and what did not fit."""
    assert await outcome(tmp_path, only(state), given) == failed(told)


async def test_a_state_that_hands_on_too_much_fails(tmp_path: Path) -> None:
    """256 KiB is the limit, of what a state makes of it too."""
    doubling = {"Type": "Pass", "Parameters": {"a.$": "$", "b.$": "$"}}
    assert await outcome(tmp_path / "fits", only(doubling), "x" * 100_000) == done(
        {"a": "x" * 100_000, "b": "x" * 100_000}
    )
    told = (await outcome(tmp_path / "not", only(doubling), "x" * 200_000)).error
    assert "States.DataLimitExceeded: The state/task 'S' returned a result" in str(told)


# ---------------------------------------------------------------------- Choice


async def test_a_choice_without_a_match_and_default_fails(tmp_path: Path) -> None:
    """That is an error of its own, which says the state."""
    choice = {"Type": "Choice", "Choices": [{"Variable": "$.a", "IsNull": True, "Next": "End"}]}
    definition = states("S", states={"S": choice, "End": {"Type": "Succeed"}})
    told = "States.NoChoiceMatched: no rule of state 'S' holds, and it has no Default"
    assert await outcome(tmp_path, definition, {"a": 1}) == failed(told)


@pytest.mark.parametrize(("given", "path"), [(1, "one"), (2, "more"), (7, "rest")])
async def test_each_rule_of_a_choice_assigns_and_gives_its_own(tmp_path: Path, given: int, path: str) -> None:
    """In JSONata a rule has its Output and Assign; those of the state hold for the default."""
    choice = {
        "Type": "Choice",
        "Choices": [
            {"Condition": "{% $states.input = 1 %}", "Next": "E", "Assign": {"v": "one"}, "Output": 1},
            {"Condition": "{% $states.input < 3 %}", "Next": "E", "Assign": {"v": "more"}},
        ],
        "Default": "E",
        "Assign": {"v": "rest"},
        "Output": "{% 70 + $states.input %}",
    }
    definition = states(
        "S",
        states={"S": choice, "E": {"Type": "Succeed", "Output": ["{% $v %}", "{% $states.input %}"]}},
        QueryLanguage="JSONata",
    )
    assert await outcome(tmp_path, definition, given) == done([path, {1: 1, 2: 2, 7: 77}[given]])


async def test_variables_are_assigned_and_seen_later(tmp_path: Path) -> None:
    """In JSONPath a choice's rule, a task's result and what came before can be kept, and read anywhere after."""
    definition = states(
        "First",
        states={
            "First": {"Type": "Pass", "Assign": {"who.$": "$.name", "n": 1}, "Next": "Call"},
            "Call": {
                "Type": "Task",
                "Resource": "note",
                "Parameters": {"x": 5},
                "ResultSelector": {"y.$": "$.x"},
                "Assign": {"raw.$": "$.x", "n.$": "States.MathAdd($n, 1)"},
                "Next": "Which",
            },
            "Which": {
                "Type": "Choice",
                "Choices": [{"Variable": "$n", "NumericEquals": 2, "Assign": {"way": "two"}, "Next": "Last"}],
            },
            "Last": {
                "Type": "Pass",
                "Parameters": {"who.$": "$who", "raw.$": "$raw", "way.$": "$way", "y.$": "$.y"},
                "End": True,
            },
        },
    )
    assert await outcome(tmp_path, definition, {"name": "ann"}) == done({"who": "ann", "raw": 5, "way": "two", "y": 5})


# ---------------------------------------------------------------------- Wait


@pytest.mark.parametrize(
    ("state", "given", "seconds"),
    [
        ({"Type": "Wait", "Seconds": 30}, {}, 30),
        ({"Type": "Wait", "SecondsPath": "$.s"}, {"s": 40}, 40),
        ({"Type": "Wait", "Timestamp": "2026-01-01T00:00:50Z"}, {}, 50),
        ({"Type": "Wait", "TimestampPath": "$.t"}, {"t": "2026-01-01T01:01:00+01:00"}, 60),
        ({"Type": "Wait", "Timestamp": "2020-01-01T00:00:00Z"}, {}, 0),
        ({"Type": "Wait", "Seconds": "{% $states.input * 2 %}", **JSONATA}, 35, 70),
        ({"Type": "Wait", "Timestamp": "{% $states.input %}", **JSONATA}, "2026-01-01T00:00:20.500Z", 20.5),
    ],
)
async def test_a_wait_is_a_timer(tmp_path: Path, state: dict[str, Any], given: Any, seconds: float) -> None:
    """It ends when it is due, not before; the run is a row meanwhile, which says the state's name."""
    async with begun(tmp_path, only(state), given) as world:
        if seconds:
            await world.clock.advance(seconds - 1)
            assert await world.rows("SELECT state, waiting FROM antiphon_runs") == [("WAITING", "sleep S")]
        await world.clock.advance(1.1)
        assert await ended(world) == done(given)


async def test_what_is_new_each_time_is_recorded(tmp_path: Path) -> None:
    """When a state was entered, chance and UUIDs are the same when the run is answered from its journal."""
    asking = {"t.$": "$$.State.EnteredTime", "u.$": "States.UUID()", "r.$": "States.MathRandom(0, 1000000)"}
    jsonata = {"t": "{% $states.context.State.EnteredTime %}", "all": "{% $states.context %}", "r": "{% $random() %}"}
    definition = states(
        "Path",
        states={
            "Path": {"Type": "Pass", "Parameters": asking, "ResultPath": "$.path", "Next": "W1"},
            "W1": {"Type": "Wait", "Seconds": 10, "Next": "Jsonata"},
            "Jsonata": {
                "Type": "Pass",
                **JSONATA,
                "Output": {"path": "{% $states.input.path %}", **jsonata},
                "Next": "N",
            },
            "N": {"Type": "Task", "Resource": "note", "ResultPath": None, "Next": "W2"},
            "W2": {"Type": "Wait", "Seconds": 10, "End": True},
        },
    )
    async with begun(tmp_path, definition, {}) as world:
        await world.clock.advance(11)
        (first,) = await noted(world)
        await world.clock.advance(11)
        got = await ended(world)
        assert got == done(first)
        assert got.output["path"]["t"] == "2026-01-01T00:00:00.000Z"
        assert got.output["t"] == got.output["all"]["State"]["EnteredTime"] == "2026-01-01T00:00:10.000Z"
        assert got.output["all"]["Execution"]["Name"] == "a"


# ---------------------------------------------------------------------- Task


class Told(Event, key="id"):
    id: str
    n: int


async def test_a_function_takes_what_it_is_annotated_with(tmp_path: Path) -> None:
    """An event class, a plain value, nothing; a plain `def` runs in a thread. What does not fit fails."""

    async def typed(told: Told) -> Told:
        return Told(told.id, told.n + 1)

    def plainly(numbers: list[int]) -> int:
        return sum(numbers)

    async def nothing(tx: Transaction) -> int:
        return len(await tx.fetch_all("SELECT 1"))

    definition = states(
        "Typed",
        states={
            "Typed": {"Type": "Task", "Resource": "typed", "Next": "Plainly"},
            "Plainly": {
                "Type": "Task",
                "Resource": "plainly",
                "Parameters": {"a.$": "States.Array($.n, 5)"},
                "InputPath": "$",
                "Catch": [{"ErrorEquals": ["ValidationError"], "ResultPath": "$.e", "Next": "Again"}],
                "Next": "Again",
            },
            "Again": {
                "Type": "Task",
                "Resource": "plainly",
                "InputPath": "$.list",
                "ResultPath": "$.s",
                "Next": "None",
            },
            "None": {"Type": "Task", "Resource": "nothing", "ResultPath": "$.none", "End": True},
        },
    )
    definition["States"]["Typed"]["ResultSelector"] = {"n.$": "$.n", "list": [1, 2]}
    got = await outcome(
        tmp_path, definition, {"id": "x", "n": 1}, {"typed": typed, "plainly": plainly, "nothing": nothing}
    )
    error = got.output.pop("e")
    assert got == done({"n": 2, "list": [1, 2], "s": 3, "none": 1})
    assert error["Error"] == "ValidationError"


async def test_a_task_without_its_result_in_time_fails(tmp_path: Path) -> None:
    """TimeoutSeconds ends a function that awaits the outside; HeartbeatSeconds one that is not heard of."""
    waiting = asyncio.Event()

    async def slow(_: Any) -> None:
        waiting.set()
        await asyncio.Event().wait()

    wanted: list[tuple[dict[str, Any], str]] = [
        ({"TimeoutSeconds": 5}, "States.Timeout"),
        ({"TimeoutSecondsPath": "$.t"}, "States.Timeout"),
        ({"HeartbeatSecondsPath": "$.t"}, "States.HeartbeatTimeout"),
        ({"HeartbeatSeconds": "{% $states.input.t %}", **JSONATA}, "States.HeartbeatTimeout"),
    ]
    for number, (limits, error) in enumerate(wanted):
        waiting.clear()
        task = {"Type": "Task", "Resource": "slow", "Catch": [{"ErrorEquals": [error], "Next": "E"}], "Next": "E"}
        definition = states("S", states={"S": {**task, **limits}, "E": {"Type": "Succeed"}})
        async with (
            skipping() as skip,
            begun(tmp_path / str(number), definition, {"t": 5}, {"slow": slow}) as world,
        ):
            await waiting.wait()
            skip(5.1)
            await world.clock.rest()
            assert (await ended(world)).output["Error"] == error


async def test_a_heartbeat_keeps_a_task_alive(tmp_path: Path) -> None:
    """A function that says that it is at work has the time of HeartbeatSeconds anew."""
    steps = asyncio.Queue[bool]()

    async def busy(_: Any, heart: Heartbeat) -> str:
        while await steps.get():
            heart.beat()
        return "done"

    task = {"Type": "Task", "Resource": "busy", "HeartbeatSeconds": 5, "TimeoutSeconds": 60}
    async with skipping() as skip, begun(tmp_path, only(task), {}, {"busy": busy}) as world:
        for _ in range(3):
            skip(4)
            steps.put_nowait(True)
            await world.clock.rest()
        steps.put_nowait(False)
        await world.clock.rest()
        assert await ended(world) == done("done")


@pytest.mark.parametrize(
    ("task", "output"),
    [
        ({"Parameters": {"FunctionName": "arn:of:note", "Payload.$": "$.p"}}, {"StatusCode": 200, "Payload": 7}),
        ({"Arguments": {"FunctionName": "{% $states.input.f %}"}, **JSONATA}, {"StatusCode": 200, "Payload": {}}),
        (
            {"Parameters": {"FunctionName.$": "$.p"}, "Catch": [{"ErrorEquals": ["States.ALL"], "Next": "E"}]},
            {"Error": "Lambda.ResourceNotFoundException", "Cause": "there is no function 7"},
        ),
    ],
)
async def test_the_function_can_be_named_in_the_input(tmp_path: Path, task: dict[str, Any], output: Any) -> None:
    """As the service's own integration of Lambda has it, with its result around the function's."""
    state = {"Type": "Task", "Resource": "arn:aws:states:::lambda:invoke", "Next": "E", **task}
    definition = states("S", states={"S": state, "E": {"Type": "Succeed"}})
    got = await outcome(tmp_path, definition, {"p": 7, "f": "arn:of:note"}, {"arn:of:note": note})
    got.output.pop("ExecutedVersion", None)
    assert got == done(output)


async def test_a_task_calls_the_outside_once(tmp_path: Path) -> None:
    """A function with `Effects`: its call is recorded, and a retry of the task does not repeat it."""
    calls: list[str] = []
    failures = [RuntimeError("after the call")]

    async def pay(_: Any, effects: Effects) -> str:
        async def call(key: str) -> str:
            calls.append(key)
            return "paid"

        said: str = await effects.once("pay", call, effects.key("pay"))
        if failures:
            raise failures.pop()
        return said

    task = {"Type": "Task", "Resource": "pay", "Retry": [{"ErrorEquals": ["RuntimeError"]}]}
    assert await outcome(tmp_path, only(task), {}, {"pay": pay}) == done("paid")
    assert len(calls) == 1


async def test_an_error_of_a_function_has_its_class_for_a_name(tmp_path: Path) -> None:
    """A retrier for another error does not hold; the catcher gets name and text; the writes are gone."""

    async def breaks(given: Any, tx: Transaction) -> None:
        await note(given, tx)
        raise KeyError("no such thing")

    task = {
        "Type": "Task",
        "Resource": "breaks",
        "Retry": [{"ErrorEquals": ["States.Timeout"]}],
        "Catch": [{"ErrorEquals": ["States.TaskFailed"], "ResultPath": "$.why", "Next": "E"}],
        "Next": "E",
    }
    definition = states("S", states={"S": task, "E": {"Type": "Succeed"}})
    async with begun(tmp_path, definition, {"a": 1}, {"breaks": breaks}) as world:
        assert await ended(world) == done({"a": 1, "why": {"Error": "KeyError", "Cause": "'no such thing'"}})
        assert await noted(world) == []


# ---------------------------------------------------------------------- tasks that are answered later


TOKEN_TASK = {
    "Type": "Task",
    "Resource": "hand_out.waitForTaskToken",
    "Parameters": {"token.$": "$$.Task.Token"},
    "HeartbeatSeconds": 100,
    "TimeoutSeconds": 250,
}


async def test_a_task_with_a_token_ends_when_it_is_answered(tmp_path: Path) -> None:
    """Whoever has the token reports its success or failure in a transaction; heartbeats give it time, up to a limit."""
    tokens: list[str] = []

    async def hand_out(given: dict[str, str]) -> None:
        tokens.append(given["token"])

    service = carrying(only(TOKEN_TASK), {str(TOKEN_TASK["Resource"]): hand_out})
    machine = machine_of(service)
    async with running(tmp_path, service) as world:
        for name in ("good", "bad", "silent", "slow"):
            await world.publish("work", Begun(name))
        assert len(set(tokens)) == 4
        good, bad, _, slow = tokens
        async with world.runtime.transaction("work") as tx:
            await machine.succeed(tx, good, {"n": 1})
            await machine.fail(tx, bad, "Broken", "by hand")
        for _ in range(4):
            await world.clock.advance(60)
            async with world.runtime.transaction("work") as tx:
                await machine.beat(tx, slow)
        await world.clock.advance(20)
        found = await world.rows("SELECT key, state, result, error FROM antiphon_runs ORDER BY key")
        assert found == [
            ("bad", "FAILED", None, "StateFailed: Broken: by hand."),
            ("good", "COMPLETED", b'{"value":{"n":1},"type":null,"version":1}', None),
            ("silent", "FAILED", None, "StateFailed: States.HeartbeatTimeout."),
            ("slow", "FAILED", None, "StateFailed: States.Timeout."),
        ]


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


# ---------------------------------------------------------------------- retries


@pytest.mark.parametrize(
    ("retrier", "delays"),
    [
        ({"IntervalSeconds": 2, "MaxAttempts": 3}, [2, 4, 8]),
        ({}, [1, 2, 4]),
        ({"IntervalSeconds": 3, "BackoffRate": 1, "MaxAttempts": 2}, [3, 3]),
        ({"IntervalSeconds": 2, "BackoffRate": 10, "MaxDelaySeconds": 25, "MaxAttempts": 3}, [2, 20, 25]),
        ({"MaxAttempts": 0}, []),
    ],
)
async def test_a_retrier_waits_as_it_says(tmp_path: Path, retrier: dict[str, Any], delays: list[int]) -> None:
    """Interval, back-off and its limit; then the error is the run's."""
    begun_at: list[int] = []
    task = {"Type": "Task", "Resource": "fail", "Retry": [{"ErrorEquals": ["States.ALL"], **retrier}]}

    async def fail(_: Any) -> None:
        begun_at.append(world.clock.now_ms())
        raise StateFailed("Broken")

    service = carrying(only(task), {"fail": fail})
    async with running(tmp_path, service) as world:
        await world.publish("work", Begun())
        await world.clock.advance(120)
        between = [round((after - before) / 1000) for before, after in pairwise(begun_at)]
        assert between == delays
        assert await ended(world) == failed("Broken")


async def test_each_retrier_counts_for_itself_and_chance_is_recorded(tmp_path: Path) -> None:
    """Two errors with a retrier each; full jitter waits at most as long; the context object counts all retries."""
    errors = iter(["A", "B", "A", "B", "A"])
    seen: list[int] = []

    async def fail(given: dict[str, int]) -> str:
        seen.append(given["n"])
        raise StateFailed(next(errors))

    task = {
        "Type": "Task",
        "Resource": "fail",
        "Parameters": {"n.$": "$$.State.RetryCount"},
        "Retry": [
            {"ErrorEquals": ["A"], "MaxAttempts": 2, "IntervalSeconds": 60, "JitterStrategy": "FULL"},
            {"ErrorEquals": ["B"], "MaxAttempts": 2, "IntervalSeconds": 1},
        ],
    }
    assert await outcome(tmp_path, only(task), {}, {"fail": fail}) == failed("A")
    assert seen == [0, 1, 2, 3, 4]


async def test_nothing_catches_what_does_not_fit(tmp_path: Path) -> None:
    """States.Runtime ends the run, whatever catches all."""
    task = {
        **TASK,
        "Parameters": {"a.$": "$.none"},
        "Retry": [{"ErrorEquals": ["States.ALL"]}],
        "Catch": [{"ErrorEquals": ["States.ALL"], "Next": "E"}],
        "Next": "E",
    }
    definition = states("S", states={"S": task, "E": {"Type": "Succeed"}})
    assert str((await outcome(tmp_path, definition, {})).error).startswith("StateFailed: States.Runtime: ")


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
