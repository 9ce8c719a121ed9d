"""What the states do that call nothing, in both query languages: Pass, Succeed, Fail, Choice, Wait."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.asl.kit import JSONATA, begun, done, ended, failed, noted, only, outcome, states

pytestmark = pytest.mark.anyio


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
