"""A bus whose broker cannot be reached, breaks off at each step, is slow, or does not answer: by way of a `Line`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from antiphon.errors import StoreError
from antiphon.ports import Bus
from antiphon.runtime.clock import SystemClock
from antiphon.store.bus import LogBus
from antiphon.testing.conformance.bus import events_of, opened
from antiphon.testing.conformance.kit import TYPES, MakeBus, check, numbers
from antiphon.testing.conformance.load import AGAIN_S, AWAY, PATIENCE_S, in_order, insist, keyed
from antiphon.testing.line import Line, Way

A, B = TYPES
_LOOK_AFTER_S = 0.2
#: Longer than any bus may wait for an answer.
_GIVES_UP_S = 30.0


class BusLineCheck(Protocol):
    """One promise of a bus that is reached by way of a line."""

    __name__: str

    def __call__(self, make: MakeBus, path: Path, line: Line) -> Awaitable[None]: ...


async def first_of(task: asyncio.Future[Any], sign: Coroutine[Any, Any, None]) -> None:
    """Return when *task* is done, or *sign* is given."""
    given = asyncio.ensure_future(sign)
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.wait([task, given], return_when=asyncio.FIRST_COMPLETED)
    given.cancel()


async def send(bus: Bus, start: int, end: int, batch: int = 10) -> None:
    """Send the events from number *start* to *end* as a sender does: again what was not confirmed."""
    position = start
    while position < end:
        upto = min(position + batch, end)
        position = await insist(partial(bus.send, "s", position, upto, _keyed(position, upto)))


async def received(bus: Bus, count: int, tell: Callable[[int], None] = lambda _: None) -> list[int]:
    """The numbers of the events in the order in which they came first, once there are *count* different ones; *tell*
    is told how many there are."""
    found: dict[int, None] = {}
    after = {A: 0, B: 0}
    woken = asyncio.Event()
    undo = bus.listen([A, B], woken.set)
    upkeep = asyncio.ensure_future(_look_after(bus))
    try:
        async with asyncio.timeout(PATIENCE_S):
            while len(found) < count:
                woken.clear()
                came = events_of(await insist(partial(bus.receive, "receiver", dict(after), 10)))
                found.update(dict.fromkeys(numbers(came)))
                tell(len(found))
                if came:
                    after = dict.fromkeys(after, came[-1].seq)
                else:
                    await woken.wait()
    except TimeoutError:
        raise AssertionError(f"{count} events were to come; {len(found)} came: {list(found)!r:.300}") from None
    finally:
        undo()
        upkeep.cancel()
        with suppress(asyncio.CancelledError):
            await upkeep
    return list(found)


async def _look_after(bus: Bus) -> None:
    """The upkeep of a bus that is a log, as every process does it."""
    while isinstance(bus, LogBus):
        with suppress(StoreError):
            await bus.store.look_after()
        await asyncio.sleep(_LOOK_AFTER_S)


def _keyed(start: int, end: int) -> list[Any]:
    return [keyed(n) for n in range(start, end)]


async def refused_or_done(work: Awaitable[object], what: str) -> bool:
    """Whether *work* was refused, as a bus refuses that is away; anything else that it raises is a finding."""
    try:
        async with asyncio.timeout(_GIVES_UP_S):
            await work
    except AWAY:
        return True
    except TimeoutError:
        raise AssertionError(f"{what} has not ended after {_GIVES_UP_S:g} s") from None
    except Exception as error:
        raise AssertionError(f"{what} raised {error!r}, which is neither BusError nor StoreError") from error
    return False


async def a_broker_that_is_not_there_is_waited_for(make: MakeBus, path: Path, line: Line) -> None:
    """Opening a bus whose broker cannot be reached is refused, and succeeds when it can."""
    await line.cut()
    bus = make(path, clock=SystemClock(), owner="one")
    try:
        check(await refused_or_done(bus.open(), "opening"), "a bus was opened although its broker cannot be reached")
        await line.mend()
        await insist(bus.open)
        await insist(lambda: bus.expect({"receiver": [A, B]}))
        await send(bus, 0, 10)
        in_order(await received(bus, 10), 10, "events")
    finally:
        await bus.close()


async def each_step_is_refused_while_the_line_is_cut(make: MakeBus, path: Path, line: Line) -> None:
    """Expecting, sending, asking for a position, receiving and reporting raise BusError or StoreError, or do without
    the broker; sending is refused. When it is back, the same bus goes on."""
    async with opened(make, path, clock=SystemClock()) as (bus,):
        await send(bus, 0, 10)
        last = events_of(await _some(bus))[-1].seq
        await line.cut()
        steps: dict[str, Coroutine[Any, Any, object]] = {
            "expecting": bus.expect({"receiver": [A, B]}),
            "sending": bus.send("s", 10, 20, _keyed(10, 20)),
            "asking for a position": bus.position("s"),
            "receiving": bus.receive("receiver", {A: last, B: last}, 10),
            "reporting": bus.report("receiver", last),
        }
        refusals = await asyncio.gather(*(refused_or_done(step, what) for what, step in steps.items()))
        check(dict(zip(steps, refusals, strict=True))["sending"], "events were taken while the broker was away")
        await line.mend()
        await send(bus, 10, 30)
        await insist(lambda: bus.report("receiver", 0))
        in_order(await received(bus, 30), 30, "events")


async def _some(bus: Bus) -> Any:
    """The first events that can be received."""
    woken = asyncio.Event()
    undo = bus.listen([A, B], woken.set)
    async with asyncio.timeout(PATIENCE_S):
        while not (found := await bus.receive("receiver", {A: 0, B: 0}, 10)):
            await woken.wait()
            woken.clear()
    undo()
    return found


async def what_is_lost_on_its_way_is_sent_again(make: MakeBus, path: Path, line: Line) -> None:
    """The line breaks before the events are there, or before their confirmation is back: the sender is told, and
    sends again; all of them come, and in order."""
    ways: tuple[Way, ...] = ("there", "back")
    async with opened(make, path, clock=SystemClock()) as (bus,):
        await send(bus, 0, 10)
        for number, way in enumerate(ways, 1):
            line.close_way(way)
            sending = asyncio.ensure_future(
                bus.send("s", 10 * number, 10 * number + 10, _keyed(10 * number, 10 * number + 10))
            )
            await first_of(sending, line.lost())
            check(not sending.done(), "events were confirmed before the confirmation was there")
            await line.cut()
            check(await refused_or_done(sending, "sending"), "events were confirmed over a line that was cut")
            await line.mend()
            await send(bus, 10 * number, 10 * number + 10)
        in_order(await received(bus, 30), 30, "events")


async def receiving_goes_on_after_each_break(make: MakeBus, path: Path, line: Line) -> None:
    """However often the line breaks while events are sent and received, all of them come, in order by key."""
    count, breaks = 600, 4
    reached = [asyncio.Event() for _ in range(breaks)]

    def came(events: int) -> None:
        for each in reached[: events * (breaks + 1) // count]:
            each.set()

    async with (
        opened(make, path, "one", clock=SystemClock()) as (bus,),
        opened(make, path, "two", clock=SystemClock()) as (other,),
        asyncio.timeout(PATIENCE_S),
        asyncio.TaskGroup() as group,
    ):
        group.create_task(send(bus, 0, count))
        receiving = group.create_task(received(other, count, came))
        for each in reached:
            await each.wait()
            await line.cut()
            await asyncio.sleep(AGAIN_S)
            await line.mend()
        in_order(await receiving, count, "events")


async def a_slow_broker_is_waited_for(make: MakeBus, path: Path, line: Line) -> None:
    """A broker that takes a tenth of a second for everything is no error: events come, in order."""
    async with opened(make, path, clock=SystemClock()) as (bus,):
        line.delay_s = 0.05
        await bus.send("s", 0, 10, _keyed(0, 10))
        await bus.send("s", 10, 20, _keyed(10, 20))
        in_order(await received(bus, 20), 20, "events")
        line.delay_s = 0


async def a_broker_that_does_not_answer_is_given_up(make: MakeBus, path: Path, line: Line) -> None:
    """A sender whose connection stays open, and whose broker says nothing, is not kept waiting without end."""
    async with opened(make, path, clock=SystemClock()) as (bus,):
        line.close_way("back")
        check(
            await refused_or_done(bus.send("s", 0, 10, _keyed(0, 10)), "sending"),
            "events were confirmed by a broker that said nothing",
        )
        await line.cut()
        await line.mend()
        await send(bus, 0, 20)
        in_order(await received(bus, 20), 20, "events")


BUS_LINE_CHECKS: list[BusLineCheck] = [
    a_broker_that_is_not_there_is_waited_for,
    each_step_is_refused_while_the_line_is_cut,
    what_is_lost_on_its_way_is_sent_again,
    receiving_goes_on_after_each_break,
    a_slow_broker_is_waited_for,
    a_broker_that_does_not_answer_is_given_up,
]
