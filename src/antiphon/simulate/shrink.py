"""Finds the shortest list that still fails, by leaving things out (delta debugging)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def shrink(items: Sequence[T], fails: Callable[[list[T]], bool], *, budget: int = 200) -> list[T]:
    """A part of *items*, in their order, that still fails, of which nothing more can be left out.

    *fails* is asked at most *budget* times; when that is used up, the shortest found so far is given. *items*
    themselves are taken to fail. Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input" (2002).
    """
    shortest, chunks, asked = list(items), 1, 0
    while shortest and asked < budget:
        size = -(-len(shortest) // chunks)
        for start in range(0, len(shortest), size):
            rest = shortest[:start] + shortest[start + size :]
            asked += 1
            if fails(rest):
                shortest, chunks = rest, max(1, chunks - 1)
                break
            if asked == budget:
                return shortest
        else:
            if size == 1:
                return shortest
            chunks = min(2 * chunks, len(shortest))
    return shortest
