"""Reads a state of a definition, by its type."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from antiphon.policy.asl import expressions, handling, quantities, rules
from antiphon.policy.asl.fields import Fields, Problems, variable
from antiphon.policy.asl.machine import (
    Choice,
    Fail,
    Flow,
    Machine,
    Map,
    Parallel,
    Pass,
    Rule,
    State,
    Succeed,
    Task,
    Wait,
)
from antiphon.policy.asl.scope import Expression, Scope, constant
from antiphon.policy.asl.templates import Parts

#: Reads a branch at a place; None if it is none.
ReadBranch = Callable[[Any, Parts], Machine | None]

_TOKEN = ".waitForTaskToken"
#: A placeholder of a template language may stand for a resource, as any other name.
_OPEN_PLACEHOLDER = re.compile(r"\$\{[^}]*$")
#: Calls the function that its input names.
_INVOKE = "arn:aws:states:::lambda:invoke"
_WAIT_FIELDS = ("Seconds", "SecondsPath", "Timestamp", "TimestampPath")
_INNER_FIELDS = ("Branches", "ItemProcessor", "Iterator", "Comment")
_COMMON = {"Type", "Comment", "QueryLanguage"}
_GOES_ON = {"Next", "End"}
_WORKS = {"Retry", "Catch"}
#: The fields of each type of state, besides those that all have: in both languages, in JSONPath, in JSONata.
FIELDS: dict[str, tuple[set[str], set[str], set[str]]] = {
    "Pass": ({*_GOES_ON, "Assign"}, {"InputPath", "OutputPath", "Parameters", "Result", "ResultPath"}, {"Output"}),
    "Task": (
        {*_GOES_ON, *_WORKS, "Assign", "Resource", "TimeoutSeconds", "HeartbeatSeconds", "Credentials"},
        {"InputPath", "OutputPath", "Parameters", "ResultSelector", "ResultPath"}
        | {"TimeoutSecondsPath", "HeartbeatSecondsPath"},
        {"Arguments", "Output"},
    ),
    "Choice": ({"Choices", "Default", "Assign"}, {"InputPath", "OutputPath"}, {"Output"}),
    "Wait": (
        {*_GOES_ON, "Assign", "Seconds", "Timestamp"},
        {"InputPath", "OutputPath", "SecondsPath", "TimestampPath"},
        {"Output"},
    ),
    "Succeed": (set(), {"InputPath", "OutputPath"}, {"Output"}),
    "Fail": ({"Error", "Cause"}, {"ErrorPath", "CausePath"}, set()),
    "Parallel": (
        {*_GOES_ON, *_WORKS, "Assign", "Branches"},
        {"InputPath", "OutputPath", "Parameters", "ResultSelector", "ResultPath"},
        {"Arguments", "Output"},
    ),
    "Map": (
        {*_GOES_ON, *_WORKS, "Assign", "ItemProcessor", "ItemSelector", "ItemBatcher", "MaxConcurrency", "Label"}
        | {"ToleratedFailureCount", "ToleratedFailurePercentage"},
        {"InputPath", "OutputPath", "Parameters", "ResultSelector", "ResultPath", "ItemsPath", "Iterator"}
        | {"MaxConcurrencyPath", "ToleratedFailureCountPath", "ToleratedFailurePercentagePath"},
        {"Items", "Output"},
    ),
}
#: What the service has and this engine does not, and what to do without it.
_UNSUPPORTED = {
    "ItemReader": "read the items in a Task, and give them to the Map as its items",
    "ResultWriter": "write the results in a Task after the Map",
}
#: Expressions that can see when the state was entered.
_SEES_TIME = re.compile(
    r"EnteredTime|\$\$(?!\.(?:Execution|StateMachine|Task|Map|State\.(?:Name|RetryCount)))"
    r"|\$states(?!\.(?:input|result|errorOutput|context\.(?:Execution|StateMachine|Task|Map|State\.(?:Name|Retry))))"
)


def known_fields(kind: str, *, jsonata: bool) -> set[str]:
    """The fields that a state of type *kind* may have."""
    both, with_path, with_jsonata = FIELDS[kind]
    return _COMMON | both | (with_jsonata if jsonata else with_path)


def why_unknown(name: str, kind: str, *, jsonata: bool) -> str:
    """Why a state of type *kind* cannot have the field *name*."""
    if name in _UNSUPPORTED:
        return f"{name} is not supported; {_UNSUPPORTED[name]}"
    if name in FIELDS[kind][1] | FIELDS[kind][2]:
        return f"{name} is a field of the other query language"
    return f"a {kind} state has no field {name}; it has {', '.join(sorted(known_fields(kind, jsonata=jsonata)))}"


class StateReader(Fields):
    """Reads the fields of one state; *read_branch* reads the machines within it."""

    def __init__(
        self,
        problems: Problems,
        value: Mapping[str, Any],
        at: Parts,
        states: Mapping[str, Any],
        read_branch: ReadBranch,
        *,
        jsonata: bool,
    ) -> None:
        super().__init__(problems, value, at, states, jsonata=jsonata)
        self.name = str(at[-1])
        self.read_branch = read_branch

    def read(self, kind: str) -> State:
        """The state."""
        common: dict[str, Any] = {"name": self.name, "needs_time": bool(_SEES_TIME.search(_own_text(self.value)))}
        if kind in ("Task", "Parallel", "Map"):
            common |= {"retriers": handling.retriers(self), "catchers": handling.catchers(self)}
        if FIELDS[kind][0].issuperset(_GOES_ON):
            common["next"] = self._next()
        readers: dict[str, Callable[[dict[str, Any]], State]] = {
            "Pass": self._pass,
            "Task": self._task,
            "Choice": self._choice,
            "Wait": self._wait,
            "Succeed": lambda common: Succeed(flow=self._flow(), **common),
            "Fail": self._fail,
            "Parallel": self._parallel,
            "Map": self._map,
        }
        return readers[kind](common)

    def _flow(self, *, merges: bool = False, takes: str | None = None) -> Flow:
        """How data passes through the state: with a template *takes* for what it works on, and (*merges*) a result."""
        value = self.value
        if self.jsonata:
            return Flow(
                jsonata=True,
                takes=self.template(value, (), takes) if takes else None,
                gives=self.template(value, (), "Output"),
                assigns=self.assigns(value, ()),
            )
        return Flow(
            jsonata=False,
            chooses=self.path("InputPath"),
            takes=self.template(value, (), takes) if takes else None,
            selects=self.template(value, (), "ResultSelector"),
            merges=self.result_path(value, ()) if merges else (),
            gives=self.path("OutputPath"),
            assigns=self.assigns(value, ()),
        )

    def _next(self) -> str | None:
        end, following = self.value.get("End"), self.value.get("Next")
        if "End" in self.value and not isinstance(end, bool):
            self.report(("End",), "it has to be true or false")
        if bool(end) == ("Next" in self.value):
            self.report((), "it needs either Next or End, and not both")
        if "Next" not in self.value:
            return None
        return self.target(following, ("Next",))

    def _pass(self, common: dict[str, Any]) -> State:
        flow = self._flow(merges=True, takes=None if self.jsonata else "Parameters")
        result = constant(self.value["Result"]) if "Result" in self.value else None
        return Pass(flow=flow, result=result, **common)

    def _task(self, common: dict[str, Any]) -> State:
        resource = self.value.get("Resource")
        if not isinstance(resource, str) or not resource or _OPEN_PLACEHOLDER.search(resource):
            self.report(("Resource",), f"it is {resource!r}; it has to name a resource")
        timeout = self.quantity("TimeoutSeconds", quantities.SECONDS)
        heartbeat = self.quantity("HeartbeatSeconds", quantities.SECONDS)
        most, beat = self.value.get("TimeoutSeconds", 60), self.value.get("HeartbeatSeconds", 0)
        if isinstance(most, int) and isinstance(beat, int) and beat >= most:
            self.report(("HeartbeatSeconds",), "it has to be less than TimeoutSeconds (60 if that is not said)")
        field = "Arguments" if self.jsonata else "Parameters"
        given = self.value.get(field)
        function = given.get("FunctionName") if isinstance(given, dict) else None
        is_plain = isinstance(function, str) and expressions.enclosed(function) is None
        return Task(
            flow=self._flow(merges=True, takes=field),
            resource=str(resource),
            invokes=str(resource).removesuffix(_TOKEN) == _INVOKE,
            function=function if is_plain else None,
            has_token=str(resource).endswith(_TOKEN),
            timeout=timeout,
            heartbeat=heartbeat,
            **common,
        )

    def _wait(self, common: dict[str, Any]) -> State:
        said = [name for name in _WAIT_FIELDS if name in self.value]
        if len(said) != 1:
            self.report((), f"it needs one of {', '.join(_WAIT_FIELDS)}, and has {', '.join(said) or 'none'}")
        return Wait(
            flow=self._flow(),
            seconds=self.quantity("Seconds", quantities.WAIT),
            until=self.quantity("Timestamp", quantities.TIMESTAMP),
            **common,
        )

    def _fail(self, common: dict[str, Any]) -> State:
        texts = {name: self.quantity(name, quantities.TEXT) or constant(None) for name in ("Error", "Cause")}
        return Fail(flow=Flow(jsonata=self.jsonata), error=texts["Error"], cause=texts["Cause"], **common)

    def _choice(self, common: dict[str, Any]) -> State:
        found = []
        flow = self._flow()
        if not isinstance(self.value.get("Choices"), list) or not self.value["Choices"]:
            self.report(("Choices",), "it has to be a list of at least one rule")
        for at, each in self.items_of("Choices"):
            if not isinstance(each, dict):
                self.report(at, "a rule is an object")
                continue
            following = self.target(each.get("Next"), (*at, "Next"))
            own = Flow(
                jsonata=flow.jsonata,
                gives=self.template(each, at, "Output") if self.jsonata else flow.gives,
                assigns=self.assigns(each, at),
            )
            read = rules.by_jsonata if self.jsonata else rules.by_path
            found.append(Rule(read(self, each, at), following, own))
        default = self.value.get("Default")
        if default is not None:
            self.target(default, ("Default",))
        return Choice(flow=flow, rules=tuple(found), default=default, **common)

    def _parallel(self, common: dict[str, Any]) -> State:
        branches = self.value.get("Branches")
        if not isinstance(branches, list) or not branches:
            self.report(("Branches",), "it has to be a list of at least one branch")
        found = [self.read_branch(each, (*self.at, *at)) for at, each in self.items_of("Branches")]
        return Parallel(
            flow=self._flow(merges=True, takes="Arguments" if self.jsonata else "Parameters"),
            branches=tuple(each for each in found if each is not None),
            **common,
        )

    def _map(self, common: dict[str, Any]) -> State:
        value = self.value
        field = "ItemProcessor" if "ItemProcessor" in value else "Iterator"
        if "ItemProcessor" in value and "Iterator" in value:
            self.report(("Iterator",), "ItemProcessor is there already")
        if "ItemSelector" in value and "Parameters" in value:
            self.report(("Parameters",), "ItemSelector is there already")
        if field not in value:
            self.report(("ItemProcessor",), "a Map needs what it does with each item")
        processor = self.read_branch(value[field], (*self.at, field)) if field in value else None
        mode = self._mode(value.get(field))
        selector = "ItemSelector" if "ItemSelector" in value else "Parameters"
        if mode == "INLINE" and "ItemBatcher" in value:
            self.report(("ItemBatcher",), "only a Map of mode DISTRIBUTED makes batches")
        return Map(
            flow=self._flow(merges=True),
            processor=processor or Machine("", {}),
            items=self._items(),
            selector=self.template(value, (), selector),
            batches=self._batches(),
            concurrency=self.quantity("MaxConcurrency", quantities.COUNT),
            tolerated_count=self.quantity("ToleratedFailureCount", quantities.COUNT),
            tolerated_percentage=self.quantity("ToleratedFailurePercentage", quantities.PERCENTAGE),
            **common,
        )

    def _mode(self, processor: Any) -> str:
        at = ("ItemProcessor", "ProcessorConfig")
        config = processor.get("ProcessorConfig", {}) if isinstance(processor, dict) else {}
        if not self.is_object(config, at, {"Mode", "ExecutionType"}):
            return "INLINE"
        mode = config.get("Mode", "INLINE")
        self.problems.is_one_of(mode, ("INLINE", "DISTRIBUTED"), (*self.at, *at, "Mode"))
        return str(mode)

    def _items(self) -> Expression:
        if self.jsonata:
            if "Items" not in self.value:
                return quantities.items_of_input
            items = self.template(self.value, (), "Items") or constant(None)
            return quantities.items_from(items, "Items", str(self.value["Items"]), jsonata=True)
        text = self.value.get("ItemsPath", "$")
        path = self.read_text("ItemsPath", variable, text) or constant(None)
        return quantities.items_from(path, "ItemsPath", str(text), jsonata=False)

    def _batches(self) -> Callable[[list[Any], Scope], list[Any]] | None:
        batcher = self.value.get("ItemBatcher")
        if batcher is None:
            return None
        known = {"MaxItemsPerBatch", "MaxInputBytesPerBatch", "BatchInput"}
        if not self.jsonata:
            known |= {"MaxItemsPerBatchPath", "MaxInputBytesPerBatchPath"}
        if not self.is_object(batcher, ("ItemBatcher",), known):
            return None
        inner = Fields(self.problems, batcher, (*self.at, "ItemBatcher"), self.states, jsonata=self.jsonata)
        most = inner.quantity("MaxItemsPerBatch", quantities.SIZE)
        largest = inner.quantity("MaxInputBytesPerBatch", quantities.SIZE)
        if most is None and largest is None:
            self.report(("ItemBatcher",), "it needs MaxItemsPerBatch or MaxInputBytesPerBatch")
        return quantities.batches(most, largest, inner.template(batcher, (), "BatchInput"))


def _own_text(state: Mapping[str, Any]) -> str:
    """The text of a state, without the states inside it."""
    return msgspec.json.encode({name: each for name, each in state.items() if name not in _INNER_FIELDS}).decode()
