"""A few connections to one database, kept open and lent out."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Generic

from antiphon.store.served.connection import C


class Pool(ABC, Generic[C]):
    """At most *size* connections, made by *connect*. One that comes back in the middle of something is thrown away."""

    def __init__(self, connect: Callable[[], Awaitable[C]], size: int) -> None:
        self._connect = connect
        self._free = asyncio.Semaphore(size)
        self._idle: list[C] = []
        self._closed = False

    @abstractmethod
    def is_idle(self, connection: C) -> bool:
        """Whether a connection that is open is outside any transaction."""

    def is_quiet(self, connection: C) -> bool:
        """Whether a connection that was idle can still be used, as far as that is known without asking."""
        return not connection.closed

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[C]:
        """A connection outside any transaction. Raises StoreError."""
        connection = await self.take()
        try:
            yield connection
        finally:
            await self.give_back(connection)

    async def take(self) -> C:
        """A connection, to be given back. Raises StoreError."""
        await self._free.acquire()
        try:
            while self._idle:
                connection = self._idle.pop()
                if self.is_quiet(connection):
                    return connection
                await connection.close()
            return await self._connect()
        except BaseException:
            self._free.release()
            raise

    async def give_back(self, connection: C) -> None:
        """Lend it to somebody else; a broken one, or one amid a transaction, is closed."""
        self._free.release()
        if not self._closed and not connection.closed and self.is_idle(connection):
            self._idle.append(connection)
        else:
            await connection.close()

    async def close(self) -> None:
        """Close what is idle; what is lent is closed when it comes back. Idempotent."""
        self._closed = True
        while self._idle:
            await self._idle.pop().close()
