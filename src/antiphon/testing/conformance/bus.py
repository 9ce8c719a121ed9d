"""The bus: each batch once, in order, nothing passed over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from antiphon.ports import Bus
from antiphon.testing.clock import VirtualClock
from antiphon.testing.conformance.kit import TYPES, BusCheck, MakeBus, check, envelope, numbers, once, same

A, B = TYPES


@asynccontextmanager
async def opened(make: MakeBus, path: Path, *owners: str) -> AsyncIterator[list[Bus]]:
    """A bus for each of *owners*, as processes have them."""
    clock = VirtualClock()
    async with AsyncExitStack() as stack:
        buses = []
        for owner in owners or ("one",):
            bus = make(path, clock=clock, owner=owner)
            await bus.open()
            stack.push_async_callback(bus.close)
            await bus.expect({"receiver": [A, B]})
            buses.append(bus)
        yield buses


async def everything(bus: Bus, limit: int = 10) -> list[int]:
    """The numbers of all events of both types, read in pieces."""
    after = {A: 0, B: 0}
    found: list[int] = []
    while events := await bus.receive("receiver", after, limit):
        check(len(events) <= limit, f"{len(events)} events where at most {limit} were asked for")
        found += numbers(events)
        after = dict.fromkeys(after, events[-1].seq)
    return found


async def what_was_sent_is_there_after_a_reopening(make: MakeBus, path: Path) -> None:
    """When `send` has returned, events and the sender's position are durable."""
    async with opened(make, path) as (bus,):
        same(await bus.position("s"), 0, "the position of a sender that has not sent")
        same(await bus.send("s", 0, 7, [envelope(1), envelope(2)]), 7, "the position after sending")
    async with opened(make, path) as (bus,):
        same(await bus.position("s"), 7, "the position after a reopening")
        same(await everything(bus), [1, 2], "events after a reopening")


async def a_batch_is_taken_once(make: MakeBus, path: Path) -> None:
    """Sent again, by the same process or another one of the sender, it changes nothing; the answer says from
    where to go on."""
    async with opened(make, path, "one", "two") as (bus, other):
        await bus.send("s", 0, 5, [envelope(1), envelope(2)])
        same(await bus.send("s", 0, 5, [envelope(1), envelope(2)]), 5, "the position after sending it again")
        same(await other.send("s", 0, 9, [envelope(1), envelope(2), envelope(3)]), 5, "the position of a late sender")
        same(await other.send("s", 5, 9, [envelope(3)]), 9, "the position after going on from there")
        same(await bus.send("s", 12, 15, [envelope(4)]), 15, "the position after a stretch with nothing to send")
        same(await everything(bus), [1, 2, 3, 4], "events")


async def senders_do_not_know_each_other(make: MakeBus, path: Path) -> None:
    """Each has its own position."""
    async with opened(make, path, "one", "two") as (bus, other):
        await asyncio.gather(
            *(bus.send("s", n, n + 1, [envelope(n)]) for n in range(1)),
            *(other.send("t", n, n + 1, [envelope(100 + n)]) for n in range(1)),
        )
        await bus.send("s", 1, 2, [envelope(1)])
        same((await bus.position("s"), await bus.position("t")), (2, 1), "positions")
        found = await everything(bus)
        same([n for n in found if n < 100], [0, 1], "events of the first sender, in its order")
        same([n for n in found if n >= 100], [100], "events of the second")


async def types_come_in_one_order(make: MakeBus, path: Path) -> None:
    """Of the types that are asked for, each after its own position; up to the last one returned none is missing."""
    async with opened(make, path) as (bus,):
        sent = [envelope(n, type_=(A, B, "elsewhere.C")[n % 3]) for n in range(30)]
        await bus.send("s", 0, 30, sent)
        wanted = [n for n in range(30) if n % 3 < 2]
        for limit in (1, 3, 100):
            same(await everything(bus, limit), wanted, f"events of both types, {limit} at a time")
        whole = await bus.receive("receiver", {A: 0, B: 0}, 100)
        middle = whole[9].seq
        found = await bus.receive("receiver", {A: middle, B: 0}, 100)
        later_a = [n for n, event in zip(wanted, whole, strict=True) if n % 3 == 0 and event.seq > middle]
        same(numbers(found), sorted([*later_a, *(n for n in wanted if n % 3 == 1)]), "after different positions")
        piece = await bus.receive("receiver", {A: middle, B: 0}, 3)
        same(numbers(piece), numbers(found)[:3], "the first three of them")
        same(await bus.receive("receiver", {A: whole[-1].seq, B: whole[-1].seq}, 10), [], "events after the last one")


async def an_event_comes_as_it_was_sent(make: MakeBus, path: Path) -> None:
    """Every attribute and every byte, up to 1 MiB of data."""
    event = envelope(1, key="ключ \0", data=bytes(range(256)) * 4096, service="sender")
    async with opened(make, path) as (bus,):
        await bus.send("sender", 0, 1, [event])
        same([each.envelope for each in await bus.receive("receiver", {A: 0}, 10)], [event], "the event")


async def a_listener_is_woken(make: MakeBus, path: Path) -> None:
    """After something has been sent, and not once it has undone its listening."""
    async with opened(make, path) as (bus,):
        wakes: list[int] = []
        undo = bus.listen([A], once(wakes))
        await bus.send("s", 0, 1, [envelope(1)])
        await asyncio.sleep(0)
        check(bool(wakes), "an event that was sent has woken nobody")
        undo()
        wakes.clear()
        await bus.send("s", 1, 2, [envelope(2)])
        await asyncio.sleep(0)
        check(not wakes, "who has undone its listening was woken")


async def reporting_takes_nothing_away(make: MakeBus, path: Path) -> None:
    """A receiver that has said how far it is can still read on from an earlier position (it was restored)."""
    async with opened(make, path) as (bus,):
        await bus.send("s", 0, 2, [envelope(1), envelope(2)])
        last = (await bus.receive("receiver", {A: 0}, 10))[-1].seq
        await bus.report("receiver", last)
        await bus.report("receiver", 0)
        same(await everything(bus), [1, 2], "events after a report")


async def nothing_is_lost_while_many_send(make: MakeBus, path: Path) -> None:
    """A receiver that reads on from its position meets every event, however sends are mixed."""
    async with opened(make, path, "one", "two", "reader") as (one, two, reader):
        seen: list[int] = []

        async def send(sender: int) -> None:
            bus = (one, two)[sender % 2]
            for n in range(15):
                type_ = (A, B)[(n + sender) % 2]
                await bus.send(f"s{sender}", n, n + 1, [envelope(100 * sender + n, type_=type_)])

        async def receive() -> None:
            after = {A: 0, B: 0}
            while len(seen) < 60:
                if events := await reader.receive("receiver", after, 7):
                    seen.extend(numbers(events))
                    after = dict.fromkeys(after, events[-1].seq)
                await asyncio.sleep(0)

        async with asyncio.timeout(60):
            await asyncio.gather(receive(), *(send(sender) for sender in range(4)))
        same(sorted(seen), sorted(100 * sender + n for sender in range(4) for n in range(15)), "events")
        for sender in range(4):
            own = [n for n in seen if n // 100 == sender]
            same(own, sorted(own), f"the order of sender {sender}")


async def closing_is_repeatable(make: MakeBus, path: Path) -> None:
    """Closing twice does no harm."""
    bus = make(path, clock=VirtualClock(), owner="one")
    await bus.open()
    await bus.close()
    await bus.close()


BUS_CHECKS: list[BusCheck] = [
    what_was_sent_is_there_after_a_reopening,
    a_batch_is_taken_once,
    senders_do_not_know_each_other,
    types_come_in_one_order,
    an_event_comes_as_it_was_sent,
    a_listener_is_woken,
    reporting_takes_nothing_away,
    nothing_is_lost_while_many_send,
    closing_is_repeatable,
]
