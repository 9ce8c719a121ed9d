"""The bus of a simulated process: connections break before and after, sends and events come twice, or late."""

from __future__ import annotations

import asyncio
import random  # noqa: TID251  seeded: it is the same in every run
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from antiphon.errors import StoreError
from antiphon.model.envelope import Envelope
from antiphon.ports import LoggedEvent
from antiphon.simulate.faults import Fault
from antiphon.simulate.process import Effects, Process
from antiphon.store.sqlite.bus import SqliteBus

_REMEMBERED = 16


class SimBus(SqliteBus):
    """The SQLite bus behind a connection that is no better than a broker's."""

    def __init__(self, path: Path, *, process: Process, effects: Effects, **options: Any) -> None:
        super().__init__(path, **options)
        self._process = process
        self._effects = effects
        self._apart_until = 0.0
        self._seen: dict[tuple[str, ...], list[LoggedEvent]] = {}

    async def send(self, sender: str, after_seq: int, upto_seq: int, events: Sequence[Envelope]) -> int:
        """Send. A connection that is lost after it loses the confirmation only; what is repeated is taken once."""
        fault = await self._pass("bus.send", sender)
        if fault is not None and fault.kind == "duplicate":
            await super().send(sender, after_seq, upto_seq, events)
        position = await super().send(sender, after_seq, upto_seq, events)
        if fault is not None and fault.kind == "drop":
            raise _lost("before the confirmation came")
        return position

    async def receive(self, receiver: str, after: Mapping[str, int], limit: int) -> list[LoggedEvent]:
        """Receive. What had come before may come again, in front of what is new and in the midst of it."""
        fault = await self._pass("bus.receive", "")
        events = await super().receive(receiver, after, limit)
        if fault is not None and fault.kind == "drop":
            raise _lost("while events came")
        if fault is not None and fault.kind == "reorder":
            return _shuffled(events, random.Random(f"{fault.at}:reorder"))
        seen = self._seen.setdefault(tuple(after), [])
        again = list(seen) if fault is not None and fault.kind == "duplicate" and events else []
        seen += events
        del seen[:-_REMEMBERED]
        if again or (fault is not None and fault.kind == "duplicate" and events):
            return [*again, *(event for event in events for _ in range(2))]
        return events

    async def _pass(self, name: str, who: str) -> Fault | None:
        """Carry out what goes wrong before the operation; the fault, if something is to go wrong after it."""
        loop = asyncio.get_running_loop()
        fault = self._effects.point(name, who.encode(), self._process)
        if fault is not None and fault.kind == "delay":
            await asyncio.sleep(fault.seconds)
        if fault is not None and fault.kind == "partition":
            self._apart_until = loop.time() + fault.seconds
        if loop.time() < self._apart_until:
            raise _lost("for a while")
        if fault is not None and fault.kind == "drop" and fault.what == "before":
            raise _lost("before anything was sent")
        return fault

    def heal(self) -> None:
        """The partition is over."""
        self._apart_until = 0.0


def _shuffled(events: Sequence[LoggedEvent], chance: random.Random) -> list[LoggedEvent]:
    """*events* in another order, as a bus of several partitions has it: that of each service and key is kept. The
    last one stays, it tells how far they go."""
    lanes: dict[tuple[str, str | None], deque[LoggedEvent]] = {}
    for event in events[:-1]:
        lanes.setdefault((event.envelope.service, event.envelope.key), deque()).append(event)
    turns = [lane for lane, members in lanes.items() for _ in members]
    chance.shuffle(turns)
    return [*(lanes[turn].popleft() for turn in turns), *events[-1:]]


def _lost(when: str) -> StoreError:
    return StoreError(f"the connection was lost {when}", where="the bus", mend="It is tried again")
