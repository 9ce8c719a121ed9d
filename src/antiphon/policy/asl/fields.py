"""Reads the fields of one JSON object of a definition, and reports what is wrong with them, and where."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from antiphon.errors import DeclarationError
from antiphon.model.jsontext import path_of
from antiphon.policy.asl import quantities, templates
from antiphon.policy.asl.intrinsics import is_call
from antiphon.policy.asl.paths import BadPath, Path, Steps
from antiphon.policy.asl.scope import Expression, constant
from antiphon.policy.asl.templates import Parts

_MOST_PROBLEMS = 10
LONGEST_NAME = 80
_LONGEST_COUNT = 99_999_999

T = TypeVar("T")


class Problems:
    """What is wrong with a definition."""

    def __init__(self) -> None:
        self.found: list[tuple[Parts, str]] = []

    def report(self, at: Parts, what: str) -> None:
        """Something is wrong at a place."""
        self.found.append((at, what))

    def refusal(self, where: str) -> DeclarationError:
        """The error that says all that is wrong."""
        told = [f"{path_of(at)}: {what}" for at, what in self.found[:_MOST_PROBLEMS]]
        if len(self.found) > len(told):
            told.append(f"and {len(self.found) - len(told)} more")
        return DeclarationError("; ".join(told), where=where)

    def is_object(self, value: Any, at: Parts, known: set[str] | frozenset[str]) -> bool:
        """Whether *value* is an object with no other than the *known* fields."""
        if not isinstance(value, dict):
            self.report(at, "it has to be an object")
            return False
        for name in value.keys() - known:
            self.report((*at, name), f"there is no such field; there are {', '.join(sorted(known))}")
        return True

    def is_one_of(self, value: Any, allowed: Any, at: Parts) -> bool:
        """Whether *value* is one of the *allowed* texts."""
        if isinstance(value, str) and value in allowed:
            return True
        self.report(at, f"it is {value!r}; it has to be one of {', '.join(allowed)}")
        return False


class Fields:
    """The fields of a state, or of something in one, in the language of the state.

    *at* is its place; places that the methods take are below it. *states* are those that it can go on with.
    """

    def __init__(
        self, problems: Problems, value: Mapping[str, Any], at: Parts, states: Mapping[str, Any], *, jsonata: bool
    ) -> None:
        self.problems = problems
        self.value = value
        self.at = at
        self.states = states
        self.jsonata = jsonata

    def report(self, at: Parts, what: str) -> None:
        """Something is wrong at a place."""
        self.problems.report((*self.at, *at), what)

    def is_object(self, value: Any, at: Parts, known: set[str] | frozenset[str]) -> bool:
        """Whether *value* is an object with no other than the *known* fields."""
        return self.problems.is_object(value, (*self.at, *at), known)

    def target(self, name: Any, at: Parts) -> str:
        """The name of a state to go on with."""
        if not isinstance(name, str) or name not in self.states:
            self.report(at, f"there is no state {name!r} here")
        return str(name)

    def path(self, name: str) -> Expression | None:
        """InputPath and OutputPath: null stands for an empty object."""
        if name not in self.value:
            return None
        if self.value[name] is None:
            return lambda _: {}
        return self.read_text(name, Path, self.value[name])

    def result_path(self, value: Mapping[str, Any], at: Parts) -> Steps | None:
        """Where a result goes in the input: the steps of ResultPath; None nowhere."""
        if "ResultPath" not in value:
            return ()
        text = value["ResultPath"]
        if text is None:
            return None
        path = self.read_text((*at, "ResultPath"), Path, text)
        if path is not None and path.steps is None:
            self.report((*at, "ResultPath"), f"{text!r} is no reference path: names and indexes below $")
        return path.steps if path is not None else None

    def template(self, value: Mapping[str, Any], at: Parts, name: str) -> Expression | None:
        """The template in a field; None if there is none."""
        if name not in value:
            return None
        found = self.compiled(value[name], (*at, name))
        return found or constant(value[name])

    def compiled(self, value: Any, at: Parts) -> Expression | None:
        """The template *value* in the language of the state; None if all of it is constant."""
        compile_template = templates.with_jsonata if self.jsonata else templates.with_paths
        return compile_template(value, (*self.at, *at), self.problems.report)

    def assigns(self, value: Mapping[str, Any], at: Parts) -> Expression | None:
        """The variables of Assign; None if there are none."""
        if "Assign" not in value:
            return None
        assigned = value["Assign"]
        if not isinstance(assigned, dict):
            self.report((*at, "Assign"), "it has to be an object of variables")
            return None
        for name in assigned:
            own = name if self.jsonata else name.removesuffix(".$")
            if not own.isidentifier() or len(own) > LONGEST_NAME or own == "states":
                self.report((*at, "Assign", name), f"{own!r} cannot name a variable")
        return self.template(value, at, "Assign")

    def read_text(self, at: str | Parts, read: Callable[[Any], T], value: Any) -> T | None:
        """What *read* makes of a text; None if it is none, or raises BadPath."""
        try:
            if not isinstance(value, str):
                raise BadPath(f"it is {value!r}; it has to be a text")
            return read(value)
        except BadPath as error:
            self.report((at,) if isinstance(at, str) else at, str(error))
            return None

    def quantity(self, name: str, kind: quantities.Quantity) -> Expression | None:
        """A number, from the field, from its ``Path`` twin, or from an expression."""
        by_path = f"{name}Path"
        if name in self.value and by_path in self.value:
            self.report((by_path,), f"{name} is there already")
        if by_path in self.value:
            path = self.read_text(by_path, templates.path_or_call, self.value[by_path])
            return path and quantities.from_path(path, by_path, str(self.value[by_path]), kind)
        if name not in self.value:
            return None
        value = self.value[name]
        if self.jsonata and isinstance(value, str):
            found = self.compiled(value, (name,))
            if found is not None:
                return quantities.from_jsonata(found, name, value, kind)
        if not kind.is_right(value):
            self.report((name,), f"it is {value!r}; it has to be {kind.words}")
        return constant(value)

    def items_of(self, name: str) -> list[tuple[Parts, Any]]:
        """The items of a field that is a list, with their places."""
        value = self.value.get(name, [])
        if not isinstance(value, list):
            self.report((name,), "it has to be a list")
            return []
        return [((name, number), each) for number, each in enumerate(value)]

    def count(
        self, value: Mapping[str, Any], at: Parts, name: str, least: int, default: Any, most: int = _LONGEST_COUNT
    ) -> Any:
        """An integer in a field of *value*, or *default*."""
        if name not in value:
            return default
        if is_count(value[name], least, most):
            return value[name]
        self.report((*at, name), f"it has to be an integer from {least} to {most}")
        return default if default is not None else least


def is_count(value: Any, least: int, most: int = _LONGEST_COUNT) -> bool:
    """Whether *value* is an integer from *least* to *most*."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def variable(text: str) -> Path:
    """A path, and no intrinsic function. Raises BadPath."""
    if is_call(text):
        raise BadPath(f"{text!r} is no path")
    return Path(text)
