"""What has to be undone, and in which order."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Protocol, TypeVar


class Done(Protocol):
    """A step that was done: *nr* tells the order in which steps ended."""

    @property
    def position(self) -> str: ...

    @property
    def nr(self) -> int: ...


D = TypeVar("D", bound=Done)


def to_undo(done: Iterable[D], undone: Collection[str]) -> list[D]:
    """The steps to undo, the last one first; those at positions in *undone* are undone already."""
    return sorted((step for step in done if step.position not in undone), key=lambda step: step.nr, reverse=True)
