"""What an expression of a state can see, and what it may ask for that is new each time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

#: Evaluates something of a definition. Raises StateFailed.
Expression = Callable[["Scope"], Any]


class Oracle(Protocol):
    """Time, chance and ids: whoever drives a machine records the answers, so that they come again."""

    def now_ms(self) -> int:
        """Unix milliseconds."""

    def random(self) -> float:
        """A number in [0, 1)."""

    def uuid(self) -> str:
        """A new UUID."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What the expressions of one state see.

    *input* is the state's own; *focus* is what JSONPath's ``$`` means at this point; *extra* is what JSONata's
    ``$states`` holds besides input and context (``result``, ``errorOutput``). *context* is the context object.
    """

    input: Any
    focus: Any
    context: Mapping[str, Any]
    variables: Mapping[str, Any]
    oracle: Oracle
    extra: Mapping[str, Any]

    def at(self, focus: Any) -> Scope:
        """The same, where ``$`` means *focus*."""
        return Scope(self.input, focus, self.context, self.variables, self.oracle, self.extra)

    def told(self, name: str, value: Any) -> Scope:
        """The same, where ``$`` means *value*, and ``$states`` holds it as *name*."""
        return Scope(self.input, value, self.context, self.variables, self.oracle, {**self.extra, name: value})


def constant(value: Any) -> Expression:
    """An expression that is the same everywhere."""
    return lambda _: value
