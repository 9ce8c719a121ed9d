"""Carries out redrives of many dead letters, at their rate, until they are over."""

from __future__ import annotations

from antiphon.ports import REDRIVE_SET
from antiphon.runtime.signals import Waker
from antiphon.store.base import SqlStore
from antiphon.store.redrives import advance


class Redriver:
    """Advances the redrives of one store. Several processes may: each step is one transaction."""

    def __init__(self, store: SqlStore) -> None:
        self.name = f"redriver of {store.name}"
        self._store = store
        self._waker = Waker(store.clock)

    async def run(self) -> None:
        """Run until cancelled. Raises StoreError."""
        forget = self._store.listen((REDRIVE_SET,), self._waker.wake)
        try:
            while True:
                self._waker.clear()
                wait_ms = await advance(self._store)
                if wait_ms == 0:
                    await self._store.clock.sleep(0)  # others of this loop have a turn between two steps
                else:
                    await self._waker.wait(wait_ms)
        finally:
            forget()
