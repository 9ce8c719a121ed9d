"""Drives state machines of the Amazon States Language: each state by the calls of a workflow, and so recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from math import ceil
from operator import itemgetter
from typing import Any

import msgspec

from antiphon.errors import (
    HandlerTimeout,
    InvalidEvent,
    StateFailed,
    StepFailed,
    WaitTimedOut,
    WorkflowCancelled,
    WorkflowError,
)
from antiphon.model.commands import Refused
from antiphon.model.events import event_type_of
from antiphon.model.retry import Retry
from antiphon.policy.asl import failures
from antiphon.policy.asl.choices import moment_of
from antiphon.policy.asl.machine import (
    Choice,
    Fail,
    Left,
    Machine,
    Map,
    Parallel,
    Pass,
    State,
    Task,
    Wait,
    Working,
)
from antiphon.policy.asl.scope import Scope
from antiphon.policy.asl.values import checked
from antiphon.policy.words import moment
from antiphon.runtime.workflow.handle import Workflow
from antiphon.runtime.workflow.resources import Asked, Called, Resource
from antiphon.runtime.workflow.turn import BRANCH

#: States that a machine, or a branch of one, enters at most: a loop that never waits has to end.
MOST_STATES = 25_000
#: After so many states others get their turn, whatever the states were.
_PAUSE_AFTER = 500
_ONCE = Retry(attempts=1)
_DEFAULT_TIMEOUT_S = 60


class MachineTimedOut(WorkflowError):
    """The machine has run longer than its TimeoutSeconds; nothing catches that."""


@dataclass(frozen=True)
class _Place:
    """Where a run is within its machine: the variables that hold here, and what the context object says of it."""

    variables: dict[str, Any] = field(default_factory=dict)
    context: Mapping[str, Any] = field(default_factory=dict)
    depth: int = 0


class Execution:
    """One passage of a run through its machine. Asked for time, chance and ids, it lets the workflow record them."""

    def __init__(self, machine: Machine, resources: Mapping[str, Resource], wf: Workflow) -> None:
        self.machine = machine
        self.resources = resources
        self.wf = wf

    async def run(self, value: Any) -> Any:
        """The output of the machine for the input *value*. Raises StateFailed, MachineTimedOut, WorkflowCancelled."""
        wf = self.wf
        execution = {
            "Id": wf.id,
            "Name": wf.key,
            "Input": value,
            "StartTime": moment(round(wf.started.timestamp() * 1000)),
        }
        context = {"Execution": execution, "StateMachine": {"Id": wf.workflow, "Name": wf.workflow.partition(".")[2]}}
        checked(value, self.machine.start)
        return await self._branch(self.machine, value, _Place(context=context))

    # ------------------------------------------------------------------ the oracle

    def now_ms(self) -> int:
        """The time, recorded."""
        return round(self.wf.now().timestamp() * 1000)

    def random(self) -> float:
        """A number in [0, 1), recorded."""
        return self.wf.random()

    def uuid(self) -> str:
        """A new UUID, recorded."""
        return self.wf.uuid()

    # ------------------------------------------------------------------ states

    async def _branch(self, machine: Machine, value: Any, place: _Place) -> Any:
        """The output of a machine, or of a branch of one."""
        place = replace(place, variables=dict(place.variables))
        name: str | None = machine.start
        entered = 0
        while name is not None:
            state = machine.states[name]
            entered += 1
            if entered > MOST_STATES:
                raise failures.runtime_error(f"it has entered more than {MOST_STATES:,} states")
            if entered % _PAUSE_AFTER == 0:
                await self.wf.step(_let_others_run, name="pause")
            if not place.depth:
                self.wf.show({"state": name})
            left = await self._enter(state, value, place)
            place.variables.update(left.assigned)
            name, value = left.next, left.output
        return value

    async def _enter(self, state: State, value: Any, place: _Place) -> Left:
        about: dict[str, Any] = {"Name": state.name, "RetryCount": 0}
        if state.needs_time:
            about["EnteredTime"] = moment(self.now_ms())
        scope = Scope(value, value, {**place.context, "State": about}, place.variables, self, {})
        if isinstance(state, Working):
            return await self._work(state, scope, place)
        if isinstance(state, Choice):
            return _choose(state, scope)
        if isinstance(state, Fail):
            raise StateFailed(state.error(scope), state.cause(scope))
        chosen = state.flow.choose(scope)
        if isinstance(state, Wait):
            await self._wait(state, chosen)
        result = state.flow.enter(chosen)
        is_new = isinstance(state, Pass) and state.result is not None
        if isinstance(state, Pass) and state.result is not None:
            result = state.result(scope)
        return state.flow.leave(state.name, scope, result, state.next, is_new=is_new)

    async def _wait(self, state: Wait, scope: Scope) -> None:
        if state.seconds is not None:
            await self._sleep(timedelta(seconds=state.seconds(scope)), state.name)
        elif state.until is not None:
            until = moment_of(state.until(scope))
            assert until is not None
            left_ms = ceil(until.timestamp() * 1000) - self.now_ms()
            await self._sleep(timedelta(milliseconds=max(0, left_ms)), state.name)

    async def _sleep(self, duration: timedelta, name: str) -> None:
        """Sleep, but not beyond the end of the machine's time."""
        left = self._time_left()
        await self.wf.sleep(duration if left is None else min(duration, left), name=name)
        if left is not None and left < duration:
            raise self._timed_out()

    def _time_left(self) -> timedelta | None:
        """What is left of the machine's time; None if it is not bounded. Raises MachineTimedOut."""
        if self.machine.timeout is None:
            return None
        left = self.wf.started + timedelta(seconds=self.machine.timeout) - self.wf.now()
        if left <= timedelta(0):
            raise self._timed_out()
        return left

    def _timed_out(self) -> MachineTimedOut:
        return MachineTimedOut(
            f"{failures.TIMEOUT}: it has run longer than {self.machine.timeout} s", where=self.wf.workflow
        )

    # ------------------------------------------------------------------ states that can fail

    async def _work(self, state: Working, scope: Scope, place: _Place) -> Left:
        """Work, and try again, until there is a result, a catcher, or an error that nobody catches."""
        retried = [0] * len(state.retriers)
        first = BRANCH.get().next
        while True:
            try:
                result = await self._attempt(state, scope, place, first)
                return state.flow.leave(state.name, scope, checked(result, state.name), state.next, is_new=True)
            except WorkflowCancelled as cancelled:
                failure = StateFailed(failures.CANCELLED, cancelled.what)
                return _caught(state, scope, failure, cancelled)
            except StateFailed as failure:
                delay = self._retry_delay(state, failure, retried)
                if delay is None:
                    return _caught(state, scope, failure, failure)
            count = sum(retried)
            await self._sleep(timedelta(seconds=delay), f"{state.name} (retry {count})")
            scope = replace(scope, context={**scope.context, "State": {**scope.context["State"], "RetryCount": count}})

    def _retry_delay(self, state: Working, failure: StateFailed, retried: list[int]) -> float | None:
        """How long to wait for the next attempt, in seconds; None if there is none."""
        for number, retrier in enumerate(state.retriers):
            if failures.is_meant(failure.error, retrier.errors):
                delay = retrier.delay(retried[number], self.random)
                retried[number] += 1
                return delay
        return None

    async def _attempt(self, state: Working, scope: Scope, place: _Place, first: str) -> Any:
        if isinstance(state, Task):
            return await self._task(state, scope, first)
        chosen = state.flow.choose(scope)
        value = state.flow.enter(chosen)
        inner = replace(place, depth=place.depth + 1)
        if isinstance(state, Parallel):
            branches = [self._branch(each, value, inner) for each in state.branches]
            return await self._gather(branches, state.name)
        assert isinstance(state, Map)
        return await self._map(state, chosen, inner)

    async def _gather(
        self, branches: list[Coroutine[Any, Any, Any]], name: str, limit: int | None = None, tolerate: int = 0
    ) -> list[Any]:
        results = await self.wf.gather(*branches, name=name, limit=limit, tolerate=tolerate)
        for each in results:
            if isinstance(each, Exception) and not isinstance(each, StateFailed):
                raise each  # a cancellation is no failure of an item
        return [each for each in results if not isinstance(each, StateFailed)]

    async def _map(self, state: Map, scope: Scope, place: _Place) -> list[Any]:
        limit = None if state.concurrency is None else state.concurrency(scope) or None
        count = None if state.tolerated_count is None else state.tolerated_count(scope)
        percentage = None if state.tolerated_percentage is None else state.tolerated_percentage(scope)
        items = state.items(scope)
        contexts = [
            {**place.context, "Map": {"Item": {"Index": number, "Value": item}}} for number, item in enumerate(items)
        ]
        inputs = items
        if state.selector is not None:
            about = {"State": scope.context["State"]}
            inputs = [state.selector(replace(scope, context={**context, **about})) for context in contexts]
        if state.batches is not None:
            inputs = state.batches(inputs, scope)
            contexts = [
                {**place.context, "Map": {"Item": {"Index": number, "Value": batch}}}
                for number, batch in enumerate(inputs)
            ]
        tolerate = _tolerated(count, percentage, len(inputs))
        branches = [
            self._branch(state.processor, each, replace(place, context=context))
            for each, context in zip(inputs, contexts, strict=True)
        ]
        if not branches:
            return []
        try:
            return await self._gather(branches, state.name, limit, tolerate)
        except StateFailed as failure:
            if count is None and percentage is None:
                raise
            raise StateFailed(
                failures.TOLERATED, f"The specified tolerated failure threshold was exceeded: {failure}"
            ) from failure

    # ------------------------------------------------------------------ tasks

    async def _task(self, state: Task, scope: Scope, first: str) -> Any:
        """The result of a task. All attempts have the recorded calls to the outside of the *first*."""
        token = None
        if state.has_token:
            token = f"{self.wf.id}.{self.wf.uuid()}"
            scope = replace(scope, context={**scope.context, "Task": {"Token": token}})
        chosen = state.flow.choose(scope)
        value = state.flow.enter(chosen)
        timeout_s = _DEFAULT_TIMEOUT_S if state.timeout is None else state.timeout(chosen)
        beat_s = None if state.heartbeat is None else state.heartbeat(chosen)
        limit = timedelta(seconds=timeout_s)
        bounded = None if state.timeout is None else limit
        resource, value = self._called(state, value)
        if isinstance(resource, Asked):
            result = await self._ask(resource, value, bounded)
        else:
            arguments = (value, None if state.has_token else beat_s)
            left = self._time_left()
            bound = limit if left is None else min(limit, left)
            result = await self._step((state.name, first), resource, arguments, bound)
        if token is None:
            is_own = state.resource in self.resources
            return result if is_own else {"ExecutedVersion": "$LATEST", "Payload": result, "StatusCode": 200}
        return await self._answer(token, bounded, None if beat_s is None else timedelta(seconds=beat_s))

    def _called(self, state: Task, value: Any) -> tuple[Resource, Any]:
        """What a task calls, and with what. Raises StateFailed for a function that there is not."""
        if state.resource in self.resources:
            return self.resources[state.resource], value
        name = value.get("FunctionName") if isinstance(value, dict) else None
        if not isinstance(name, str) or name not in self.resources:
            raise StateFailed("Lambda.ResourceNotFoundException", f"there is no function {name!r}")
        return self.resources[name], value.get("Payload", {})

    async def _step(
        self, names: tuple[str, str], resource: Called, arguments: tuple[Any, Any], limit: timedelta
    ) -> Any:
        name, calls_of = names
        how: dict[str, Any] = {"undo": resource.undo, "retry": _ONCE, "timeout": limit, "calls_of": calls_of}
        try:
            return await self.wf.step(resource.call, *arguments, name=name, **how)
        except StepFailed as failed:
            if failed.error_type == HandlerTimeout.__name__:
                self._time_left()
                raise StateFailed(failures.TIMEOUT, failed.message) from failed
            raise StateFailed(failed.error_type, failed.message or None) from failed

    async def _ask(self, resource: Asked, value: Any, limit: timedelta | None) -> Any:
        """The answer to a command, with its type. Raises StateFailed if it is refused, or does not come in time."""
        try:
            command, undo = resource.questions(value)
        except InvalidEvent as error:
            raise StateFailed(type(error).__name__, str(error)) from error
        left = self._time_left()
        bounds = [each for each in (limit, left) if each is not None]
        try:
            reply: object = await self.wf.request(
                command, *resource.replies, timeout=min(bounds, default=None), undo=undo
            )
        except WaitTimedOut as late:
            if left is not None and (limit is None or left < limit):
                raise self._timed_out() from late
            raise StateFailed(failures.TIMEOUT, str(late)) from late
        if isinstance(reply, Refused):
            raise StateFailed("Refused", reply.reason)
        kind = event_type_of(reply)
        return {"type": kind.name, "data": msgspec.json.decode(kind.encode(reply))}

    async def _answer(self, token: str, limit: timedelta | None, beat: timedelta | None) -> Any:
        """What whoever has the token reports as the result of a task."""
        name = task_signal(token)
        due = None if limit is None else self.wf.now() + limit
        while True:
            left = None if due is None else due - self.wf.now()
            bounds = ((self._time_left(), None), (left, failures.TIMEOUT), (beat, failures.HEARTBEAT_TIMEOUT))
            set_bounds = [(span, why) for span, why in bounds if span is not None]
            wait, error = min(set_bounds, key=itemgetter(0)) if set_bounds else (None, None)
            try:
                told = await self.wf.signal(name, timeout=wait)
            except WaitTimedOut as late:
                if error is None:
                    raise self._timed_out() from late
                raise StateFailed(error) from late
            if not isinstance(told, dict) or told.get("act") == "beat":
                continue
            if told.get("act") == "fail":
                raise StateFailed(told.get("error"), told.get("cause"))
            return told.get("output")


async def _let_others_run() -> None:
    await asyncio.sleep(0)


def task_signal(token: str) -> str:
    """The signal by which the result of the task of *token* is reported."""
    return f"task {token}"


def _tolerated(count: int | None, percentage: float | None, items: int) -> int:
    """How many items may fail: as many as both allow."""
    by_percentage = None if percentage is None else int(items * percentage / 100)
    return min((each for each in (count, by_percentage) if each is not None), default=0)


def _choose(state: Choice, scope: Scope) -> Left:
    flow = state.flow
    seen = flow.choose(scope)
    value = seen.focus
    for rule in state.rules:
        if rule.condition(seen):
            return rule.flow.leave(state.name, scope, value, rule.next, is_new=False)
    if state.default is None:
        raise StateFailed(failures.NO_CHOICE, f"no rule of state '{state.name}' holds, and it has no Default")
    return flow.leave(state.name, scope, value, state.default, is_new=False)


def _caught(state: Working, scope: Scope, failure: StateFailed, otherwise: Exception) -> Left:
    """Where a failed state goes on. Raises *otherwise* if nobody catches the failure."""
    for catcher in state.catchers:
        if failures.is_meant(failure.error, catcher.errors):
            output = {"Error": failure.error or "", "Cause": failure.cause or ""}
            seen = scope.told("errorOutput", output)
            return catcher.flow.leave(state.name, seen, output, catcher.next, is_new=False)
    raise otherwise
