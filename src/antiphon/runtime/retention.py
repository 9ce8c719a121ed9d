"""Removes what is old and needed by nobody."""

from __future__ import annotations

from datetime import timedelta

from antiphon.model.retry import milliseconds
from antiphon.store.base import SqlStore
from antiphon.store.maintenance import mark, prune

_EVERY_S = 600.0


class Retention:
    """Prunes one store, or a bus, every ten minutes."""

    def __init__(self, store: SqlStore, keep: timedelta) -> None:
        self.name = f"retention of {store.name}"
        self._store = store
        self._keep_ms = milliseconds(keep)

    async def run(self) -> None:
        """Run until cancelled. Raises StoreError."""
        clock = self._store.clock
        await mark(self._store)
        while True:
            await clock.idle(_EVERY_S)
            await prune(self._store, clock.now_ms() - self._keep_ms)
