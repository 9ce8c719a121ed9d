"""A few connections to one database, kept open and lent out."""

from __future__ import annotations

import asyncio
import select
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from psycopg import AsyncConnection
from psycopg.pq import TransactionStatus

from antiphon.store.postgres.connection import Address, connect


class Pool:
    """At most *size* connections. One that comes back in the middle of something is thrown away."""

    def __init__(self, where: Address, size: int) -> None:
        self._where = where
        self._free = asyncio.Semaphore(size)
        self._idle: list[AsyncConnection] = []
        self._closed = False

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection]:
        """A connection outside any transaction. Raises StoreError."""
        connection = await self.take()
        try:
            yield connection
        finally:
            await self.give_back(connection)

    async def take(self) -> AsyncConnection:
        """A connection, to be given back. Raises StoreError."""
        await self._free.acquire()
        try:
            while self._idle:
                connection = self._idle.pop()
                if _is_quiet(connection):
                    return connection
                await connection.close()
            return await connect(self._where)
        except BaseException:
            self._free.release()
            raise

    async def give_back(self, connection: AsyncConnection) -> None:
        """Lend it to somebody else; a broken one, or one amid a transaction, is closed."""
        self._free.release()
        sound = not connection.closed and connection.info.transaction_status is TransactionStatus.IDLE
        if sound and not self._closed:
            self._idle.append(connection)
        else:
            await connection.close()

    async def close(self) -> None:
        """Close what is idle; what is lent is closed when it comes back. Idempotent."""
        self._closed = True
        while self._idle:
            await self._idle.pop().close()


def _is_quiet(connection: AsyncConnection) -> bool:
    """Whether the server has said nothing on an idle connection. What it says there is that it ends it."""
    if connection.closed:
        return False
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return not poll.poll(0)
