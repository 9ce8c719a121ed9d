"""What a task does: functions, time-outs, answers that come later, retries."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from antiphon import Effects, Event, Heartbeat, StateFailed, Transaction
from tests.asl.kit import (
    JSONATA,
    TASK,
    TOKEN_TASK,
    Begun,
    begun,
    carrying,
    done,
    ended,
    failed,
    machine_of,
    note,
    noted,
    only,
    outcome,
    skipping,
    states,
)
from tests.runtime.kit import running

pytestmark = pytest.mark.anyio


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
