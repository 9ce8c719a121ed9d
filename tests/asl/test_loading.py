"""Definitions that are refused, each with the place and the reason; and hostile ones."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from antiphon.errors import DeclarationError
from antiphon.policy.asl.loading import load
from tests.asl.kit import JSONATA, only, states

IS_NULL = {"Variable": "$", "IsNull": True}
SUCCEED = {"Type": "Succeed"}
TASK = {"Type": "Task", "Resource": "x"}
PASS = {"Type": "Pass", "End": True}
BRANCH = {"StartAt": "In", "States": {"In": PASS}}
MAP = {"Type": "Map", "ItemProcessor": BRANCH}
BIG: dict[str, Any] = states(
    "A",
    states={
        "A": {
            **TASK,
            "Parameters": {"n.$": "States.MathAdd($.n, 1)"},
            "Retry": [{"ErrorEquals": ["E"], "MaxDelaySeconds": 9, "JitterStrategy": "FULL"}],
            "Catch": [{"ErrorEquals": ["States.ALL"], "Next": "D", "ResultPath": "$.e"}],
            "TimeoutSeconds": 5,
            "HeartbeatSeconds": 3,
            "Next": "B",
        },
        "B": {**MAP, "ItemsPath": "$.l", "MaxConcurrency": 2, "ResultSelector": {"x.$": "$"}, "Next": "C"},
        "C": {
            "Type": "Choice",
            "Choices": [
                {
                    "And": [{"Variable": "$.a", "IsNull": True}, {"Not": {"Variable": "$.a", "IsString": True}}],
                    "Next": "D",
                }
            ],
            "Default": "D",
        },
        "D": {"Type": "Parallel", "Branches": [{"StartAt": "P", "States": {"P": SUCCEED}}], "End": True},
    },
)


def refusal(definition: Any) -> str:
    """Why a definition is refused."""
    with pytest.raises(DeclarationError) as told:
        load(definition)
    return str(told.value)


@pytest.mark.parametrize(
    ("definition", "place", "reason"),
    [
        ({}, "$.States", "it has to be an object with at least one state"),
        (states("X", states={"S": PASS}), "$.StartAt", "there is no state 'X' here"),
        (only({"Type": "Nap"}), "$.States.S.Type", "it is 'Nap'; it has to be one of Pass, Task"),
        (only({"Type": "Pass", "Inputpath": "$"}), "$.States.S.Inputpath", "a Pass state has no field Inputpath"),
        (only({"Type": "Pass", "Output": 1}), "$.States.S.Output", "Output is a field of the other query language"),
        (only({"Type": "Pass", "Next": "S"}), "$.States.S", "it needs either Next or End, and not both"),
        (states("S", states={"S": {"Type": "Pass", "Next": "T"}}), "$.States.S.Next", "there is no state 'T' here"),
        (states("S", states={"S": {"Type": "Pass", "Next": "S"}}), "$.States", "no state ends it"),
        (only({"Type": "Pass", "InputPath": "x"}), "$.States.S.InputPath", "'x' is no JSONPath"),
        (only({"Type": "Pass", "ResultPath": "$.a[*]"}), "$.States.S.ResultPath", "is no reference path"),
        (only({"Type": "Pass", "ResultPath": "$$.a"}), "$.States.S.ResultPath", "is no reference path"),
        (only({"Type": "Pass", "Parameters": {"a": [{"b.$": 1}]}}), "$.States.S.Parameters.a[0]", "it is no text"),
        (only({"Type": "Pass", "Parameters": {"a": 1, "a.$": "$"}}), '["a.$"]', "'a' is there twice"),
        (only({"Type": "Pass", "Assign": {"1x": 1}}), "$.States.S.Assign", "'1x' cannot name a variable"),
        (only({"Type": "Pass", "Assign": {"states": 1}}), "$.States.S.Assign.states", "cannot name a variable"),
        (only({**TASK, "Resource": "${Arn"}), "$.States.S.Resource", "it has to name a resource"),
        (only({**TASK, "Resource": 7}), "$.States.S.Resource", "it has to name a resource"),
        (only({**TASK, "TimeoutSeconds": 0}), "$.States.S.TimeoutSeconds", "it has to be an integer from 1"),
        (only({**TASK, "HeartbeatSeconds": 61}), "$.States.S.HeartbeatSeconds", "it has to be less than"),
        (only({**TASK, "TimeoutSeconds": 9, "TimeoutSecondsPath": "$.a"}), "SecondsPath", "is there already"),
        (only({**TASK, "Retry": [{"ErrorEquals": []}]}), "$.States.S.Retry[0].ErrorEquals", "at least one error name"),
        (only({**TASK, "Retry": [{"ErrorEquals": ["E"], "BackoffRate": 0.5}]}), "Rate", "a number from 1.0"),
        (only({**TASK, "Retry": [{"ErrorEquals": ["E"], "MaxAttempts": -1}]}), "Attempts", "an integer from 0"),
        (only({**TASK, "Retry": [{"ErrorEquals": ["E"], "X": 2}]}), "Retry[0].X", "there is no such field"),
        (only({**TASK, "Retry": [{"ErrorEquals": ["States.ALL", "E"]}]}), "ErrorEquals", "has to stand alone"),
        (
            only({**TASK, "Retry": [{"ErrorEquals": ["States.ALL"]}, {"ErrorEquals": ["E"]}]}),
            "$.States.S.Retry",
            "what comes after States.ALL is never reached",
        ),
        (only({"Type": "Wait"}), "$.States.S", "it needs one of Seconds"),
        (only({"Type": "Wait", "Timestamp": "tomorrow"}), "$.States.S.Timestamp", "a time with a zone"),
        (only({"Type": "Choice", "Choices": []}), "$.States.S.Choices", "at least one rule"),
        (
            only({"Type": "Choice", "Choices": [{"Variable": "$.a", "NumericEquals": "1", "Next": "S"}]}),
            "$.States.S.Choices[0].NumericEquals",
            "'1' is nothing that NumericEquals compares with",
        ),
        (
            only({"Type": "Choice", "Choices": [{"Variable": "$.a", "Equals": 1, "Next": "S"}]}),
            "$.States.S.Choices[0].Equals",
            "there is no operator Equals",
        ),
        (
            only(
                {"Type": "Choice", "Choices": [{"And": [{"Variable": "$", "IsNull": True, "Next": "S"}], "Next": "S"}]}
            ),
            "$.States.S.Choices[0].And[0]",
            "only the outermost rule has Next and Assign",
        ),
        (
            only({"Type": "Choice", **JSONATA, "Choices": [{"Condition": "yes", "Next": "S"}]}),
            "$.States.S.Choices[0].Condition",
            "it has to be an expression",
        ),
        (only({"Type": "Pass", **JSONATA, "Output": {"a": ["{% 1 + %}"]}}), "$.States.S.Output.a[0]", "is no JSONata"),
        (
            only({"Type": "Pass", **JSONATA, "Output": "{% $eval('1') %}"}),
            "$.States.S.Output",
            "$eval is not supported",
        ),
        (only({"Type": "Parallel", "Branches": []}), "$.States.S.Branches", "at least one branch"),
        (only({**MAP, "ItemReader": {}}), "$.States.S.ItemReader", "ItemReader is not supported; read the items"),
        (only({**MAP, "Iterator": BRANCH}), "$.States.S.Iterator", "ItemProcessor is there already"),
        (only({**MAP, "ItemBatcher": {"MaxItemsPerBatch": 2}}), "$.States.S.ItemBatcher", "mode DISTRIBUTED"),
        (only({**MAP, "ToleratedFailurePercentage": 101}), "Percentage", "a number from 0 to 100"),
        (only({"Type": "Map", "ItemProcessor": only(PASS)}), "$.States.S.ItemProcessor.States.S", "named 'S' too"),
        (
            only({**MAP, "ItemProcessor": {**BRANCH, "ProcessorConfig": {"Mode": "REMOTE"}}}),
            "$.States.S.ItemProcessor.ProcessorConfig.Mode",
            "it has to be one of INLINE, DISTRIBUTED",
        ),
        (
            only({"Type": "Pass", "QueryLanguage": "JSONPath"}, **JSONATA),
            "Language",
            "it cannot be JSONPath in a machine",
        ),
        (only(PASS, QueryLanguage="XPath"), "$.QueryLanguage", "it has to be one of JSONPath, JSONata"),
        (only(PASS, Timeout=3), "$.Timeout", "there is no such field"),
        (only(PASS, TimeoutSeconds="3"), "$.TimeoutSeconds", "it has to be an integer from 1"),
        (states("x" * 81, states={"x" * 81: PASS}), "$.States", "a state's name has 1 to 80 characters"),
    ],
)
def test_what_is_wrong_is_refused_with_its_place(definition: Any, place: str, reason: str) -> None:
    """As a JSON path, with what it is and what it has to be."""
    told = refusal(definition)
    assert place in told
    assert reason in told


def test_all_that_is_wrong_is_said_at_once() -> None:
    """Up to ten things, and how many more there are."""
    many = states("S0", states={f"S{n}": {"Type": "Pass", "X": 1, "End": True} for n in range(14)})
    told = refusal(many)
    assert told.count("a Pass state has no field X") == 10
    assert "and 4 more" in told


def nested(levels: int) -> dict[str, Any]:
    """A definition with branches within branches."""
    found: dict[str, Any] = {"StartAt": "S", "States": {"S": PASS}}
    for level in range(levels):
        found = {
            "StartAt": f"P{level}",
            "States": {f"P{level}": {"Type": "Parallel", "Branches": [found], "End": True}},
        }
    return found


def negated(levels: int) -> dict[str, Any]:
    """A definition with a rule within rules."""
    rule: dict[str, Any] = IS_NULL
    for _ in range(levels):
        rule = {"Not": rule}
    return only({"Type": "Choice", "Choices": [{**rule, "Next": "S"}], "Default": "S"})


@pytest.mark.parametrize(
    ("definition", "reason"),
    [
        (nested(14), "branches are nested deeper than 12 levels"),
        (json.dumps(nested(12))[:-1] + "x", "not JSON"),
        ('{"StartAt": "S", "StartAt": "S", "States": {}}', "occurs twice"),
        ('{"States":' + "[" * 5000, "nested deeper than 100 levels"),
        (json.dumps(only({**PASS, "Result": "x" * 1_100_000})), "the limit is"),
        (
            only({**PASS, "Result": [[]] * 3, "Parameters": {"a.$": "States.Array(" * 50}}),
            "nested deeper than 10 levels",
        ),
        (states("S", states={"S": PASS, **{f"s{n}": PASS for n in range(2_100)}}), "more than 2000 states"),
        (negated(15), "rules are nested deeper"),
        (only({**PASS, "Result": {object()}}), "it has no JSON form"),
    ],
)
def test_a_hostile_definition_is_refused(definition: Any, reason: str) -> None:
    """Too deep, too long, too many, or JSON that parsers read differently."""
    assert reason in refusal(definition)


def test_what_is_right_is_read() -> None:
    """Nested as deeply as allowed, and with most of what there is."""
    assert len(list(load(nested(12)).walk())) == 13
    assert [task.resource for task in load(BIG).tasks] == ["x"]


_PLACES = st.integers(0, 10_000)
_VALUES = st.sampled_from([None, True, -1, 1.5, "", "$", "$.a[", "{% 1 %}", "States.X()", [], [1], {}, {"a.$": 1}, "C"])


@settings(max_examples=300)
@given(st.lists(st.tuples(_PLACES, _VALUES, st.booleans()), min_size=1, max_size=4))
def test_a_definition_with_anything_in_it_is_read_or_refused(changes: list[tuple[int, Any, bool]]) -> None:
    """Whatever stands in whatever place of it: it is never another error."""
    definition = copy.deepcopy(BIG)
    for number, value, is_name in changes:
        holders = [each for each in _containers(definition) if each]
        holder = holders[number % len(holders)]
        where = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        at: Any = where[number % len(where)]
        if is_name and isinstance(holder, dict):
            holder[str(value)] = holder.pop(at)
        else:
            holder[at] = copy.deepcopy(value)
    try:
        load(definition)
    except DeclarationError as error:
        assert "$" in str(error)


def _containers(value: Any) -> list[Any]:
    found = [value] if isinstance(value, dict | list) else []
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        found += _containers(each)
    return found
