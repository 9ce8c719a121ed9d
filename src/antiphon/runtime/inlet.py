"""Fills a service's log from the bus: what its handlers are bound to, each event once."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from antiphon.errors import PositionUnknown
from antiphon.ports import RECEIVED, Bus, Clock, Unreadable
from antiphon.runtime.signals import Waker
from antiphon.store.base import SqlStore
from antiphon.store.quarantine import quarantine

log = logging.getLogger("antiphon.runtime")

BATCH = 256
_REPORT_EVERY_MS = 5_000


class Inlet:
    """Moves events of *types* from the bus into one service's store.

    The position lies in the store and moves with the events in one transaction, so a crash repeats
    nothing; an id that the log has already is skipped all the same.
    """

    def __init__(self, service: str, types: Sequence[str], store: SqlStore, bus: Bus, clock: Clock) -> None:
        self.name = f"inlet of {service}"
        self._service = service
        self._types = sorted(types)
        self._store = store
        self._bus = bus
        self._clock = clock
        self._waker = Waker(clock)
        self._reported = 0
        self._reported_ms = 0

    async def run(self) -> None:
        """Run until cancelled. Raises StoreError."""
        if not self._types:
            return
        forget = self._bus.listen(self._types, self._waker.wake)
        try:
            positions = await self._store.positions()
            after = {type_: positions.get(f"read:{type_}", 0) for type_ in self._types}
            while True:
                self._waker.clear()
                try:
                    moved = await self._move(after)
                except PositionUnknown as error:
                    log.warning("%s begins anew: %s", self.name, error)
                    await self._begin_anew(after)
                    continue
                if not moved:
                    await self._report(min(after.values()))
                    await self._waker.wait(None if self._reported == min(after.values()) else _REPORT_EVERY_MS)
        finally:
            forget()

    async def _move(self, after: dict[str, int]) -> bool:
        events = await self._bus.receive(self._service, after, BATCH)
        if not events:
            return False
        upto = events[-1].seq
        here = (None, self._service)
        foreign = []
        for event in events:
            if isinstance(event, Unreadable):
                await quarantine(self._store, self._service, event.raw, event.error)
            elif event.envelope.service != self._service and event.envelope.target in here:
                foreign.append((event.envelope, RECEIVED))
        async with self._store.unit() as unit:
            await unit.append(foreign)
            for type_, seq in after.items():
                if seq < upto:
                    await unit.move_position(f"read:{type_}", upto)
        for type_, seq in after.items():
            after[type_] = max(seq, upto)
        return True

    async def _begin_anew(self, after: dict[str, int]) -> None:
        """Read the bus from its beginning. What is in the log already is known by its id."""
        async with self._store.unit() as unit:
            for type_ in after:
                await unit.execute(unit.query("forget_position"), (f"read:{type_}",))
        after.update(dict.fromkeys(after, 0))
        self._reported = 0

    async def _report(self, seq: int) -> None:
        """Tell the bus now and then how far this service is, so that it need not keep the rest."""
        now = self._store.store_ms()
        if seq > self._reported and now - self._reported_ms >= _REPORT_EVERY_MS:
            await self._bus.report(self._service, seq)
            self._reported, self._reported_ms = seq, now
