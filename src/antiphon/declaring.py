"""What services and apps have in common when they are declared: names, places, options."""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, ParamSpec, TypeVar

from antiphon.errors import DeclarationError

P = ParamSpec("P")
R = TypeVar("R")

_OURS = frozenset(
    {"antiphon.declaring", "antiphon.service", "antiphon.app", "antiphon.workflow", "antiphon.replicated"}
)
_NAME = re.compile(r"[a-z][a-z0-9_]{0,47}")
#: Names that a data directory or the log itself uses.
_RESERVED = frozenset({"antiphon", "bus", "gateway"})


def check_name(name: str, what: str, where: str) -> str:
    """*name*, if it can name a service or an app; its file, its metrics and its log entries bear it.

    Raises DeclarationError with the rule.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise DeclarationError(
            f"{name!r} cannot name {what}",
            where=where,
            mend="A name is a lower-case letter, then lower-case letters, digits and underscores, 48 at most",
        )
    if name in _RESERVED:
        raise DeclarationError(f"{name!r} cannot name {what}", where=where, mend="That name is taken by Antiphon")
    return name


def known_options(method: Callable[P, R]) -> Callable[P, R]:
    """Wrap *method* so that an option it does not have is a DeclarationError that names those it has."""
    parameters = inspect.signature(method).parameters.values()
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    allowed = [each.name for each in parameters if each.kind in named and each.name != "self"]

    @functools.wraps(method)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        if unknown := [name for name in kwargs if name not in allowed]:
            raise DeclarationError(
                f"{method.__qualname__} has no option {', '.join(map(repr, unknown))}",
                where=place(caller()),
                mend=f"Its options are {', '.join(allowed)}",
            )
        return method(*args, **kwargs)

    return checked


def caller() -> FrameType | None:
    """The frame of the user's code that declares something right now."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__") in _OURS:
        frame = frame.f_back
    return frame


def place(frame: FrameType | None) -> str:
    """``file:line`` of *frame*."""
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else ""


def place_of(fn: Callable[..., Any]) -> str:
    """``file:line`` of a function."""
    code = inspect.unwrap(fn).__code__
    return f"{code.co_filename}:{code.co_firstlineno}"
