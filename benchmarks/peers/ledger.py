"""The effects, as the driver reads them from outside: how many orders came through, which are missing or doubled."""

from __future__ import annotations

import sqlite3
from typing import Any, NamedTuple

from benchmarks.peers import job


class Audit(NamedTuple):
    """What became of the orders of a kill test; each had a customer of its own."""

    billed: int
    doubled: int
    counted: int


class Ledger:
    """A connection to *database*: a SQLite file, or a ``postgresql:`` address."""

    def __init__(self, database: str) -> None:
        self._connection: Any
        if database.startswith("postgresql:"):
            import psycopg  # type: ignore[import-not-found, unused-ignore]

            self._connection = psycopg.connect(database, autocommit=True)
        else:
            self._connection = sqlite3.connect(database, timeout=60, isolation_level=None)

    def prepare(self) -> None:
        """Make the tables of the effects, where the system does not."""
        for statement in job.TABLES:
            self._connection.execute(statement)

    def counted(self) -> int:
        """How many orders have gone through both handlers."""
        return int(self._one("SELECT billed FROM totals WHERE id = 1")[0])

    def audit(self) -> Audit:
        """What is there of the orders whose customer's name starts with ``kill``."""
        billed, times = self._one("SELECT count(*), coalesce(sum(orders), 0) FROM accounts WHERE id LIKE 'kill%'")
        return Audit(int(billed), int(times) - int(billed), self.counted())

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _one(self, sql: str) -> Any:
        return self._connection.execute(sql).fetchall()[0]
