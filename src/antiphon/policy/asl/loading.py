"""Reads a definition: every field is checked and compiled, and what is not supported is refused with its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from antiphon.errors import AntiphonError, DeclarationError
from antiphon.model.jsontext import strict_json
from antiphon.policy.asl.fields import LONGEST_NAME, Problems, is_count
from antiphon.policy.asl.machine import Machine, State
from antiphon.policy.asl.states import FIELDS, StateReader, known_fields, why_unknown
from antiphon.policy.asl.templates import Parts

#: A definition, in bytes.
MAX_DEFINITION = 1024 * 1024
_MOST_STATES = 2_000
_DEEPEST = 12
_LANGUAGES = ("JSONPath", "JSONata")
_MACHINE_FIELDS = frozenset({"StartAt", "States", "Comment", "Version", "TimeoutSeconds", "QueryLanguage"})
_BRANCH_FIELDS = frozenset({"StartAt", "States", "Comment", "ProcessorConfig"})


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
    if loader.problems.found:
        raise loader.problems.refusal(where)
    assert machine is not None
    return machine


@dataclass(frozen=True)
class _Outer:
    """What is around a state or a branch: how deep it lies, the machine's language, the states it can go on with."""

    depth: int = 0
    jsonata: bool = False
    states: Mapping[str, Any] = field(default_factory=dict)


class _Loader:
    """Reads one definition."""

    def __init__(self) -> None:
        self.problems = Problems()
        self.names: set[str] = set()

    def machine(self, value: Any, at: Parts, outer: _Outer | None = None) -> Machine | None:
        """The machine, or branch, that *value* describes; None if it is none."""
        outer = outer or _Outer()
        if not self.problems.is_object(value, at, _BRANCH_FIELDS if outer.depth else _MACHINE_FIELDS):
            return None
        if outer.depth > _DEEPEST:
            self.problems.report(at, f"branches are nested deeper than {_DEEPEST} levels")
            return None
        language = value.get("QueryLanguage", "JSONPath")
        if not outer.depth and self.problems.is_one_of(language, _LANGUAGES, (*at, "QueryLanguage")):
            outer = _Outer(jsonata=language == "JSONata")
        states = value.get("States")
        if not isinstance(states, dict) or not states:
            self.problems.report((*at, "States"), "it has to be an object with at least one state")
            return None
        start = value.get("StartAt")
        if not isinstance(start, str) or start not in states:
            self.problems.report((*at, "StartAt"), f"there is no state {start!r} here")
        for name in states:
            self._name(name, (*at, "States", name))
        found = {
            name: self.state(state, (*at, "States", name), _Outer(outer.depth, outer.jsonata, states))
            for name, state in states.items()
        }
        if not any(_ends(state) for state in states.values()):
            self.problems.report(
                (*at, "States"), 'no state ends it: none has "End": true, and none is a Succeed or Fail'
            )
        timeout = value.get("TimeoutSeconds")
        if timeout is not None and not is_count(timeout, 1):
            self.problems.report((*at, "TimeoutSeconds"), "it has to be an integer from 1")
        if any(each is None for each in found.values()) or not isinstance(start, str):
            return None
        return Machine(start, {name: each for name, each in found.items() if each}, timeout, value.get("Comment"))

    def _name(self, name: str, at: Parts) -> None:
        if not 0 < len(name) <= LONGEST_NAME:
            self.problems.report(at, f"a state's name has 1 to {LONGEST_NAME} characters")
        if name in self.names:
            self.problems.report(at, f"another state of the machine is named {name!r} too")
        self.names.add(name)
        if len(self.names) == _MOST_STATES + 1:
            self.problems.report(at, f"there are more than {_MOST_STATES} states")

    def state(self, value: Any, at: Parts, outer: _Outer) -> State | None:
        """The state that *value* describes; None if it is none."""
        report = self.problems.report
        if not isinstance(value, dict):
            report(at, "a state is an object")
            return None
        kind = str(value.get("Type"))
        if not self.problems.is_one_of(kind, FIELDS, (*at, "Type")):
            return None
        language = value.get("QueryLanguage", "JSONata" if outer.jsonata else "JSONPath")
        self.problems.is_one_of(language, _LANGUAGES, (*at, "QueryLanguage"))
        jsonata = language == "JSONata"
        if outer.jsonata and not jsonata:
            report((*at, "QueryLanguage"), "it cannot be JSONPath in a machine whose language is JSONata")
        for name in value.keys() - known_fields(kind, jsonata=jsonata):
            report((*at, name), why_unknown(name, kind, jsonata=jsonata))

        def read_branch(branch: Any, place: Parts) -> Machine | None:
            # What is inside has the language of the whole machine, not that of the state around it.
            return self.machine(branch, place, _Outer(outer.depth + 1, outer.jsonata))

        before = len(self.problems.found)
        found = StateReader(self.problems, value, at, outer.states, read_branch, jsonata=jsonata).read(kind)
        return found if len(self.problems.found) == before else None


def _ends(state: Any) -> bool:
    return isinstance(state, dict) and (state.get("End") is True or state.get("Type") in ("Succeed", "Fail"))
