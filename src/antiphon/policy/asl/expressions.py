"""JSONata as state machines use it: compiled once, bounded, with time and chance from the oracle."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NoReturn

from antiphon.errors import StateFailed
from antiphon.policy.asl.failures import QUERY
from antiphon.policy.asl.intrinsics import chance, hashed
from antiphon.policy.asl.paths import BadPath, missing_library
from antiphon.policy.asl.scope import Expression, Scope
from antiphon.policy.asl.values import MAX_DATA, parsed

#: Evaluations of one expression, frames of Python that it may nest (some forty levels of a function that calls
#: itself), and items or characters of one value on the way. Counted, not timed: an expression that came to its end
#: once must do so whenever the run is answered from its journal.
_MOST_STEPS = 200_000
_DEEPEST = 400
_LARGEST = 1_000_000
_LONGEST = 32_768

_ENCLOSED = re.compile(r"\{%(.*)%\}", re.DOTALL)
#: `$eval` runs text as code; the other is how the library's own bounds are bound.
_FORBIDDEN = re.compile(r"\$eval\b|__evaluate")


def enclosed(text: str) -> str | None:
    """The expression between ``{%`` and ``%}``; None if *text* is just a text."""
    found = _ENCLOSED.fullmatch(text)
    return None if found is None else found[1].strip()


def compiled(text: str, field: str) -> Expression:
    """The JSONata expression *text* of the field *field*. Raises BadPath if it is none, or calls what is refused."""
    jsonata = _library()
    if len(text) > _LONGEST:
        raise BadPath(f"an expression of {len(text)} characters; the limit is {_LONGEST}")
    if found := _FORBIDDEN.search(text):
        raise BadPath(f"{found[0]} is not supported in JSONata expressions")
    try:
        query = jsonata.Jsonata(text)
    except Exception as error:
        raise BadPath(f"{text!r} is no JSONata expression ({_reason(error)})") from error
    query.set_output_convert_nulls(False)
    # What comes in has been JSON, or was checked when it came out of another expression.
    query.set_validate_input(False)

    def evaluate(scope: Scope) -> Any:
        try:
            found = query.evaluate(None, _bindings(scope))
            value = plain(found)
        except StateFailed:
            raise
        except Exception as error:
            raise StateFailed(
                QUERY, f"The JSONata expression '{text}' specified for the field '{field}' failed: {_reason(error)}"
            ) from error
        if found is None:
            raise StateFailed(
                QUERY,
                f"The JSONata expression '{text}' specified for the field '{field}' returned nothing (undefined).",
            )
        return value

    return evaluate


@cache
def _library() -> Any:
    """The library. It raises the limit of recursion for all of the process, which guards more than its own."""
    limit = sys.getrecursionlimit()
    try:
        import jsonata
    except ImportError as error:
        raise missing_library("jsonata-python") from error
    finally:
        sys.setrecursionlimit(limit)
    return jsonata


def _reason(error: Exception) -> str:
    return "too deep a recursion" if isinstance(error, RecursionError) else str(error) or type(error).__name__


class _Bounds:
    """Counts what one evaluation does, and ends it."""

    def __init__(self) -> None:
        self.steps = 0
        self._base = sys._getframe(2)  # that of the evaluation

    def enter(self, _expression: Any, _input: Any, _frame: Any) -> None:
        """Before anything is evaluated. Raises ValueError."""
        self.steps += 1
        if self.steps > _MOST_STEPS:
            raise ValueError(f"more than {_MOST_STEPS:,} evaluations")
        # Calls by the library's own functions nest frames without nesting evaluations.
        frame, depth = sys._getframe(1), 0
        while frame is not self._base and frame.f_back is not None:
            frame, depth = frame.f_back, depth + 1
        if depth > _DEEPEST:
            raise ValueError("too deep a recursion")

    def leave(self, _expression: Any, _input: Any, _frame: Any, result: Any) -> None:
        """After something is evaluated. Raises ValueError."""
        if isinstance(result, str | list) and len(result) > _LARGEST:
            raise ValueError(f"a value of more than {_LARGEST:,} items or characters")


def _bindings(scope: Scope) -> dict[str, Any]:
    library = _library()
    functions, utils = library.functions.Functions, library.utils.Utils
    bounds, oracle = _Bounds(), scope.oracle

    def function(call: Callable[..., Any]) -> Any:
        return library.Jsonata.JLambda(call)

    def now(picture: str | None = None, zone: str | None = None) -> Any:
        return functions.datetime_from_millis(oracle.now_ms(), picture, zone)

    def pad(text: Any, width: Any = None, sign: Any = None) -> Any:
        if isinstance(width, int | float) and abs(width) > _LARGEST:
            raise ValueError(f"$pad to more than {_LARGEST:,} characters")
        return functions.pad(text, width, sign)

    return {
        **{name: utils.NULL_VALUE if value is None else value for name, value in scope.variables.items()},
        "states": {"input": scope.input, "context": scope.context, **scope.extra},
        "__evaluate_entry": bounds.enter,
        "__evaluate_exit": bounds.leave,
        "now": function(now),
        "millis": function(oracle.now_ms),
        "random": function(lambda seed=None: chance(seed, oracle)),
        "shuffle": function(lambda items=None: _shuffled(items, oracle.random)),
        "uuid": function(oracle.uuid),
        "pad": function(pad),
        "partition": function(_partition),
        "range": function(lambda first, last, step: _range(utils.create_sequence, first, last, step)),
        "hash": function(hashed),
        "parse": function(lambda text: utils.NULL_VALUE if (value := parsed(text)) is None else value),
    }


def plain(value: Any) -> Any:
    """*value* as JSON values alone. Raises StateFailed for a function, ValueError for a value that is too large."""
    left = MAX_DATA

    def copied(value: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise ValueError(f"a value of more than {MAX_DATA:,} parts")
        if value is None or isinstance(value, str | bool | int | float):
            return value
        if isinstance(value, Mapping):
            return {str(name): copied(each) for name, each in value.items()}
        if isinstance(value, Sequence):
            return [copied(each) for each in value]
        if type(value).__name__ == "NullValue":
            return None
        raise ValueError("it returned a function, which is no JSON value")

    return copied(value)


def _shuffled(items: Any, random: Callable[[], float]) -> Any:
    if not isinstance(items, list):
        return items
    rest, found = list(items), []
    while rest:
        found.append(rest.pop(int(random() * len(rest))))
    return found


def _partition(items: Any, size: Any) -> Any:
    if not isinstance(items, list) or not isinstance(size, int | float) or size < 1:
        _wrong("$partition takes an array, and a size from 1")
    size = int(size)
    return [items[at : at + size] for at in range(0, len(items), size)]


def _range(sequence: Callable[[], list[Any]], first: Any, last: Any, step: Any) -> Any:
    """The numbers from *first* to *last*; as any sequence of JSONata, one alone is no array."""
    if not all(isinstance(each, int) and not isinstance(each, bool) for each in (first, last, step)) or step == 0:
        _wrong("$range takes three integers, the last of them not 0")
    numbers = range(first, last + (1 if step > 0 else -1), step)
    if len(numbers) > 1000:
        _wrong("$range has more than 1000 numbers")
    found = sequence()
    found.extend(numbers)
    return found


def _wrong(what: str) -> NoReturn:
    raise ValueError(what)
