"""Sharing one handler's time among those who wait for it: start-time fair queueing, in handler time.

Each lane (a tenant) has a tag, the time that it has been served. Who has been served least goes next. A lane
that comes, or comes back, starts one attempt behind the others: it does not have to wait for those who are never
done, and it has saved no more than that.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")

#: An attempt counts as at least so much, so that those who take no measurable time take turns too.
LEAST_MS = 0.05
# How much the newest attempt says about what the next one of its lane will take.
_NEWEST = 0.2


class Shares:
    """The tags of the lanes of one handler. What has no tag is one attempt behind the last turn."""

    def __init__(self) -> None:
        self._tags: dict[str, float] = {}
        self._expected: dict[str, float] = {}
        self._turn = 0.0
        self._usual = LEAST_MS

    def pick(self, waiting: Mapping[str, Sequence[T]], most: int) -> list[T]:
        """Up to *most* of those who wait, each lane's in its order, as the turns would go if all took what is
        expected of them. Nothing is charged by it."""
        for lane in [
            lane for lane, tag in self._tags.items() if tag <= self._turn - self._usual and lane not in waiting
        ]:
            del self._tags[lane]  # it has nothing more to answer for
            self._expected.pop(lane, None)
        # Of two that have been served alike, the one goes first that has less to ask for.
        turns = [(self._tag(lane), len(each), lane, 0) for lane, each in waiting.items() if each]
        heapq.heapify(turns)
        picked: list[T] = []
        while turns and len(picked) < most:
            tag, asks, lane, place = turns[0]
            picked.append(waiting[lane][place])
            if place + 1 < len(waiting[lane]):
                heapq.heapreplace(turns, (tag + self._cost(lane), asks, lane, place + 1))
            else:
                heapq.heappop(turns)
        return picked

    def begin(self, lane: str) -> None:
        """An attempt of *lane* starts: it is charged what it is expected to take."""
        self._turn = max(self._turn, self._tag(lane))
        self._tags[lane] = self._tag(lane) + self._cost(lane)

    def end(self, lane: str, took_ms: float) -> None:
        """It has ended, and is charged what it took instead."""
        took = max(took_ms, LEAST_MS)
        self._usual += _NEWEST * (took - self._usual)
        expected = self._cost(lane)
        self._tags[lane] = self._tags.get(lane, self._turn) + took - expected
        self._expected[lane] = expected + _NEWEST * (took - expected)

    def _tag(self, lane: str) -> float:
        start = self._turn - self._usual
        return max(self._tags.get(lane, start), start)

    def _cost(self, lane: str) -> float:
        return self._expected.get(lane, LEAST_MS)
