"""The rules of Choice states in JSONPath: operators, and what holds of which value."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from antiphon.policy.asl.failures import runtime_error
from antiphon.policy.asl.paths import MISSING, Path
from antiphon.policy.asl.scope import Expression, Scope
from antiphon.policy.asl.values import is_number

Test = Callable[[Any], bool]
Condition = Callable[[Scope], bool]

_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?(Z|[+-]\d\d:\d\d)")


def moment_of(value: object) -> datetime | None:
    """The time that an RFC 3339 text says, in UTC; None if it says none. Digits past the microsecond are dropped."""
    found = _TIME.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return None
    zone = "+00:00" if found[3] == "Z" else found[3]
    try:
        return datetime.fromisoformat(f"{found[1]}.{(found[2] or '')[:6]:0<6}{zone}").astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_boolean(value: object) -> bool:
    return isinstance(value, bool)


def _is_time(value: object) -> bool:
    return moment_of(value) is not None


#: What a comparison compares: the word that its operator begins with, who it is for, what is compared.
KINDS: dict[str, tuple[Test, Callable[[Any], Any]]] = {
    "String": (_is_text, lambda value: value),
    "Numeric": (is_number, lambda value: value),
    "Boolean": (_is_boolean, lambda value: value),
    "Timestamp": (_is_time, moment_of),
}
_RELATIONS: dict[str, Callable[[Any, Any], bool]] = {
    "Equals": operator.eq,
    "LessThan": operator.lt,
    "GreaterThan": operator.gt,
    "LessThanEquals": operator.le,
    "GreaterThanEquals": operator.ge,
}


def _of_both(of: Callable[[Any], Any], compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    return lambda one, other: compare(of(one), of(other))


def matches(text: str, pattern: str) -> bool:
    r"""Whether *text* is of *pattern*, where ``*`` stands for any text, and ``\\*`` for itself. In linear passes."""
    parts = _parts(pattern)
    if len(parts) == 1:
        return text == parts[0]
    first, *middle, last = parts
    if len(text) < len(first) + len(last) or not (text.startswith(first) and text.endswith(last)):
        return False
    at, end = len(first), len(text) - len(last)
    for part in middle:
        found = text.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


def _parts(pattern: str) -> list[str]:
    """The texts between the wildcards of *pattern*."""
    parts, at = [""], 0
    while at < len(pattern):
        each = pattern[at]
        if each == "\\" and pattern[at + 1 : at + 2] in ("*", "\\"):
            at += 1
            parts[-1] += pattern[at]
        elif each == "*":
            parts.append("")
        else:
            parts[-1] += each
        at += 1
    return parts


#: Each comparison by its name: who it is for, and how it compares.
COMPARISONS: dict[str, tuple[Test, Callable[[Any, Any], bool]]] = {
    f"{kind}{relation}": (is_kind, _of_both(of, compare))
    for kind, (is_kind, of) in KINDS.items()
    for relation, compare in _RELATIONS.items()
    if kind != "Boolean" or relation == "Equals"
}
COMPARISONS["StringMatches"] = (_is_text, matches)

#: Each test of a value's type by its name.
TESTS: dict[str, Test] = {
    "IsNull": lambda value: value is None,
    "IsNumeric": is_number,
    "IsString": _is_text,
    "IsBoolean": _is_boolean,
    "IsTimestamp": _is_time,
}


def comparison(variable: Path, name: str, wanted: Expression) -> Condition:
    """The rule that *variable* compares so with what *wanted* gives; values of other types do not."""
    is_kind, compare = COMPARISONS[name]

    def holds(scope: Scope) -> bool:
        value, other = _value(variable, scope), wanted(scope)
        return is_kind(value) and is_kind(other) and compare(value, other)

    return holds


def typed(variable: Path, name: str, wanted: Expression) -> Condition:
    """The rule that the value of *variable* is, or is not, of a type."""
    test = TESTS[name]
    return lambda scope: test(_value(variable, scope)) is wanted(scope)


def present(variable: Path, wanted: Expression) -> Condition:
    """The rule that *variable* selects something, or nothing."""

    def holds(scope: Scope) -> bool:
        found = variable.look(scope)
        return (found is not MISSING and (variable.definite or bool(found))) is wanted(scope)

    return holds


def _value(variable: Path, scope: Scope) -> Any:
    found = variable.look(scope)
    if found is MISSING:
        raise runtime_error(
            f"Invalid path '{variable.text}': The choice state's condition path references an invalid value."
        )
    return found
