"""Waits for what answers a command, on behalf of whoever asked from a route or from outside any handler."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from antiphon.model.commands import answers
from antiphon.model.events import EventType
from antiphon.runtime.signals import Waker
from antiphon.store.arrivals import Arrivals
from antiphon.store.base import SqlStore


class Requests:
    """The answers in the store of a requesting service, to which all of them come, that of a time-out too."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store
        self._arrivals = Arrivals(store)

    @asynccontextmanager
    async def watching(self, request_id: str, command: EventType) -> AsyncIterator[Callable[[], Awaitable[Any]]]:
        """Watch for the answer to a request that begins a process; awaiting what is yielded gives it."""
        waker = Waker(self._store.clock)
        unwatch = self._arrivals.watch(request_id, waker.wake)

        async def answer() -> Any:
            while not (rows := await self._store.rows("answer_to", (request_id,))):
                await waker.wait()
                waker.clear()
            type_, version, data = rows[0]
            return types[type_].decode(data, version)

        types = {each.name: each for each in answers(command)}
        try:
            yield answer
        finally:
            unwatch()
