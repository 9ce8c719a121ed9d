"""A store whose server cannot be reached, or breaks off at each step: by way of a `Line`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from antiphon.ports import PUBLISHED, Store
from antiphon.runtime.clock import SystemClock
from antiphon.testing.conformance.kit import TYPES, MakeStore, append, check, envelope, handler, ids, opened, same
from antiphon.testing.conformance.lines import first_of, refused_or_done
from antiphon.testing.conformance.load import PATIENCE_S, insist
from antiphon.testing.line import Line, Way

#: A unit of one event takes fewer pieces of conversation than this.
_STEPS = 8


class StoreLineCheck(Protocol):
    """One promise of a store that is reached by way of a line."""

    __name__: str

    def __call__(self, make: MakeStore, path: Path, line: Line) -> Awaitable[None]: ...


async def a_server_that_is_not_there_is_waited_for(make: MakeStore, path: Path, line: Line) -> None:
    """Opening a store whose server cannot be reached is refused, and succeeds when it can."""
    await line.cut()
    store = make(path, clock=SystemClock(), owner="one")
    try:
        check(await refused_or_done(store.open(), "opening"), "a store was opened although its server is away")
        await line.mend()
        await insist(store.open)
        await append(store, envelope(1))
        same(await ids(store), [envelope(1).id], "the log")
    finally:
        await store.close()


async def a_unit_is_whole_or_nothing_wherever_the_line_breaks(make: MakeStore, path: Path, line: Line) -> None:
    """The line breaks at each step of a unit, that of its commit included: when the unit has ended it is in the log,
    when it has raised StoreError it is not, and never will be."""
    ways: tuple[Way, ...] = ("there", "back")
    async with opened(make, path, clock=SystemClock()) as (store,):
        await append(store, envelope(0))
        number, wanted = 0, [envelope(0).id]
        for way in ways:
            for step in range(_STEPS):
                number += 1
                line.close_way(way, after=step)
                unit = asyncio.ensure_future(refused_or_done(_append_two(store, number), "a unit"))
                await first_of(unit, line.lost())
                await line.cut()
                await line.mend()
                if not await unit:
                    wanted += [envelope(2 * number).id, envelope(2 * number + 1).id]
                same(await insist(lambda: ids(store)), wanted, f"the log after a break {way}, {step} pieces on")
        same(await insist(lambda: ids(store)), wanted, "the log at the end")


async def _append_two(store: Store, number: int) -> None:
    async with store.unit() as unit:
        await unit.append([(envelope(2 * number), PUBLISHED)])
        await unit.fetch_all("SELECT 1")
        await unit.append([(envelope(2 * number + 1), PUBLISHED)])


async def each_step_is_refused_while_the_server_is_away(make: MakeStore, path: Path, line: Line) -> None:
    """Reading, writing, leases and timers raise StoreError; when the server is back the same store goes on, and its
    lease is still its own."""
    async with opened(make, path, clock=SystemClock()) as (store,):
        await store.register([handler("work")])
        await append(store, envelope(1))
        lease = await store.acquire("svc.work", "one")
        assert lease is not None
        await line.cut()
        steps: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {
            "appending": lambda: append(store, envelope(2)),
            "reading the log": lambda: store.read_log(0, 10),
            "reading positions": store.positions,
            "reading what is fresh": lambda: store.read_fresh(lease, TYPES, 10),
            "reading what is due": lambda: store.read_due(lease, 10),
            "acquiring": lambda: store.acquire("svc.work", "two"),
            "renewing": lambda: store.renew("one"),
            "firing timers": lambda: store.fire_timers(lambda timer: (timer.envelope, None), 10),
            "fetching": lambda: store.fetch_all("SELECT 1"),
        }
        for what, step in steps.items():
            refused = await refused_or_done(step(), what)
            # What is remembered may be read without the server.
            check(refused or what.startswith("read"), f"{what} succeeded while the server was away")
        await refused_or_done(store.look_after(), "the upkeep")
        await line.mend()
        await insist(lambda: append(store, envelope(3)))
        same(await ids(store), [envelope(1).id, envelope(3).id], "the log")
        same(await insist(lambda: store.renew("one")), frozenset({"svc.work"}), "what is still held")


async def a_listener_hears_again_after_a_break(make: MakeStore, path: Path, line: Line) -> None:
    """What another process commits after the line broke, or while it was broken, wakes with the next upkeep."""
    async with (
        opened(make, path, "one", clock=SystemClock()) as (store,),
        opened(make, path, "two", clock=SystemClock()) as (other,),
    ):
        woken = asyncio.Event()
        store.listen(TYPES[:1], woken.set)
        await insist(store.look_after)
        await insist(other.look_after)
        await line.cut()
        await line.mend()
        woken.clear()
        await insist(lambda: append(other, envelope(1)))
        async with asyncio.timeout(PATIENCE_S):
            while not woken.is_set():
                await insist(store.look_after)
                with suppress(TimeoutError):
                    await asyncio.wait_for(woken.wait(), 0.1)
        same(await ids(store), [envelope(1).id], "the log")


STORE_LINE_CHECKS: list[StoreLineCheck] = [
    a_server_that_is_not_there_is_waited_for,
    a_unit_is_whole_or_nothing_wherever_the_line_breaks,
    each_step_is_refused_while_the_server_is_away,
    a_listener_hears_again_after_a_break,
]
