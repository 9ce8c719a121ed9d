"""Drains a service's log into the bus: what it published for others, in order, each event once."""

from __future__ import annotations

from antiphon.ports import PUBLISHED, Bus, Clock, Store
from antiphon.runtime.signals import Waker

BATCH = 256
_NOTE_EVERY_MS = 5_000


class Outlet:
    """Sends what one service publishes. The log is the outbox; the bus may hold how far it has been sent.

    The log has a note of that too, which lags behind: it is pruned no further than that.
    """

    def __init__(self, service: str, store: Store, bus: Bus, clock: Clock) -> None:
        self.name = f"outlet of {service}"
        self._service = service
        self._store = store
        self._bus = bus
        self._waker = Waker(clock)
        self._position = 0
        self._noted = -1
        self._noted_ms = 0

    async def run(self) -> None:
        """Run until cancelled. Raises StoreError."""
        forget = self._store.listen((), self._waker.wake)
        try:
            known = await self._bus.position(self._service)
            self._position = (await self._store.positions()).get("sent", 0) if known is None else known
            await self._note()
            while True:
                self._waker.clear()
                moved = await self.move()
                if self._store.store_ms() - self._noted_ms >= _NOTE_EVERY_MS:
                    await self._note()
                if not moved:
                    await self._waker.wait(None if self._noted == self._position else _NOTE_EVERY_MS)
        finally:
            forget()

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
            self._position = await self._bus.send(self._service, self._position, upto, own)
        else:
            # Nothing of ours in between: the bus learns of it with the next batch that has something.
            self._position = upto
        return True

    async def drain(self) -> None:
        """Send everything that is left."""
        while await self.move():
            pass
        await self._note()
