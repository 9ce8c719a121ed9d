"""Tells who waits for events of one process (correlation) that some have come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from antiphon.errors import StoreError
from antiphon.store.base import SqlStore

_CHUNK = 1_000


class Arrivals:
    """One look at what is new in a log, on behalf of all who watch it: a commit costs one query, not one each."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store
        self._wakes: dict[str, dict[Callable[[], None], None]] = {}
        self._seq = 0
        self._forget: Callable[[], None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._rung = False

    def watch(self, correlation_id: str, wake: Callable[[], None]) -> Callable[[], None]:
        """Call *wake* when events of *correlation_id* have been committed, by any process; returns the undo."""
        if self._forget is None:
            self._seq = self._store.reached()
            self._forget = self._store.listen((), self._ring)
        self._wakes.setdefault(correlation_id, {})[wake] = None

        def unwatch() -> None:
            wakes = self._wakes.get(correlation_id, {})
            wakes.pop(wake, None)
            if not wakes:
                self._wakes.pop(correlation_id, None)
            if not self._wakes and self._forget is not None:
                self._forget()
                self._forget = None

        return unwatch

    def _ring(self) -> None:
        self._rung = True
        if self._looking is None:
            self._looking = asyncio.ensure_future(self._look())

    async def _look(self) -> None:
        try:
            while self._rung:
                self._rung = False
                self._rung |= await self._chunk()
        except StoreError:
            for wakes in list(self._wakes.values()):  # who looks for itself is told what is wrong
                for wake in list(wakes):
                    wake()
        finally:
            self._looking = None

    async def _chunk(self) -> bool:
        """Wake for the next rows; whether there may be more."""
        rows = await self._store.fetch_all(
            "SELECT seq, coalesce(correlation_id, id) FROM antiphon_log WHERE seq > ? ORDER BY seq LIMIT ?",
            (self._seq, _CHUNK),
        )
        for correlation_id in dict.fromkeys(correlation_id for _, correlation_id in rows):
            for wake in self._wakes.get(correlation_id, ()):
                wake()
        if rows:
            self._seq = rows[-1][0]
        return len(rows) == _CHUNK
