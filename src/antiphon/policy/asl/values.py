"""JSON values: when two are equal, how large one is, and how it is written into a text."""

from __future__ import annotations

import json
from typing import Any, NoReturn

import msgspec

from antiphon.errors import StateFailed
from antiphon.policy.asl.failures import DATA_LIMIT, runtime_error

#: What a state may hand on, in bytes of JSON (256 KiB).
MAX_DATA = 262_144

_encode = msgspec.json.Encoder().encode
_SMALL = (int, float, bool, type(None))


def is_number(value: object) -> bool:
    """Whether *value* is a JSON number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def equal(one: Any, other: Any) -> bool:
    """Whether two JSON values are the same; 1 is 1.0, and true is not 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(value, other[name]) for name, value in one.items())
    return bool(one == other)


def checked(value: Any, name: str) -> Any:
    """*value*, if state *name* may hand it on. Raises StateFailed if it is too large, or has no JSON form."""
    if isinstance(value, _SMALL):
        return value
    try:
        size = len(_encode(value))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise runtime_error(f"The state '{name}' came to a value that has no JSON form: {error}") from error
    if size > MAX_DATA:
        raise StateFailed(
            DATA_LIMIT,
            f"The state/task '{name}' returned a result with a size exceeding the maximum number of bytes service "
            "limit.",
        )
    return value


def compact(value: Any) -> str:
    """*value* as JSON without spaces."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def parsed(text: str) -> Any:
    """The value in *text*. Raises ValueError (also for NaN and infinities), RecursionError."""
    return json.loads(text, parse_constant=_refuse)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
