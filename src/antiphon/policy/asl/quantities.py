"""Fields of a state that are numbers, times, texts or lists, given as such, by a path, or by an expression."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import Any

import msgspec

from antiphon.errors import StateFailed
from antiphon.policy.asl.choices import moment_of
from antiphon.policy.asl.failures import QUERY, runtime_error
from antiphon.policy.asl.scope import Expression, Scope
from antiphon.policy.asl.values import MAX_DATA, compact, is_number

_LONGEST = 99_999_999
#: Items of one Map.
MOST_ITEMS = 40_000


@dataclass(frozen=True)
class Quantity:
    """What a field may be. *words* end the sentence "it has to be"; *texts*: a number may come as text by a path."""

    is_right: Callable[[Any], bool]
    words: str
    refusal: str
    texts: bool = False


def _integer(least: int, most: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_percentage(value: Any) -> bool:
    return is_number(value) and isfinite(value) and 0 <= value <= 100


SECONDS = Quantity(_integer(1, _LONGEST), "an integer from 1", "is not a positive integer")
WAIT = Quantity(_integer(0, _LONGEST), "an integer from 0", "cannot be parsed as a long value")
COUNT = Quantity(_integer(0, _LONGEST), "an integer from 0", "is not a valid integer", texts=True)
SIZE = Quantity(_integer(1, _LONGEST), "an integer from 1", "is not a valid integer", texts=True)
PERCENTAGE = Quantity(_is_percentage, "a number from 0 to 100", "must be between 0 and 100")
TIMESTAMP = Quantity(
    lambda value: moment_of(value) is not None,
    "a time with a zone (RFC 3339), such as 2026-01-31T08:00:00Z",
    "does not reference a valid ISO-8601 extended offset date-time format string",
)
TEXT = Quantity(lambda value: isinstance(value, str), "a text", "is no text")


def from_path(path: Expression, field: str, text: str, kind: Quantity) -> Expression:
    """The number that *path* selects. It raises StateFailed for a value that the *field* cannot be."""

    def read(scope: Scope) -> Any:
        value = path(scope)
        if kind.texts and isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 10:
            value = int(value)
        if not kind.is_right(value):
            raise runtime_error(f"The {field} parameter {kind.refusal}: {text} == {_shown(value)}")
        return value

    return read


def from_jsonata(expression: Expression, field: str, text: str, kind: Quantity) -> Expression:
    """The number that *expression* comes to. It raises StateFailed for a value that the *field* cannot be."""

    def read(scope: Scope) -> Any:
        value = expression(scope)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not kind.is_right(value):
            raise _unexpected(text, field, kind.words, value)
        return value

    return read


def condition(expression: Expression, text: str) -> Callable[[Scope], bool]:
    """The condition of a rule. It raises StateFailed if it is neither true nor false."""

    def holds(scope: Scope) -> bool:
        value = expression(scope)
        if not isinstance(value, bool):
            raise _unexpected(text, "Condition", "boolean", value)
        return value

    return holds


def items_of_input(scope: Scope) -> list[Any]:
    """The input of a Map that says no items. Raises StateFailed if it is no array."""
    return _items(scope.input, StateFailed(QUERY, f"Map state input must be an array but was: {_shown(scope.input)}"))


def items_from(expression: Expression, field: str, text: str, *, jsonata: bool) -> Expression:
    """The items that *expression* gives. It raises StateFailed if they are no array."""

    def read(scope: Scope) -> list[Any]:
        value = expression(scope)
        if jsonata:
            return _items(value, _unexpected(text, field, "array", value))
        return _items(value, runtime_error(f"Reference path '{text}' must point to array: {_shown(value)}"))

    return read


def _items(value: Any, otherwise: StateFailed) -> list[Any]:
    if not isinstance(value, list):
        raise otherwise
    if len(value) > MOST_ITEMS:
        raise runtime_error(f"a Map has at most {MOST_ITEMS:,} items, not {len(value):,}")
    return value


def _unexpected(text: str, field: str, wanted: str, value: Any) -> StateFailed:
    return StateFailed(
        QUERY,
        f"The JSONata expression '{text.removeprefix('{%').removesuffix('%}').strip()}' specified for the field "
        f"'{field}' returned an unexpected result type. Expected '{wanted}', but was '{_type(value)}' for value: "
        f"{_shown(value)}",
    )


def _type(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    names: dict[type, str] = {str: "string", list: "array", dict: "object"}
    return names.get(type(value), "number")


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else compact(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def batches(
    most: Expression | None, largest: Expression | None, batch_input: Expression | None
) -> Callable[[list[Any], Scope], list[Any]]:
    """Joins items into batches, each with at most so many items and so many bytes."""

    def join(items: list[Any], scope: Scope) -> list[Any]:
        count = most(scope) if most is not None else len(items)
        room = min(largest(scope), MAX_DATA) if largest is not None else MAX_DATA
        shared = {} if batch_input is None else {"BatchInput": batch_input(scope)}
        empty = len(msgspec.json.encode({"Items": [], **shared}))
        found: list[list[Any]] = []
        size = 0
        for item in items:
            own = len(msgspec.json.encode(item)) + 1
            if not found or len(found[-1]) >= count or size + own > room:
                found.append([])
                size = empty
            found[-1].append(item)
            size += own
        return [{**shared, "Items": each} for each in found]

    return join
