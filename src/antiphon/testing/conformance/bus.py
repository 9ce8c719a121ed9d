"""The bus: whatever was sent arrives, in order, nothing passed over; of what a bus declares, the rest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from antiphon.model.envelope import Envelope
from antiphon.ports import Ability, Bus, Clock, LoggedEvent, Unreadable
from antiphon.testing.clock import VirtualClock
from antiphon.testing.conformance import kit
from antiphon.testing.conformance.kit import TYPES, BusCheck, MakeBus, check, numbers, once, same

A, B = TYPES
#: What all events here are about unless they say otherwise: a bus keeps the order of a key.
_KEY = "one"
_PATIENCE_S = 30.0
_MIB = 1024 * 1024


def envelope(
    n: int, *, key: str | None = _KEY, type_: str = A, data: bytes | None = None, service: str = "svc"
) -> Envelope:
    """Event number *n*, whose order counts."""
    return kit.envelope(n, key=key, type_=type_, data=data, service=service)


@asynccontextmanager
async def opened(make: MakeBus, path: Path, *owners: str, clock: Clock | None = None) -> AsyncIterator[list[Bus]]:
    """A bus for each of *owners*, as processes have them."""
    clock = clock or VirtualClock()
    async with AsyncExitStack() as stack:
        buses = []
        for owner in owners or ("one",):
            bus = make(path, clock=clock, owner=owner)
            stack.push_async_callback(bus.close)
            await bus.open()
            await bus.expect({"receiver": [A, B]})
            buses.append(bus)
        yield buses


class Reader:
    """Reads on as a receiver does: from its position, woken when there may be more. Unless it *takes* what it has
    read, it stays where it is."""

    def __init__(
        self, bus: Bus, limit: int = 10, *, takes: bool = True, after: Mapping[str, int] | None = None
    ) -> None:
        self._bus = bus
        self._limit = limit
        self._takes = takes
        self._woken = asyncio.Event()
        self.after = dict(after or {A: 0, B: 0})
        #: Every event that came, in order; some may have come twice.
        self.events: list[LoggedEvent] = []

    async def until(self, count: int) -> list[int]:
        """The numbers of the events when *count* different ones have come, each where it came first."""
        undo = self._bus.listen([A, B], self._woken.set)
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while len(self.firsts()) < count:
                    self._woken.clear()
                    came = await self.read()
                    if len(self.firsts()) < count and not (came and self._takes):
                        await self._woken.wait()
        except TimeoutError:
            raise AssertionError(f"{count} events were to come; {self.firsts()!r:.500} came") from None
        finally:
            undo()
        return self.firsts()

    async def read(self) -> bool:
        """Read once; whether anything came."""
        found = events_of(await self._bus.receive("receiver", self.after, self._limit))
        check(len(found) <= self._limit, f"{len(found)} events where at most {self._limit} were asked for")
        if found:
            low = min(event.seq for event in found)
            check(low > min(self.after.values()), f"event {low} came after position {self.after}")
            self.events += found
            if self._takes:
                self.after = {type_: max(place, found[-1].seq) for type_, place in self.after.items()}
        return bool(found)

    async def rest(self) -> list[LoggedEvent]:
        """All that has come when nothing more comes: one look may find less than there is."""
        while await self.read():
            pass
        return self.events

    def firsts(self) -> list[int]:
        """The numbers of the events that have come, each once: as they came, or sorted where a bus keeps no order."""
        came = list(dict.fromkeys(numbers(self.events)))
        return came if "order" in self._bus.abilities else sorted(came)


def events_of(received: object) -> list[LoggedEvent]:
    """What was received, all of which can be read."""
    assert isinstance(received, list | tuple)
    unreadable = [each for each in received if isinstance(each, Unreadable)]
    check(not unreadable, f"it cannot be read: {unreadable!r:.500}")
    return list(received)


async def everything(bus: Bus, limit: int = 10) -> list[int]:
    """The numbers of all events of both types, read in pieces from the beginning until nothing comes."""
    return numbers(await Reader(bus, limit).rest())


async def what_was_sent_is_there_after_a_reopening(make: MakeBus, path: Path) -> None:
    """When `send` has returned, the events are durable."""
    async with opened(make, path) as (bus,):
        same(await bus.send("s", 0, 7, [envelope(1), envelope(2)]), 7, "the position after sending")
    async with opened(make, path) as (bus,):
        same(await Reader(bus).until(2), [1, 2], "events after a reopening")


async def what_was_not_taken_comes_again(make: MakeBus, path: Path) -> None:
    """An event that a receiver has seen, and not yet taken when it died, is there for the next one."""
    async with opened(make, path) as (bus,):
        await bus.send("s", 0, 3, [envelope(n) for n in (1, 2, 3)])
        same(await Reader(bus, takes=False).until(3), [1, 2, 3], "events")
    async with opened(make, path) as (bus,):
        same(await Reader(bus).until(3), [1, 2, 3], "events when their receiver had died")


async def what_is_sent_again_changes_no_order(make: MakeBus, path: Path) -> None:
    """A sender that does not know what was confirmed sends it again: what comes for the first time is in order."""
    async with opened(make, path, "one", "two") as (bus, other):
        await bus.send("s", 0, 3, [envelope(1), envelope(2), envelope(3)])
        position = await other.send("s", 0, 5, [envelope(n) for n in (1, 2, 3, 4, 5)])
        check(position in (3, 5), f"the position after sending some of it again is {position}")
        if position == 3:
            await other.send("s", 3, 5, [envelope(4), envelope(5)])
        same(await Reader(bus).until(5), [1, 2, 3, 4, 5], "events")


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
    """Each has its own position, which is durable."""
    async with opened(make, path, "one", "two") as (bus, other):
        same(await bus.position("s"), 0, "the position of a sender that has not sent")
        await asyncio.gather(
            *(bus.send("s", n, n + 1, [envelope(n)]) for n in range(1)),
            *(other.send("t", n, n + 1, [envelope(100 + n)]) for n in range(1)),
        )
        await bus.send("s", 1, 2, [envelope(1)])
        same((await bus.position("s"), await bus.position("t")), (2, 1), "positions")
    async with opened(make, path) as (bus,):
        same((await bus.position("s"), await bus.position("t")), (2, 1), "positions after a reopening")
        found = await everything(bus)
        same([n for n in found if n < 100], [0, 1], "events of the first sender, in its order")
        same([n for n in found if n >= 100], [100], "events of the second")


async def types_come_in_one_order(make: MakeBus, path: Path) -> None:
    """Of the types that are asked for, in the order in which they were sent."""
    async with opened(make, path) as (bus,):
        sent = [envelope(n, type_=(A, B, "elsewhere.C")[n % 3]) for n in range(30)]
        await bus.send("s", 0, 30, sent)
        wanted = [n for n in range(30) if n % 3 < 2]
        same(await Reader(bus, 3).until(len(wanted)), wanted, "events of both types")


async def a_receiver_reads_from_any_position(make: MakeBus, path: Path) -> None:
    """Each type after its own position; up to the last one returned none is missing."""
    async with opened(make, path) as (bus,):
        sent = [envelope(n, type_=(A, B, "elsewhere.C")[n % 3]) for n in range(30)]
        await bus.send("s", 0, 30, sent)
        wanted = [n for n in range(30) if n % 3 < 2]
        for limit in (1, 3, 100):
            same(await everything(bus, limit), wanted, f"events of both types, {limit} at a time")
        whole = await Reader(bus, 100).rest()
        middle, end = whole[9].seq, whole[-1].seq
        found = numbers(await Reader(bus, 100, after={A: middle, B: 0}).rest())
        later_a = [n for n, event in zip(wanted, whole, strict=True) if n % 3 == 0 and event.seq > middle]
        same(found, sorted([*later_a, *(n for n in wanted if n % 3 == 1)]), "after different positions")
        piece = Reader(bus, 3, after={A: middle, B: 0})
        check(await piece.read(), "nothing came after different positions, three at a time")
        same(numbers(piece.events), found[: len(piece.events)], "the first of them")
        same(await Reader(bus, after={A: end, B: end}).rest(), [], "events after the last one")


async def an_event_comes_as_it_was_sent(make: MakeBus, path: Path) -> None:
    """Every attribute and every byte, up to 1 MiB of data."""
    data = b'{"text":"' + "é\\u0000".encode() * ((_MIB - 11) // 8) + b'"}'
    assert _MIB - 8 <= len(data) <= _MIB
    event = envelope(1, key="ключ \0\n", data=data, service="sender")
    after = envelope(2)
    async with opened(make, path) as (bus,):
        await bus.send("sender", 0, 2, [event, after])
        reader = Reader(bus)
        await reader.until(2)
        found = {each.envelope.id: each.envelope for each in reader.events}
        check(found[event.id] == event, f"the event came as {found[event.id]!r:.300}")
        check(found[after.id] == after, f"the event after it came as {found[after.id]!r:.300}")


async def a_listener_is_woken(make: MakeBus, path: Path) -> None:
    """After something has been sent, and not once it has undone its listening. (Of a key, the next event may wait
    until the one before it has been taken.)"""
    async with opened(make, path) as (bus,):
        reader = Reader(bus)
        await bus.send("s", 0, 1, [kit.envelope(1)])
        await reader.until(1)
        wakes: list[int] = []
        woken = asyncio.Event()
        undo, undo_other = bus.listen([A], once(wakes)), bus.listen([A], woken.set)
        await bus.send("s", 1, 2, [kit.envelope(2)])
        async with asyncio.timeout(_PATIENCE_S):
            await woken.wait()
        check(bool(wakes), "an event that was sent has woken one listener, and not the other")
        undo()
        undo_other()
        await reader.until(2)
        wakes.clear()
        await bus.send("s", 2, 3, [kit.envelope(3)])
        await reader.until(3)
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
    async with opened(make, path, "one", "two", "reader") as (one, two, other):

        async def send(sender: int) -> None:
            bus = (one, two)[sender % 2]
            for n in range(15):
                type_ = (A, B)[(n + sender) % 2]
                await bus.send(f"s{sender}", n, n + 1, [envelope(100 * sender + n, type_=type_)])

        reading = asyncio.ensure_future(Reader(other, 7).until(60))
        await asyncio.gather(*(send(sender) for sender in range(4)))
        seen = await reading
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


#: What only those promise that declare the ability.
ONLY_IF: dict[BusCheck, Ability] = {
    what_is_sent_again_changes_no_order: "order",
    types_come_in_one_order: "order",
    a_batch_is_taken_once: "positions",
    senders_do_not_know_each_other: "positions",
    a_receiver_reads_from_any_position: "rereads",
    reporting_takes_nothing_away: "rereads",
}
CARRYING_CHECKS: list[BusCheck] = [
    what_was_sent_is_there_after_a_reopening,
    what_was_not_taken_comes_again,
    what_is_sent_again_changes_no_order,
    a_batch_is_taken_once,
    senders_do_not_know_each_other,
    types_come_in_one_order,
    a_receiver_reads_from_any_position,
    an_event_comes_as_it_was_sent,
    a_listener_is_woken,
    reporting_takes_nothing_away,
    nothing_is_lost_while_many_send,
    closing_is_repeatable,
]
