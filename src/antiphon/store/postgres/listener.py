"""What processes on one schema tell each other: that something has been committed, and that they live."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from hashlib import blake2b

import msgspec
import psycopg
from psycopg import AsyncConnection, sql

from antiphon.errors import StoreError
from antiphon.ports import Clock
from antiphon.store.postgres.connection import Address, connect, translated
from antiphon.store.postgres.queries import query
from antiphon.store.postgres.statements import numbered

log = logging.getLogger("antiphon.store")

_AGAIN_S = 1.0


def number_of(*names: str) -> int:
    """The number of an advisory lock, of 63 bits."""
    return int.from_bytes(blake2b("\0".join(names).encode(), digest_size=8).digest(), "big") >> 1


def channel_of(schema: str) -> str:
    """What the processes on a schema listen to."""
    return f"antiphon {number_of(schema):x}"


class Listener:
    """The one connection of a process that is a session: it listens, and its lock shows that the process lives."""

    def __init__(
        self, where: Address, owner: str, services: tuple[str, ...], clock: Clock, rung: Callable[[], None]
    ) -> None:
        self._where = where
        self._owner = owner
        self._services = services
        self._clock = clock
        self._rung = rung
        self._channel = channel_of(where.schema)
        self._connection: AsyncConnection | None = None
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Show that the process lives, and listen from now on. Raises StoreError."""
        self._connection = await self._connect()
        self._task = asyncio.create_task(self._listen(), name=f"listener on {self._where.schema}")

    async def close(self) -> None:
        """Listen no more; the process's sign of life goes out. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._connection is not None:
            await self._connection.close()

    async def ring(self, connection: AsyncConnection) -> None:
        """Wake the others, on a connection outside any transaction: a NOTIFY would hold up other commits."""
        with translated(self._where):
            await connection.execute(b"SELECT pg_notify($1, $2)", (self._channel, self._owner))

    async def _connect(self) -> AsyncConnection:
        connection = await connect(self._where, listens=True)
        try:
            with translated(self._where):
                number = number_of("worker", self._where.schema, self._owner)
                await connection.execute(b"SELECT pg_advisory_lock($1)", (number,))
                services = msgspec.json.encode(self._services).decode()
                await connection.execute(numbered(query("put_worker")), (self._owner, number, services))
                await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self._channel)))
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _listen(self) -> None:
        """Listen for ever, over connections that break."""
        while True:
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = await self._connect()
                    self._rung()  # what was said meanwhile nobody has heard
                async for notice in self._connection.notifies():
                    if notice.payload != self._owner:
                        self._rung()
            except (StoreError, psycopg.Error) as error:
                log.warning("nobody is heard on %s: %s", self._where.shown, error)
                if self._connection is not None:
                    with contextlib.suppress(psycopg.Error):
                        await self._connection.close()
            await self._clock.idle(_AGAIN_S)
