"""What processes on one schema tell each other, over PostgreSQL's notifications."""

from __future__ import annotations

from hashlib import blake2b

import psycopg
from psycopg import AsyncConnection, sql

from antiphon.errors import StoreError
from antiphon.store.postgres.connection import Address, connect, translated
from antiphon.store.postgres.queries import query
from antiphon.store.postgres.standstill import Standstills
from antiphon.store.postgres.statements import numbered
from antiphon.store.served import listener

#: Looks at those who stand still are so far apart.
LOOK_EVERY_S = 5.0


def number_of(*names: str) -> int:
    """The number of an advisory lock, of 63 bits."""
    return int.from_bytes(blake2b("\0".join(names).encode(), digest_size=8).digest(), "big") >> 1


def channel_of(schema: str) -> str:
    """What the processes on a schema listen to."""
    return f"antiphon {number_of(schema):x}"


class Listener(listener.Listener[Address, AsyncConnection]):
    """The one connection of a process that is a session."""

    breaks = (StoreError, psycopg.Error)

    async def ring(self, connection: AsyncConnection) -> None:
        """Wake the others, on a connection outside any transaction: a NOTIFY would hold up other commits."""
        with translated(self._where):
            await connection.execute(b"SELECT pg_notify($1, $2)", (channel_of(self._where.schema), self._owner))

    async def _connect(self) -> AsyncConnection:
        return await connect(self._where, listens=True)

    async def _appear(self, connection: AsyncConnection) -> None:
        with translated(self._where):
            number = number_of("worker", self._where.schema, self._owner)
            await connection.execute(b"SELECT pg_advisory_lock($1)", (number,))
            await connection.execute(numbered(query("put_worker")), (self._owner, number, self._services))
            channel = sql.Identifier(channel_of(self._where.schema))
            await connection.execute(sql.SQL("LISTEN {}").format(channel))

    async def _hear(self, connection: AsyncConnection) -> None:
        schema = self._where.schema
        standstills = Standstills(self._where, self._clock, number_of("log", schema), number_of("log", schema) + 1)
        while True:
            async for notice in connection.notifies(timeout=LOOK_EVERY_S):
                if notice.payload != self._owner:
                    self._rung()
            # Here, since everything else of this process may be waiting for such a one.
            await standstills.look(connection)
