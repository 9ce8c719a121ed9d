"""A few sessions on one database, kept open and lent out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from antiphon.store.mariadb.connection import Session


class Pool:
    """At most *size* sessions, made by *connect*. One that comes back in the middle of something is thrown away."""

    def __init__(self, connect: Callable[[], Awaitable[Session]], size: int) -> None:
        self._connect = connect
        self._free = asyncio.Semaphore(size)
        self._idle: list[Session] = []
        self._closed = False

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """A session outside any transaction. Raises StoreError."""
        session = await self.take()
        try:
            yield session
        finally:
            await self.give_back(session)

    async def take(self) -> Session:
        """A session, to be given back. Raises StoreError."""
        await self._free.acquire()
        try:
            while self._idle:
                session = self._idle.pop()
                if not session.closed:
                    return session
                await session.close()
            return await self._connect()
        except BaseException:
            self._free.release()
            raise

    async def give_back(self, session: Session) -> None:
        """Lend it to somebody else; a broken one, or one amid a transaction, is closed."""
        self._free.release()
        if not self._closed and not session.closed and not session.in_transaction:
            self._idle.append(session)
        else:
            await session.close()

    async def close(self) -> None:
        """Close what is idle; what is lent is closed when it comes back. Idempotent."""
        self._closed = True
        while self._idle:
            await self._idle.pop().close()
