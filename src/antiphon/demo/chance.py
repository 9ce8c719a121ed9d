"""Chance that can be repeated: a number for each question, the same for the same seed whatever the order."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import TypeVar

T = TypeVar("T")


class Chance:
    """Numbers in [0, 1) that follow from a seed and the words of a question."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def of(self, *question: object) -> float:
        """The number for *question*, evenly spread over all questions."""
        digest = blake2b(repr((self._seed, question)).encode(), digest_size=7).digest()
        return int.from_bytes(digest) / 256**7

    def pick(self, choices: Sequence[T], *question: object) -> T:
        """One of *choices*."""
        return choices[int(self.of(*question) * len(choices))]
