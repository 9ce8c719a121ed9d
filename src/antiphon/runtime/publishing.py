"""Publishing from outside a handler: many callers, one transaction, one commit."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from antiphon.model.envelope import Envelope
from antiphon.ports import Store

_LARGEST_GROUP = 1024

Events = Sequence[tuple[Envelope, int]]


class PublishQueue:
    """Appends what many tasks publish at once in one transaction; each waits until it is durable."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: list[tuple[Events, asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def publish(self, events: Events) -> None:
        """Return when *events* are durable. Raises StoreError; then none of them was kept."""
        durable = asyncio.get_running_loop().create_future()
        self._waiting.append((events, durable))
        if self._writer is None:
            self._writer = asyncio.create_task(self._write())
        await asyncio.shield(durable)

    async def _write(self) -> None:
        try:
            while self._waiting:
                group, self._waiting = self._waiting[:_LARGEST_GROUP], self._waiting[_LARGEST_GROUP:]
                await self._append(group)
        finally:
            self._writer = None

    async def _append(self, group: list[tuple[Events, asyncio.Future[None]]]) -> None:
        try:
            async with self._store.unit() as unit:
                await unit.append([event for events, _ in group for event in events])
        except Exception as error:  # noqa: BLE001  handed to whoever published
            for _, durable in group:
                durable.set_exception(error)
        else:
            for _, durable in group:
                durable.set_result(None)
