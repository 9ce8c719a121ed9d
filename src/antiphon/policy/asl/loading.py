"""Reads a definition: every field is checked and compiled, and what is not supported is refused with its place."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

from antiphon.errors import AntiphonError, DeclarationError
from antiphon.model.jsontext import path_of, strict_json
from antiphon.policy.asl import choices, quantities, templates
from antiphon.policy.asl.failures import ALL
from antiphon.policy.asl.intrinsics import is_call
from antiphon.policy.asl.machine import (
    LONGEST_DELAY,
    Catcher,
    Choice,
    Fail,
    Flow,
    Machine,
    Map,
    Parallel,
    Pass,
    Retrier,
    Rule,
    State,
    Succeed,
    Task,
    Wait,
)
from antiphon.policy.asl.paths import BadPath, Path, Steps
from antiphon.policy.asl.scope import Expression, Scope, constant
from antiphon.policy.asl.templates import Parts

#: A definition, in bytes.
MAX_DEFINITION = 1024 * 1024
_MOST_STATES = 2_000
_DEEPEST = 12
_LONGEST_NAME = 80
_MOST_PROBLEMS = 10
_TOKEN = ".waitForTaskToken"
_LONGEST_TIMEOUT = 99_999_999

T = TypeVar("T")

_COMMON = {"Type", "Comment", "QueryLanguage"}
_GOES_ON = {"Next", "End"}
_WORKS = {"Retry", "Catch"}
#: The fields of each type of state, besides those that all have: in both languages, in JSONPath, in JSONata.
_FIELDS: dict[str, tuple[set[str], set[str], set[str]]] = {
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


def load(definition: str | bytes | Mapping[str, Any], where: str = "state machine") -> Machine:
    """The machine that *definition* (its JSON text, or what is in it) describes.

    Raises DeclarationError, which says *where*, with the place of each thing in it that is wrong or not supported.
    """
    data = definition.encode() if isinstance(definition, str) else definition
    try:
        text = data if isinstance(data, bytes) else msgspec.json.encode(data)
        value = strict_json(text, limit=MAX_DEFINITION, type_name="definition")
    except AntiphonError as error:
        raise DeclarationError(str(error), where=where) from error
    except (TypeError, ValueError, RecursionError) as error:
        raise DeclarationError(f"it has no JSON form: {error}", where=where) from error
    loader = _Loader()
    machine = loader.machine(value, ())
    if loader.problems:
        raise loader.refusal(where)
    assert machine is not None
    return machine


class _Loader:
    """Reads one definition, and gathers what is wrong with it."""

    def __init__(self) -> None:
        self.problems: list[tuple[Parts, str]] = []
        self.names: set[str] = set()

    def report(self, at: Parts, what: str) -> None:
        """Something is wrong at a place."""
        self.problems.append((at, what))

    def refusal(self, where: str) -> DeclarationError:
        """The error that says all that is wrong."""
        told = [f"{path_of(at)}: {what}" for at, what in self.problems[:_MOST_PROBLEMS]]
        if len(self.problems) > len(told):
            told.append(f"and {len(self.problems) - len(told)} more")
        return DeclarationError("; ".join(told), where=where)

    # ------------------------------------------------------------------ machines

    def machine(self, value: Any, at: Parts, outer: _Outer | None = None) -> Machine | None:
        """The machine, or branch, that *value* describes; None if it is none."""
        outer = outer or _Outer()
        fields = {"StartAt", "States", "Comment", "ProcessorConfig"} if outer.depth else _MACHINE_FIELDS
        if not self._is_object(value, at, fields):
            return None
        if outer.depth > _DEEPEST:
            self.report(at, f"branches are nested deeper than {_DEEPEST} levels")
            return None
        language = value.get("QueryLanguage", "JSONPath")
        if not outer.depth and self._one_of(language, _LANGUAGES, (*at, "QueryLanguage")):
            outer = _Outer(jsonata=language == "JSONata")
        states = value.get("States")
        if not isinstance(states, dict) or not states:
            self.report((*at, "States"), "it has to be an object with at least one state")
            return None
        start = value.get("StartAt")
        if not isinstance(start, str) or start not in states:
            self.report((*at, "StartAt"), f"there is no state {start!r} here")
        for name in states:
            self._name(name, (*at, "States", name))
        found = {
            name: self.state(name, state, (*at, "States", name), _Outer(outer.depth, outer.jsonata, states))
            for name, state in states.items()
        }
        if not any(_ends(state) for state in states.values()):
            self.report((*at, "States"), 'no state ends it: none has "End": true, and none is a Succeed or Fail')
        timeout = value.get("TimeoutSeconds")
        if timeout is not None and not self._is_count(timeout, 1):
            self.report((*at, "TimeoutSeconds"), "it has to be an integer from 1")
        if any(each is None for each in found.values()) or not isinstance(start, str):
            return None
        return Machine(start, {name: each for name, each in found.items() if each}, timeout, value.get("Comment"))

    def _name(self, name: str, at: Parts) -> None:
        if not 0 < len(name) <= _LONGEST_NAME:
            self.report(at, f"a state's name has 1 to {_LONGEST_NAME} characters")
        if name in self.names:
            self.report(at, f"another state of the machine is named {name!r} too")
        self.names.add(name)
        if len(self.names) == _MOST_STATES + 1:
            self.report(at, f"there are more than {_MOST_STATES} states")

    # ------------------------------------------------------------------ states

    def state(self, name: str, value: Any, at: Parts, outer: _Outer) -> State | None:
        """The state that *value* describes; None if it is none."""
        if not isinstance(value, dict):
            self.report(at, "a state is an object")
            return None
        kind = str(value.get("Type"))
        if not self._one_of(kind, _FIELDS, (*at, "Type")):
            return None
        language = value.get("QueryLanguage", "JSONata" if outer.jsonata else "JSONPath")
        self._one_of(language, _LANGUAGES, (*at, "QueryLanguage"))
        jsonata = language == "JSONata"
        if outer.jsonata and not jsonata:
            self.report((*at, "QueryLanguage"), "it cannot be JSONPath in a machine whose language is JSONata")
        self._known_fields(value, kind, jsonata, at)
        reader = _StateReader(self, name, value, at, _Outer(outer.depth, jsonata, outer.states), outer.jsonata)
        before = len(self.problems)
        found = reader.read(kind)
        return found if len(self.problems) == before else None

    def _known_fields(self, value: Mapping[str, Any], kind: str, jsonata: bool, at: Parts) -> None:
        both, with_path, with_jsonata = _FIELDS[kind]
        known = _COMMON | both | (with_jsonata if jsonata else with_path)
        for name in value.keys() - known:
            if name in _UNSUPPORTED:
                what = f"{name} is not supported; {_UNSUPPORTED[name]}"
            elif name in with_path | with_jsonata:
                what = f"{name} is a field of the other query language"
            else:
                what = f"a {kind} state has no field {name}; it has {', '.join(sorted(known))}"
            self.report((*at, name), what)

    # ------------------------------------------------------------------ what is asked again and again

    def _is_object(self, value: Any, at: Parts, known: set[str] | frozenset[str]) -> bool:
        if not isinstance(value, dict):
            self.report(at, "it has to be an object")
            return False
        for name in value.keys() - known:
            self.report((*at, name), f"there is no such field; there are {', '.join(sorted(known))}")
        return True

    def _one_of(self, value: Any, allowed: Any, at: Parts) -> bool:
        if isinstance(value, str) and value in allowed:
            return True
        self.report(at, f"it is {value!r}; it has to be one of {', '.join(allowed)}")
        return False

    @staticmethod
    def _is_count(value: Any, least: int, most: int = _LONGEST_TIMEOUT) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


_LANGUAGES = ("JSONPath", "JSONata")
_MACHINE_FIELDS = frozenset({"StartAt", "States", "Comment", "Version", "TimeoutSeconds", "QueryLanguage"})


class _Outer:
    """What is around a state: how deep it lies, its language, and the states it can go on with."""

    def __init__(self, depth: int = 0, jsonata: bool = False, states: Mapping[str, Any] | None = None) -> None:
        self.depth = depth
        self.jsonata = jsonata
        self.states: Mapping[str, Any] = states or {}


def _ends(state: Any) -> bool:
    return isinstance(state, dict) and (state.get("End") is True or state.get("Type") in ("Succeed", "Fail"))


class _StateReader:
    """Reads the fields of one state."""

    def __init__(
        self, loader: _Loader, name: str, value: Mapping[str, Any], at: Parts, outer: _Outer, is_all_jsonata: bool
    ) -> None:
        self.loader = loader
        self.name = name
        self.value = value
        self.at = at
        self.outer = outer
        self.jsonata = outer.jsonata
        self.is_all_jsonata = is_all_jsonata

    def read(self, kind: str) -> State:
        """The state."""
        common: dict[str, Any] = {"name": self.name, "needs_time": bool(_SEES_TIME.search(_own_text(self.value)))}
        if kind in ("Task", "Parallel", "Map"):
            common |= {"retriers": self._retriers(), "catchers": self._catchers()}
        if _FIELDS[kind][0].issuperset(_GOES_ON):
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

    def _report(self, at: Parts, what: str) -> None:
        self.loader.report((*self.at, *at), what)

    # ------------------------------------------------------------------ going on

    def _next(self) -> str | None:
        end, following = self.value.get("End"), self.value.get("Next")
        if "End" in self.value and not isinstance(end, bool):
            self._report(("End",), "it has to be true or false")
        if bool(end) == ("Next" in self.value):
            self._report((), "it needs either Next or End, and not both")
        if "Next" not in self.value:
            return None
        return self._target(following, ("Next",))

    def _target(self, name: Any, at: Parts) -> str:
        if not isinstance(name, str) or name not in self.outer.states:
            self._report(at, f"there is no state {name!r} here")
        return str(name)

    def _retriers(self) -> tuple[Retrier, ...]:
        found = []
        for at, each in self._list("Retry"):
            if not self._is_object(each, at, _RETRIER_FIELDS):
                continue
            interval = self._count(each, at, "IntervalSeconds", 1, default=1)
            longest = self._count(each, at, "MaxDelaySeconds", 1, default=None, most=int(LONGEST_DELAY))
            rate = each.get("BackoffRate", 2.0)
            if not isinstance(rate, int | float) or isinstance(rate, bool) or rate < 1:
                self._report((*at, "BackoffRate"), "it has to be a number from 1.0")
                rate = 2.0
            if longest is not None and longest <= interval:
                self._report((*at, "MaxDelaySeconds"), "it has to be above IntervalSeconds")
            strategy = each.get("JitterStrategy", "NONE")
            if strategy not in ("FULL", "NONE"):
                self._report((*at, "JitterStrategy"), f"it is {strategy!r}; it has to be FULL or NONE")
            attempts = self._count(each, at, "MaxAttempts", 0, default=3)
            errors = self._errors(each, at)
            found.append(Retrier(errors, interval, attempts, float(rate), longest, strategy == "FULL"))
        self._check_last(("Retry",), [each.errors for each in found])
        return tuple(found)

    def _catchers(self) -> tuple[Catcher, ...]:
        found = []
        known = {"ErrorEquals", "Next", "Comment", "Assign"} | ({"Output"} if self.jsonata else {"ResultPath"})
        for at, each in self._list("Catch"):
            if not self._is_object(each, at, known):
                continue
            flow = Flow(
                jsonata=self.jsonata,
                merges=self._result_path(each, at),
                gives=self._template(each, at, "Output"),
                assigns=self._assigns(each, at),
            )
            found.append(Catcher(self._errors(each, at), self._target(each.get("Next"), (*at, "Next")), flow))
        self._check_last(("Catch",), [each.errors for each in found])
        return tuple(found)

    def _errors(self, value: Mapping[str, Any], at: Parts) -> tuple[str, ...]:
        errors = value.get("ErrorEquals")
        if not isinstance(errors, list) or not errors or not all(isinstance(each, str) for each in errors):
            self._report((*at, "ErrorEquals"), "it has to be a list of at least one error name")
            return ()
        if ALL in errors and len(errors) > 1:
            self._report((*at, "ErrorEquals"), f"{ALL} has to stand alone")
        return tuple(errors)

    def _check_last(self, at: Parts, errors: list[tuple[str, ...]]) -> None:
        if any(ALL in each for each in errors[:-1]):
            self._report(at, f"what comes after {ALL} is never reached")

    # ------------------------------------------------------------------ data

    def _flow(self, *, merges: bool = False, takes: str | None = None) -> Flow:
        """How data passes through the state: with a template *takes* for what it works on, and (*merges*) a result."""
        value = self.value
        if self.jsonata:
            return Flow(
                jsonata=True,
                takes=self._template(value, (), takes) if takes else None,
                gives=self._template(value, (), "Output"),
                assigns=self._assigns(value, ()),
            )
        return Flow(
            jsonata=False,
            chooses=self._path("InputPath"),
            takes=self._template(value, (), takes) if takes else None,
            selects=self._template(value, (), "ResultSelector"),
            merges=self._result_path(value, ()) if merges else (),
            gives=self._path("OutputPath"),
            assigns=self._assigns(value, ()),
        )

    def _path(self, name: str) -> Expression | None:
        """InputPath and OutputPath: null stands for an empty object."""
        if name not in self.value:
            return None
        if self.value[name] is None:
            return lambda _: {}
        return self._read(name, Path, self.value[name])

    def _result_path(self, value: Mapping[str, Any], at: Parts) -> Steps | None:
        if "ResultPath" not in value:
            return ()
        text = value["ResultPath"]
        if text is None:
            return None
        path = self._read((*at, "ResultPath"), Path, text)
        if path is not None and path.steps is None:
            self._report((*at, "ResultPath"), f"{text!r} is no reference path: names and indexes below $")
        return path.steps if path is not None else None

    def _template(self, value: Mapping[str, Any], at: Parts, name: str) -> Expression | None:
        """The template in a field; None if there is none."""
        if name not in value:
            return None
        found = self._compiled(value[name], (*at, name))
        return found or constant(value[name])

    def _compiled(self, value: Any, at: Parts) -> Expression | None:
        compile_template = templates.with_jsonata if self.jsonata else templates.with_paths
        return compile_template(value, (*self.at, *at), self.loader.report)

    def _assigns(self, value: Mapping[str, Any], at: Parts) -> Expression | None:
        if "Assign" not in value:
            return None
        assigned = value["Assign"]
        if not isinstance(assigned, dict):
            self._report((*at, "Assign"), "it has to be an object of variables")
            return None
        for name in assigned:
            own = name if self.jsonata else name.removesuffix(".$")
            if not own.isidentifier() or len(own) > _LONGEST_NAME or own == "states":
                self._report((*at, "Assign", name), f"{own!r} cannot name a variable")
        return self._template(value, at, "Assign")

    def _read(self, at: str | Parts, read: Callable[[Any], T], value: Any) -> T | None:
        try:
            if not isinstance(value, str):
                raise BadPath(f"it is {value!r}; it has to be a text")
            return read(value)
        except BadPath as error:
            self._report((at,) if isinstance(at, str) else at, str(error))
            return None

    def _quantity(self, name: str, kind: quantities.Quantity) -> Expression | None:
        """A number, from the field, from its ``Path`` twin, or from an expression."""
        by_path = f"{name}Path"
        if name in self.value and by_path in self.value:
            self._report((by_path,), f"{name} is there already")
        if by_path in self.value:
            path = self._read(by_path, templates.path_or_call, self.value[by_path])
            return path and quantities.from_path(path, by_path, str(self.value[by_path]), kind)
        if name not in self.value:
            return None
        value = self.value[name]
        if self.jsonata and isinstance(value, str):
            found = self._compiled(value, (name,))
            if found is not None:
                return quantities.from_jsonata(found, name, value, kind)
        if not kind.is_right(value):
            self._report((name,), f"it is {value!r}; it has to be {kind.words}")
        return constant(value)

    # ------------------------------------------------------------------ each type

    def _pass(self, common: dict[str, Any]) -> State:
        flow = self._flow(merges=True, takes=None if self.jsonata else "Parameters")
        result = constant(self.value["Result"]) if "Result" in self.value else None
        return Pass(flow=flow, result=result, **common)

    def _task(self, common: dict[str, Any]) -> State:
        resource = self.value.get("Resource")
        if not isinstance(resource, str) or not resource or "${" in resource:
            self._report(("Resource",), f"it is {resource!r}; it has to name a resource, all placeholders filled in")
        timeout = self._quantity("TimeoutSeconds", quantities.SECONDS)
        heartbeat = self._quantity("HeartbeatSeconds", quantities.SECONDS)
        most, beat = self.value.get("TimeoutSeconds", 60), self.value.get("HeartbeatSeconds", 0)
        if isinstance(most, int) and isinstance(beat, int) and beat >= most:
            self._report(("HeartbeatSeconds",), "it has to be less than TimeoutSeconds (60 if that is not said)")
        return Task(
            flow=self._flow(merges=True, takes="Arguments" if self.jsonata else "Parameters"),
            resource=str(resource),
            has_token=str(resource).endswith(_TOKEN),
            timeout=timeout,
            heartbeat=heartbeat,
            **common,
        )

    def _wait(self, common: dict[str, Any]) -> State:
        said = [name for name in _WAIT_FIELDS if name in self.value]
        if len(said) != 1:
            self._report((), f"it needs one of {', '.join(_WAIT_FIELDS)}, and has {', '.join(said) or 'none'}")
        return Wait(
            flow=self._flow(),
            seconds=self._quantity("Seconds", quantities.WAIT),
            until=self._quantity("Timestamp", quantities.TIMESTAMP),
            **common,
        )

    def _fail(self, common: dict[str, Any]) -> State:
        texts = {name: self._quantity(name, quantities.TEXT) or constant(None) for name in ("Error", "Cause")}
        return Fail(flow=Flow(jsonata=self.jsonata), error=texts["Error"], cause=texts["Cause"], **common)

    def _choice(self, common: dict[str, Any]) -> State:
        rules = []
        flow = self._flow()
        if not isinstance(self.value.get("Choices"), list) or not self.value["Choices"]:
            self._report(("Choices",), "it has to be a list of at least one rule")
        for at, each in self._list("Choices"):
            if not isinstance(each, dict):
                self._report(at, "a rule is an object")
                continue
            following = self._target(each.get("Next"), (*at, "Next"))
            own = Flow(
                jsonata=flow.jsonata,
                gives=self._template(each, at, "Output") if self.jsonata else flow.gives,
                assigns=self._assigns(each, at),
            )
            read = self._jsonata_rule if self.jsonata else self._rule
            rules.append(Rule(read(each, at, True), following, own))
        default = self.value.get("Default")
        if default is not None:
            self._target(default, ("Default",))
        return Choice(flow=flow, rules=tuple(rules), default=default, **common)

    def _jsonata_rule(self, rule: Mapping[str, Any], at: Parts, _: bool) -> choices.Condition:
        self._is_object(rule, at, {"Condition", "Next", "Output", "Assign", "Comment"})
        value = rule.get("Condition")
        condition = self._compiled(value, (*at, "Condition"))
        if condition is None and not isinstance(value, bool):
            self._report((*at, "Condition"), "it has to be an expression in {% %}, true or false")
        return quantities.condition(condition or constant(value), str(value))

    def _rule(self, rule: Mapping[str, Any], at: Parts, is_first: bool) -> choices.Condition:
        """A rule, or one of the rules that it is made of."""
        words = rule.keys() - {"Comment", "Variable", "Next", "Assign"}
        if len(words) != 1:
            self._report(at, f"a rule has one operator; this has {', '.join(sorted(words)) or 'none'}")
            return lambda _: False
        (word,) = words
        if not is_first and rule.keys() & {"Next", "Assign"}:
            self._report(at, "only the outermost rule has Next and Assign")
        if word in _COMBINERS:
            return self._combined(word, rule, at)
        variable = self._read((*at, "Variable"), _variable, rule.get("Variable"))
        compared = self._compared(word, rule[word], (*at, word))
        if variable is None or compared is None:
            return lambda _: False
        name = word.removesuffix("Path")
        if name == "IsPresent":
            return choices.present(variable, compared)
        make = choices.typed if name in choices.TESTS else choices.comparison
        return make(variable, name, compared)

    def _combined(self, word: str, rule: Mapping[str, Any], at: Parts) -> choices.Condition:
        value = rule[word]
        if "Variable" in rule:
            self._report((*at, "Variable"), f"{word} has none")
        if sum(part in _COMBINERS for part in at) >= _DEEPEST:
            self._report(at, f"rules are nested deeper than {_DEEPEST} levels")
            return lambda _: False
        if word == "Not":
            if not isinstance(value, dict):
                self._report((*at, word), "it has to be a rule")
                return lambda _: False
            inner = self._rule(value, (*at, word), False)
            return lambda scope: not inner(scope)
        if not isinstance(value, list) or not value or not all(isinstance(each, dict) for each in value):
            self._report((*at, word), "it has to be a list of at least one rule")
            return lambda _: False
        rules = [self._rule(each, (*at, word, number), False) for number, each in enumerate(value)]
        if word == "And":
            return lambda scope: all(each(scope) for each in rules)
        return lambda scope: any(each(scope) for each in rules)

    def _compared(self, word: str, value: Any, at: Parts) -> Expression | None:
        """What an operator compares with."""
        name = word.removesuffix("Path")
        if name == "IsPresent" or name in choices.TESTS:
            if isinstance(value, bool) and name == word:
                return constant(value)
            self._report(at, "it has to be true or false")
        elif name not in choices.COMPARISONS or word == "StringMatchesPath":
            self._report(at, f"there is no operator {word}")
        elif name != word:
            return self._read(at, templates.path_or_call, value)
        elif choices.COMPARISONS[name][0](value):
            return constant(value)
        else:
            self._report(at, f"{value!r} is nothing that {word} compares with")
        return None

    def _parallel(self, common: dict[str, Any]) -> State:
        branches = self.value.get("Branches")
        if not isinstance(branches, list) or not branches:
            self._report(("Branches",), "it has to be a list of at least one branch")
        found = [self._inner(each, at) for at, each in self._list("Branches")]
        return Parallel(
            flow=self._flow(merges=True, takes="Arguments" if self.jsonata else "Parameters"),
            branches=tuple(each for each in found if each is not None),
            **common,
        )

    def _inner(self, value: Any, at: Parts) -> Machine | None:
        # What is inside has the language of the whole machine, not that of the state around it.
        return self.loader.machine(value, (*self.at, *at), _Outer(self.outer.depth + 1, self.is_all_jsonata))

    def _map(self, common: dict[str, Any]) -> State:
        value = self.value
        field = "ItemProcessor" if "ItemProcessor" in value else "Iterator"
        if "ItemProcessor" in value and "Iterator" in value:
            self._report(("Iterator",), "ItemProcessor is there already")
        if "ItemSelector" in value and "Parameters" in value:
            self._report(("Parameters",), "ItemSelector is there already")
        if field not in value:
            self._report(("ItemProcessor",), "a Map needs what it does with each item")
        processor = self._inner(value[field], (field,)) if field in value else None
        mode = self._mode(value.get(field))
        selector = "ItemSelector" if "ItemSelector" in value else "Parameters"
        if mode == "INLINE" and "ItemBatcher" in value:
            self._report(("ItemBatcher",), "only a Map of mode DISTRIBUTED makes batches")
        return Map(
            flow=self._flow(merges=True),
            processor=processor or Machine("", {}),
            items=self._items(),
            selector=self._template(value, (), selector),
            batches=self._batches(),
            concurrency=self._quantity("MaxConcurrency", quantities.COUNT),
            tolerated_count=self._quantity("ToleratedFailureCount", quantities.COUNT),
            tolerated_percentage=self._quantity("ToleratedFailurePercentage", quantities.PERCENTAGE),
            **common,
        )

    def _mode(self, processor: Any) -> str:
        at = ("ItemProcessor", "ProcessorConfig")
        config = processor.get("ProcessorConfig", {}) if isinstance(processor, dict) else {}
        if not self._is_object(config, at, {"Mode", "ExecutionType"}):
            return "INLINE"
        mode = config.get("Mode", "INLINE")
        self.loader._one_of(mode, ("INLINE", "DISTRIBUTED"), (*self.at, *at, "Mode"))
        return str(mode)

    def _items(self) -> Expression:
        if self.jsonata:
            if "Items" not in self.value:
                return quantities.items_of_input
            items = self._template(self.value, (), "Items") or constant(None)
            return quantities.items_from(items, "Items", str(self.value["Items"]), jsonata=True)
        text = self.value.get("ItemsPath", "$")
        path = self._read("ItemsPath", _variable, text) or constant(None)
        return quantities.items_from(path, "ItemsPath", str(text), jsonata=False)

    def _batches(self) -> Callable[[list[Any], Scope], list[Any]] | None:
        batcher = self.value.get("ItemBatcher")
        if batcher is None:
            return None
        known = {"MaxItemsPerBatch", "MaxInputBytesPerBatch", "BatchInput"}
        if not self.jsonata:
            known |= {"MaxItemsPerBatchPath", "MaxInputBytesPerBatchPath"}
        if not self._is_object(batcher, ("ItemBatcher",), known):
            return None
        inner = _StateReader(
            self.loader, self.name, batcher, (*self.at, "ItemBatcher"), self.outer, self.is_all_jsonata
        )
        most = inner._quantity("MaxItemsPerBatch", quantities.SIZE)
        largest = inner._quantity("MaxInputBytesPerBatch", quantities.SIZE)
        if most is None and largest is None:
            self._report(("ItemBatcher",), "it needs MaxItemsPerBatch or MaxInputBytesPerBatch")
        return quantities.batches(most, largest, inner._template(batcher, (), "BatchInput"))

    # ------------------------------------------------------------------ what is asked again and again

    def _list(self, name: str) -> list[tuple[Parts, Any]]:
        """The items of a field that is a list, with their places."""
        value = self.value.get(name, [])
        if not isinstance(value, list):
            self._report((name,), "it has to be a list")
            return []
        return [((name, number), each) for number, each in enumerate(value)]

    def _is_object(self, value: Any, at: Parts, known: set[str] | frozenset[str]) -> bool:
        return self.loader._is_object(value, (*self.at, *at), known)

    def _count(
        self, value: Mapping[str, Any], at: Parts, name: str, least: int, default: Any, most: int = _LONGEST_TIMEOUT
    ) -> Any:
        if name not in value:
            return default
        if self.loader._is_count(value[name], least, most):
            return value[name]
        self._report((*at, name), f"it has to be an integer from {least} to {most}")
        return default if default is not None else least


_COMBINERS = ("And", "Or", "Not")
_WAIT_FIELDS = ("Seconds", "SecondsPath", "Timestamp", "TimestampPath")
_RETRIER_FIELDS = frozenset(
    {"ErrorEquals", "IntervalSeconds", "MaxAttempts", "BackoffRate", "MaxDelaySeconds", "JitterStrategy", "Comment"}
)
_INNER_FIELDS = ("Branches", "ItemProcessor", "Iterator", "Comment")


def _own_text(state: Mapping[str, Any]) -> str:
    """The text of a state, without the states inside it."""
    return msgspec.json.encode({name: each for name, each in state.items() if name not in _INNER_FIELDS}).decode()


def _variable(text: str) -> Path:
    if is_call(text):
        raise BadPath(f"{text!r} is no path")
    return Path(text)
