"""Payload templates: JSON in which some values are expressions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from antiphon.policy.asl import expressions, intrinsics
from antiphon.policy.asl.paths import BadPath, Path
from antiphon.policy.asl.scope import Expression, constant

Parts = tuple[str | int, ...]
#: Is told what is wrong, and where.
Report = Callable[[Parts, str], None]


def path_or_call(text: object) -> Expression:
    """A JSONPath or an intrinsic function. Raises BadPath."""
    if not isinstance(text, str):
        raise BadPath("it is no text; it has to be a JSONPath or an intrinsic function")
    return intrinsics.compiled(text) if intrinsics.is_call(text) else Path(text)


def with_paths(value: Any, at: Parts, report: Report) -> Expression | None:
    """A template of JSONPath, where names that end in ``.$`` hold expressions; None if all of it is constant."""
    if isinstance(value, list):
        return _list(value, [with_paths(each, (*at, number), report) for number, each in enumerate(value)])
    if not isinstance(value, dict):
        return None
    found: dict[str, Expression | None] = {}
    plain: dict[str, Any] = {}
    for name, each in value.items():
        own = name.removesuffix(".$")
        if own in plain:
            report((*at, name), f"{own!r} is there twice, with and without .$")
        plain[own] = each
        if own == name:
            found[own] = with_paths(each, (*at, name), report)
            continue
        try:
            found[own] = path_or_call(each)
        except BadPath as error:
            report((*at, name), str(error))
    return _object(plain, found)


def with_jsonata(value: Any, at: Parts, report: Report) -> Expression | None:
    """A template of JSONata, where texts in ``{% %}`` are expressions; None if all of it is constant."""
    if isinstance(value, list):
        return _list(value, [with_jsonata(each, (*at, number), report) for number, each in enumerate(value)])
    if isinstance(value, dict):
        return _object(value, {name: with_jsonata(each, (*at, name), report) for name, each in value.items()})
    inner = expressions.enclosed(value) if isinstance(value, str) else None
    if inner is None:
        return None
    try:
        return expressions.compiled(inner, _field(at))
    except BadPath as error:
        report(at, str(error))
        return None


def _field(at: Parts) -> str:
    """The field of an expression within its state, as error texts name it: ``Output/result``."""
    states = max((number for number, part in enumerate(at) if part == "States"), default=-2)
    return "/".join(map(str, at[states + 2 :]))


def _list(value: list[Any], found: list[Expression | None]) -> Expression | None:
    if not any(found):
        return None
    parts = [each or constant(plain) for plain, each in zip(value, found, strict=True)]
    return lambda scope: [each(scope) for each in parts]


def _object(value: dict[str, Any], found: dict[str, Expression | None]) -> Expression | None:
    if not any(found.values()):
        return None
    parts = [(name, found.get(name) or constant(plain)) for name, plain in value.items()]
    return lambda scope: {name: each(scope) for name, each in parts}
