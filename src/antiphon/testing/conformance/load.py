"""The bus under load, and when processes come and go: a long backlog, large events, closing, taking over."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from antiphon.errors import AntiphonError, BusError, StoreError
from antiphon.model.envelope import Envelope
from antiphon.ports import Bus, LoggedEvent, Unreadable
from antiphon.runtime.clock import SystemClock
from antiphon.runtime.inlet import Inlet
from antiphon.store.sqlite.store import SqliteStore
from antiphon.testing.clock import VirtualClock
from antiphon.testing.conformance.bus import Reader, opened
from antiphon.testing.conformance.kit import TYPES, BusCheck, MakeBus, check, envelope, ids, numbers, same

A, B = TYPES
T = TypeVar("T")
#: How long anything here may take, but for what is counted.
PATIENCE_S = 60.0
#: A check of a long backlog is given one second for so many events, beside `PATIENCE_S`.
_SLOWEST_PER_S = 250
#: What a bus raises when it cannot do now what it was asked for, and how soon it is asked again.
AWAY = (BusError, StoreError)
AGAIN_S = 0.02
_BATCH = 256
_KEYS = 50
_MIB = 1024 * 1024
_KIB_OF_DATA = b'{"text":"' + b"x" * 1_000 + b'"}'
#: By how much the memory of a process may grow while it reads a backlog of any length.
_MOST_MEMORY = 96 * _MIB


async def insist(step: Callable[[], Awaitable[T]]) -> T:
    """The result of *step*, which is taken again as long as it fails as a step may that is taken again."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await step()
            except AWAY:
                await asyncio.sleep(AGAIN_S)


def keyed(n: int) -> Envelope:
    """Event number *n*, of one of fifty keys and one of two types, with 1 KiB of data."""
    return envelope(n, key=f"key-{n % _KEYS}", type_=TYPES[n // _KEYS % 2], data=_KIB_OF_DATA)


async def send_all(bus: Bus, events: Iterable[Envelope], batch: int = _BATCH, sender: str = "s") -> None:
    """Send *events* as one sender does, in batches."""
    waiting = list(events)
    for at in range(0, len(waiting), batch):
        piece = waiting[at : at + batch]
        await bus.send(sender, at, at + len(piece), piece)


def in_order(found: Sequence[int], count: int, what: str, bus: Bus | None = None) -> None:
    """Check that *found* are the numbers below *count*, each once, and in order by key if the *bus* keeps it."""
    same(len(found), count, f"{what}: how many came")
    same(sorted(found), list(range(count)), what)
    keeps_order = bus is None or "order" in bus.abilities
    for key in range(_KEYS) if keeps_order else ():
        own = [n for n in found if n % _KEYS == key]
        same(own, sorted(own), f"{what} of key {key}")


async def a_late_receiver_reads_a_long_backlog(make: MakeBus, path: Path, count: int = 2_000) -> None:
    """A receiver that was expected and comes late reads everything that was sent meanwhile, in order, in pieces; its
    memory does not grow with the backlog."""
    async with asyncio.timeout(PATIENCE_S + count / _SLOWEST_PER_S):
        async with opened(make, path) as (bus,):
            for at in range(0, count, _BATCH):
                upto = min(at + _BATCH, count)
                await bus.send("s", at, upto, [keyed(n) for n in range(at, upto)])
        before = _memory()
        async with opened(make, path) as (bus,):
            reader = Reader(bus, _BATCH)
            found: dict[int, None] = {}
            woken = asyncio.Event()
            undo = bus.listen([A, B], woken.set)
            while len(found) < count:
                woken.clear()
                came = await reader.read()
                found.update(dict.fromkeys(numbers(reader.events)))
                reader.events.clear()
                check(_memory() - before < _MOST_MEMORY, f"the process has grown by {_memory() - before} bytes")
                if not came:
                    await woken.wait()
            undo()
        in_order(list(found), count, "a backlog", bus)


async def large_events_keep_their_place(make: MakeBus, path: Path) -> None:
    """Events of 1 MiB each come whole, between small ones, in the order in which they were sent."""
    large = b'{"text":"' + b"x" * (_MIB - 11) + b'"}'
    sent = [envelope(n, key="same", data=large if n % 2 else None) for n in range(8)]
    async with opened(make, path) as (bus,):
        await send_all(bus, sent, 4)
        reader = Reader(bus)
        found = await reader.until(8)
        same(found if "order" in bus.abilities else sorted(found), list(range(8)), "events")
        first = {event.envelope.id: event.envelope for event in reversed(reader.events)}
        check(all(first[each.id] == each for each in sent), "a large event came otherwise than it was sent")


async def an_inbox_takes_what_is_repeated_once(make: MakeBus, path: Path) -> None:
    """A batch that two processes of a sender send again and again is once in the receiver's log."""
    async with opened(make, path, "one", "two") as buses, _receiving(make, path, "reader") as (stores, _):
        batch = [keyed(n) for n in range(20)]
        for _ in range(3):
            await asyncio.gather(*(insist(partial(bus.send, "s", 0, 20, batch)) for bus in buses))
        await insist(partial(buses[0].send, "s", 20, 21, [keyed(20)]))
        in_order(await _stored(stores[0], 21), 21, "the receiver's log", buses[0])


async def receivers_come_and_go_under_load(make: MakeBus, path: Path) -> None:
    """Several processes receive for one service while events are sent: one of them dies between receiving and
    storing, one stops, one joins. Everything is stored, once, in order by key."""
    count = 600
    async with opened(make, path, "sender") as (bus,), _receiving(make, path, "one", "two") as (stores, inlets):
        reached: list[asyncio.Event] = [asyncio.Event() for _ in range(4)]

        async def send() -> None:
            for at in range(0, count, 10):
                await insist(partial(bus.send, "s", at, at + 10, [keyed(n) for n in range(at, at + 10)]))
                if not (at + 10) % 150:
                    reached[(at + 10) // 150 - 1].set()

        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
            group.create_task(send())
            await reached[0].wait()
            await inlets[0].die()
            await reached[1].wait()
            async with _receiving(make, path, "three"):
                await reached[2].wait()
                await inlets[1].stop()
                in_order(await _stored(stores[1], count), count, "what is stored", bus)


async def closing_in_the_midst_loses_nothing(make: MakeBus, path: Path) -> None:
    """A bus that is closed while it sends and receives leaves no task and no connection behind; the next process
    goes on where it was."""
    tasks, sockets = _tasks(), _sockets()
    async with opened(make, path) as (bus,):
        reader = Reader(bus, 5, takes=False)
        confirmed = 0

        async def send() -> None:
            nonlocal confirmed
            for at in range(0, 100_000, 10):
                confirmed = await bus.send("s", at, at + 10, [keyed(n) for n in range(at, at + 10)])

        sending, reading = asyncio.ensure_future(send()), asyncio.ensure_future(reader.until(100_000))
        async with asyncio.timeout(PATIENCE_S):
            while confirmed < 50 or not reader.events:  # noqa: ASYNC110  two that nobody tells of
                await asyncio.sleep(0)
            await bus.close()
            for each in (sending, reading):
                each.cancel()
                with suppress(asyncio.CancelledError, AntiphonError):
                    await each
    await _until_gone(tasks, sockets)
    async with opened(make, path) as (bus,):
        await send_all_from(bus, confirmed, confirmed + 50)
        found = await Reader(bus).until(confirmed + 50)
    # What was on its way when it was closed may have come too.
    in_order([n for n in found if n < confirmed + 50], confirmed + 50, "what was sent before and after", bus)


async def send_all_from(bus: Bus, start: int, end: int) -> None:
    """Send the events from number *start* to *end* as a sender does that notes what was confirmed."""
    position = start
    while position < end:
        position = await bus.send("s", position, end, [keyed(n) for n in range(position, end)])


class _Receiving:
    """A process of the service that receives: its own bus, its own inlet, the store that all of them have."""

    def __init__(self, bus: Bus, store: SqliteStore) -> None:
        self._bus = _Mortal(bus)
        self._inlet = Inlet("receiver", TYPES, store, self._bus, SystemClock())
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect and receive."""
        await self._bus.real.open()
        await self._bus.real.expect({"receiver": [A, B]})
        self._task = asyncio.create_task(self._inlet.run())

    async def stop(self) -> None:
        """As a process that is told to stop."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        await self._bus.real.close()

    async def die(self) -> None:
        """Receive, and never store it."""
        self._bus.dies = True
        await self._bus.died.wait()
        await self.stop()


class _Mortal:
    """A bus (``ports.Bus``) whose receiver can die with what it was given."""

    def __init__(self, real: Bus) -> None:
        self.real = real
        self.abilities = real.abilities
        self.listen = real.listen
        self.report = real.report
        self.send, self.expect, self.position = real.send, real.expect, real.position
        self.open, self.close = real.open, real.close
        self.dies = False
        self.died = asyncio.Event()

    async def receive(self, receiver: str, after: Mapping[str, int], limit: int) -> Sequence[LoggedEvent | Unreadable]:
        """As the real one; the last thing that it does is not seen by anybody."""
        found = await self.real.receive(receiver, after, limit)
        if self.dies:
            self.died.set()
            await asyncio.Event().wait()
        return found


@asynccontextmanager
async def _receiving(
    make: MakeBus, path: Path, *owners: str
) -> AsyncIterator[tuple[list[SqliteStore], list[_Receiving]]]:
    """Processes of one service, on one store."""
    async with AsyncExitStack() as stack:
        stores, inlets = [], []
        for owner in owners:
            store = SqliteStore(path / "receiver.db", clock=SystemClock(), owner=owner)
            await store.open()
            stack.push_async_callback(store.close)
            receiving = _Receiving(make(path, clock=VirtualClock(), owner=owner), store)
            stack.push_async_callback(receiving.stop)
            await receiving.start()
            stores.append(store)
            inlets.append(receiving)
        yield stores, inlets


async def _stored(store: SqliteStore, count: int) -> list[int]:
    """The numbers in the store's log, when it holds *count*."""
    grown = asyncio.Event()
    store.listen((), grown.set)
    async with asyncio.timeout(PATIENCE_S):
        while len(found := await ids(store)) < count:
            with suppress(TimeoutError):
                await asyncio.wait_for(grown.wait(), 0.1)  # another process's commit may have been missed
            grown.clear()
    return [int(each.removeprefix("event-")) for each in found]


def _tasks() -> set[asyncio.Task[object]]:
    return {task for task in asyncio.all_tasks() if not task.done()}


def _sockets() -> int:
    """How many sockets this process has open, where the system tells."""
    count = 0
    with suppress(OSError):
        for each in Path("/proc/self/fd").iterdir():
            with suppress(OSError):
                count += str(each.readlink()).startswith("socket:")
    return count


async def _until_gone(tasks: set[asyncio.Task[object]], sockets: int) -> None:
    """Check that there are no other tasks, and no more sockets, than before; the loop may end what it began."""
    for _ in range(200):
        if not _tasks() - tasks and _sockets() <= sockets:
            return
        await asyncio.sleep(0.01)
    left = [task.get_coro() for task in _tasks() - tasks]
    check(not left, f"tasks were left behind: {left!r}")
    check(_sockets() <= sockets, f"{_sockets() - sockets} connections were left behind")


def _memory() -> int:
    """The bytes of memory that this process uses, where the system tells."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


LOAD_CHECKS: list[BusCheck] = [
    a_late_receiver_reads_a_long_backlog,
    large_events_keep_their_place,
    an_inbox_takes_what_is_repeated_once,
    receivers_come_and_go_under_load,
    closing_in_the_midst_loses_nothing,
]
