"""A process that receives: fills the store at a path from the bus at a URL, and tells whenever something came.

``python -m tests.broker.receiving URL STORE OWNER``
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from antiphon.broker import librdkafka
from antiphon.broker.connecting import bus_at
from antiphon.ports import Bus, LoggedEvent, Unreadable
from antiphon.runtime.clock import SystemClock
from antiphon.runtime.inlet import Inlet
from antiphon.store.sqlite.store import SqliteStore
from antiphon.testing.conformance.kit import TYPES


class Telling:
    """A bus that prints how many events were received from it."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    def __getattr__(self, name: str) -> object:
        return getattr(self._bus, name)

    async def receive(self, receiver: str, after: Mapping[str, int], limit: int) -> Sequence[LoggedEvent | Unreadable]:
        """As the bus."""
        found = await self._bus.receive(receiver, after, limit)
        if found:
            sys.stdout.write(f"{len(found)}\n")
            sys.stdout.flush()
        return found


async def main(url: str, path: str, owner: str) -> None:
    """Receive until it is killed."""
    clock = SystemClock()
    store = SqliteStore(Path(path), clock=clock, owner=owner)
    bus = bus_at(url, "", keep=timedelta(days=1))(Path(), clock=clock, owner=owner)
    await store.open()
    await bus.open()
    await Inlet("receiver", TYPES, store, Telling(bus), clock).run()  # type: ignore[arg-type]


if __name__ == "__main__":
    # A group waits at each change until it has heard of all, or given them up: here for less long than in life.
    librdkafka._SESSION_MS, librdkafka._HEARTBEAT_MS = 3_000, 500
    asyncio.run(main(*sys.argv[1:]))
