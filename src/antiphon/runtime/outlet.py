"""Drains a service's log into the bus: what it published for others, in order, each event once."""

from __future__ import annotations

import logging

from antiphon.ports import PUBLISHED, Bus, Clock
from antiphon.runtime.signals import Waker
from antiphon.store.base import SqlStore

log = logging.getLogger("antiphon.runtime")

BATCH = 256
_NOTE_EVERY_MS = 5_000


class Outlet:
    """Sends what one service publishes. The log is the outbox; the bus may hold how far it has been sent.

    The log has a note of that too, which lags behind: it is pruned no further than that. Where there are several logs
    of this *service*, as each machine has one of its gateway (*is_one_of_many*), the bus knows each by a name of its
    own.
    """

    def __init__(self, service: str, store: SqlStore, bus: Bus, clock: Clock, *, is_one_of_many: bool = False) -> None:
        self.name = f"outlet of {service}"
        self._service = service
        self._sender: str | None = None if is_one_of_many else service
        self._store = store
        self._bus = bus
        self._clock = clock
        self._waker = Waker(clock)
        self._position = 0
        self._noted = -1
        self._noted_ms = 0

    async def run(self) -> None:
        """Run until cancelled. Raises StoreError."""
        forget = self._store.listen((), self._waker.wake)
        try:
            await self._begin()
            while True:
                self._waker.clear()
                moved = await self.move()
                if self._store.store_ms() - self._noted_ms >= _NOTE_EVERY_MS:
                    await self._note()
                if not moved:
                    await self._waker.wait(None if self._noted == self._position else _NOTE_EVERY_MS)
        finally:
            forget()

    async def _begin(self) -> None:
        """Find out up to where it has been sent."""
        if self._sender is None:
            self._sender = await self._own_name()
        noted = (await self._store.positions()).get("sent", 0)
        known = await self._bus.position(self._sender)
        head = await self._store.head()
        if known is not None and known > head:
            # It has taken more than there is: the log was restored, or is a new one. What the log gets from now on has
            # numbers that the bus would pass over as sent.
            log.warning("%s: the bus knows %d of its events, and there are %d; it goes on here", self.name, known, head)
            known = await self._bus.send(self._sender, known, min(noted, head), ())
        self._position = noted if known is None else known
        await self._note()

    async def _own_name(self) -> str:
        """The name of this very log, which lies in it."""
        prefix = f"{self._service}:"
        if not any(name.startswith(prefix) for name in await self._store.positions()):
            async with self._store.unit() as unit:
                await unit.move_position(f"{prefix}{self._clock.new_id()}", 0)
        # Of two that were made at the same time, the first.
        return min(name for name in await self._store.positions() if name.startswith(prefix))

    async def _note(self) -> None:
        if self._noted != self._position:
            async with self._store.unit() as unit:
                await unit.move_position("sent", self._position)
        self._noted, self._noted_ms = self._position, self._store.store_ms()

    async def move(self) -> bool:
        """Send one batch. False when everything has been sent."""
        events = await self._store.read_log(self._position, BATCH)
        if not events:
            return False
        upto = events[-1].seq
        own = [event.envelope for event in events if event.origin == PUBLISHED]
        if own:
            self._position = await self._bus.send(self._sender or self._service, self._position, upto, own)
        else:
            # Nothing of ours in between: the bus learns of it with the next batch that has something.
            self._position = upto
        return True

    async def drain(self) -> None:
        """Send everything that is left."""
        if self._noted < 0:
            await self._begin()
        while await self.move():
            pass
        await self._note()
