"""What an app says of itself to the simulator: what must hold, what comes in, who stands in for the outside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

When = Literal["always", "end"]


class Look(Protocol):
    """A look at what is committed, in every store at the same moment."""

    def rows(self, service: str, sql: str, *parameters: Any) -> Sequence[Any]:
        """All rows of a query on the store of *service*. A row has index and name access."""

    def value(self, service: str, sql: str, *parameters: Any) -> Any:
        """The first column of the first row, or None."""

    def dead_keys(self) -> set[str | None]:
        """The keys of all events that some handler of any service has as a dead letter."""

    def outside(self, host: str, port: int) -> Mapping[str, Any]:
        """What the stand-in at an address remembers: the dict that its function was given."""


@dataclass(frozen=True)
class InvariantSpec:
    """Something that must hold: *check* raises AssertionError where it does not."""

    name: str
    check: Callable[[Look], None]
    when: When
    source: str


@dataclass(frozen=True)
class TrafficSpec:
    """A function of a seeded ``random.Random`` that makes one thing to come in.

    That is an event, which is published, or ``(method, path, json)``, which is sent to the gateway.
    """

    name: str
    make: Callable[[Any], Any]
    weight: float
    source: str
