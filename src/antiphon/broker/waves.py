"""How many events can be on their way at once, if each may be refused and those of a key must stay in order."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar


class Keyed(Protocol):
    """What may have a key: an event, a message."""

    @property
    def key(self) -> str | None:
        """The unit of order."""


Each = TypeVar("Each", bound=Keyed)


def waves(events: Iterable[Each]) -> list[list[Each]]:
    """*events* in lists to be sent one after the other, each when all of the one before is confirmed.

    No list has two of one key. So a broker that refuses one in the middle of what it is sent has taken none of its key
    that come after it; one that refuses nothing has all in the order of *events*. What has no key has no order to lose.
    """
    found: list[list[Each]] = []
    keys: set[str] = set()
    for event in events:
        if not found or event.key in keys:
            found.append([])
            keys.clear()
        found[-1].append(event)
        if event.key is not None:
            keys.add(event.key)
    return found
