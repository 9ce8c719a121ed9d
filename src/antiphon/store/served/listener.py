"""What processes on one store of a server tell each other: that something has been committed, and that they live."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Generic

import msgspec

from antiphon.ports import Clock
from antiphon.store.served.connection import C, W

log = logging.getLogger("antiphon.store")

_AGAIN_S = 1.0


class Listener(ABC, Generic[W, C]):
    """The one connection of a process that stays: its lock shows that the process lives, and on it others are heard.

    *rung* is called when one of them may have committed.
    """

    #: What is raised when a connection breaks.
    breaks: ClassVar[tuple[type[Exception], ...]]

    def __init__(self, where: W, owner: str, services: tuple[str, ...], clock: Clock, rung: Callable[[], None]) -> None:
        self._where = where
        self._owner = owner
        self._services = msgspec.json.encode(services).decode()
        self._clock = clock
        self._rung = rung
        self._connection: C | None = None
        self._task: asyncio.Task[None] | None = None

    # ------------------------------------------------------------------ the server's

    @abstractmethod
    async def _connect(self) -> C:
        """A connection to listen on. Raises StoreError."""

    @abstractmethod
    async def _appear(self, connection: C) -> None:
        """Show on *connection* that the process lives, and which services it runs. Raises StoreError."""

    @abstractmethod
    async def _hear(self, connection: C) -> None:
        """Call `_rung` for each commit of others, until *connection* breaks."""

    # ------------------------------------------------------------------ the same for all

    async def open(self) -> None:
        """Show that the process lives, and listen from now on. Raises StoreError."""
        self._connection = await self._begin()
        self._task = asyncio.create_task(self._listen(), name=f"listener on {self._where.shown}")

    async def close(self) -> None:
        """Listen no more; the process's sign of life goes out. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._connection is not None:
            await self._connection.close()

    async def _begin(self) -> C:
        connection = await self._connect()
        try:
            await self._appear(connection)
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _listen(self) -> None:
        """Listen for ever, over connections that break."""
        while True:
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = await self._begin()
                    self._rung()  # what was committed meanwhile nobody has heard of
                await self._hear(self._connection)
            except self.breaks as error:
                log.warning("nobody is heard on %s: %s", self._where.shown, error)
                if self._connection is not None:
                    with contextlib.suppress(*self.breaks):
                        await self._connection.close()
                self._connection = None
            await self._clock.idle(_AGAIN_S)
