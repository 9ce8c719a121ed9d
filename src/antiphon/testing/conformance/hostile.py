"""What is no event, put on a bus by somebody who speaks its protocol: it is reported, and blocks nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from antiphon.ports import Bus, LoggedEvent, MakeBus, Unreadable
from antiphon.testing.conformance.bus import opened
from antiphon.testing.conformance.kit import TYPES, check, numbers, same
from antiphon.testing.conformance.load import PATIENCE_S, keyed

A, B = TYPES
#: Puts bytes on a bus, as a message of its protocol with nothing around them.
Put = Callable[[bytes], Awaitable[None]]
#: No JSON; no UTF-8; JSON that is no event; an event without what every event has; nothing; a deep nesting.
POISON = (
    b"{",
    b"\xff\xfe\x00",
    b'[1, "two"]',
    b'{"specversion":"1.0","type":"conformance.A"}',
    b"\x00",
    b"[" * 100_000,
)


class HostileCheck(Protocol):
    """One promise of a bus that anybody can put bytes on."""

    __name__: str

    def __call__(self, make: MakeBus, path: Path, put: Put) -> Awaitable[None]: ...


async def poison_is_reported_and_passed(make: MakeBus, path: Path, put: Put) -> None:
    """Each message that is no event comes as `Unreadable`, with its bytes and the reason, at its place among the
    events; what comes after it comes, also to a receiver that begins anew behind it."""
    async with opened(make, path) as (bus,):
        await bus.send("s", 0, 1, [keyed(0)])
        for n, raw in enumerate(POISON, 1):
            await put(raw)
            await bus.send("s", n, n + 1, [keyed(n)])
        found = await _received(bus, 2 * len(POISON) + 1)
        unreadable = [each for each in found if isinstance(each, Unreadable)]
        events = [each for each in found if isinstance(each, LoggedEvent)]
        same([each.raw for each in unreadable], list(POISON), "what cannot be read")
        check(all(each.error.reason for each in unreadable), "what cannot be read says why")
        same(numbers(events), list(range(len(POISON) + 1)), "the events around it")
        for one, other in pairwise(found):
            check(one.seq < other.seq, f"{other!r:.200} has no place of its own after {one!r:.200}")
        after = found[-1].seq
        await bus.receive("receiver", {A: after, B: after}, 10)
    async with opened(make, path) as (bus,):
        await bus.send("s", len(POISON) + 1, len(POISON) + 2, [keyed(99)])
        same(numbers(_events(await _received(bus, 1, after))), [99], "what a receiver is given that goes on behind it")


def _events(found: list[LoggedEvent | Unreadable]) -> list[LoggedEvent]:
    return [each for each in found if isinstance(each, LoggedEvent)]


async def _received(bus: Bus, count: int, start: int = 0) -> list[LoggedEvent | Unreadable]:
    """The next *count* of whatever comes."""
    found: list[LoggedEvent | Unreadable] = []
    after = {A: start, B: start}
    woken = asyncio.Event()
    undo = bus.listen([A, B], woken.set)
    try:
        async with asyncio.timeout(PATIENCE_S):
            while len(found) < count:
                woken.clear()
                came = await bus.receive("receiver", dict(after), 4)
                found += came
                if came:
                    after = dict.fromkeys(after, came[-1].seq)
                else:
                    await woken.wait()
    except TimeoutError:
        raise AssertionError(f"{count} were to come; {found!r:.500} came") from None
    finally:
        undo()
    return found


HOSTILE_CHECKS: list[HostileCheck] = [poison_is_reported_and_passed]
