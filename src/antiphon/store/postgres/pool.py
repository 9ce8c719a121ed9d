"""Connections to PostgreSQL, kept open."""

from __future__ import annotations

import select

from psycopg import AsyncConnection
from psycopg.pq import TransactionStatus

from antiphon.store.served import pool


class Pool(pool.Pool[AsyncConnection]):
    """A few connections."""

    def is_idle(self, connection: AsyncConnection) -> bool:
        """Whether it is outside any transaction."""
        return connection.info.transaction_status is TransactionStatus.IDLE

    def is_quiet(self, connection: AsyncConnection) -> bool:
        """Whether the server has said nothing on it. What it says on an idle one is that it ends it."""
        if connection.closed:
            return False
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN)
        return not poll.poll(0)
