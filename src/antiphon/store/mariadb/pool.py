"""Sessions on MariaDB, kept open."""

from __future__ import annotations

from antiphon.store.mariadb.connection import Session
from antiphon.store.served import pool


class Pool(pool.Pool[Session]):
    """A few sessions."""

    def is_idle(self, connection: Session) -> bool:
        """Whether it is outside any transaction."""
        return not connection.in_transaction
