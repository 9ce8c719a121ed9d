"""Removes what is old and needed by nobody."""

from __future__ import annotations

from datetime import timedelta

from antiphon.model.retry import milliseconds
from antiphon.ports import Clock
from antiphon.store.sqlite.bus import SqliteBus
from antiphon.store.sqlite.maintenance import prune
from antiphon.store.sqlite.store import SqliteStore

_EVERY_S = 600.0


class Retention:
    """Prunes one store, and the bus beside it, every ten minutes."""

    def __init__(self, store: SqliteStore, clock: Clock, keep: timedelta, bus: SqliteBus | None) -> None:
        self._store = store
        self._clock = clock
        self._keep_ms = milliseconds(keep)
        self._bus = bus

    async def run(self) -> None:
        """Run until cancelled. Raises StoreError."""
        while True:
            await self._clock.sleep(_EVERY_S)
            before = self._clock.now_ms() - self._keep_ms
            if self._bus is not None:
                sent = await self._bus.position(self._store.path.stem)
                await prune(self._store, before, sent)
                await prune(self._bus.store, before, None)
            else:
                await prune(self._store, before, None)
