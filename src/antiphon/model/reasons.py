"""The decoders' errors in plain words, with the exact path."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from antiphon.model.jsontext import path_of

FailsWith = Callable[[object], str | None]

_AT = re.compile(r"(?s)(?P<what>.*?)(?: - at (?P<key>`key` in )?`(?P<path>[^`]*)`)?")
_FIELD = re.compile(r"Object (?:missing (required)|contains (unknown)) field `(.+)`")


def msgspec_reason(error: Exception, value: object, fails_with: FailsWith) -> tuple[str, str]:
    """Path and reason of msgspec's *error* over the JSON *value*.

    *fails_with* decodes another value and gives the message that it fails with, or None.
    """
    match = _AT.fullmatch(str(error))
    assert match is not None
    path = _exact_path(match["path"] or "$", str(error), value, fails_with)
    what = match["what"]
    if field := _FIELD.fullmatch(what):
        required, _, name = field.groups()
        return path + path_of([name])[1:], "this required field is missing" if required else "unknown field"
    reason = what.replace(" | ", " or ").replace("`", "")
    if reason.startswith(("Expected", "Invalid", "Number")):
        reason = reason[0].lower() + reason[1:]
    return path, f"a key: {reason}" if match["key"] else reason


def _exact_path(path: str, message: str, value: Any, fails_with: FailsWith) -> str:
    """*path* with each ``[...]`` replaced by the key meant.

    msgspec names the fields of structs but not the keys of dicts. It stops at the first bad one, so the
    shortest beginning of the dict that fails in the same way ends with it.
    """
    parts: list[str | int] = []
    here = value
    for token in re.findall(r"\[\.\.\.\]|\[\d+\]|[^.\[\]$]+", path):
        part: str | int = int(token[1:-1]) if token[1:-1].isdigit() and token[0] == "[" else token
        if token == "[...]":
            if not isinstance(here, dict):
                break
            part = _first_bad_key(here, lambda: fails_with(value) == message)
        parts.append(part)
        try:
            here = here[part]
        except (KeyError, IndexError, TypeError):
            break
    return path_of(parts)


def _first_bad_key(mapping: dict[str, Any], still_fails: Callable[[], bool]) -> str:
    items = list(mapping.items())
    low, high = 0, len(items) - 1
    while low < high:
        middle = (low + high) // 2
        mapping.clear()
        mapping.update(items[: middle + 1])
        low, high = (low, middle) if still_fails() else (middle + 1, high)
    mapping.clear()
    mapping.update(items)
    return items[low][0]


def pydantic_reason(error: Any, value: Any) -> tuple[str, str]:
    """Path and reason of one entry of Pydantic's ``errors()`` over the JSON *value*."""
    parts: list[str | int] = []
    here = value
    for part in error["loc"]:
        # Locations also name members of unions, which are no part of the data.
        known = isinstance(here, dict) and part in here
        if known or (isinstance(here, list) and isinstance(part, int) and part < len(here)):
            parts.append(part)
            here = here[part]
    if error["type"] == "missing":
        return path_of([*parts, error["loc"][-1]]), "this required field is missing"
    message: str = error["msg"]
    return path_of(parts), message[0].lower() + message[1:]
