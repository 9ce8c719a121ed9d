"""Sessions that stand still amid what they send, which no time-out of PostgreSQL ends.

What is sent without waiting for the answers (the end of a unit, many rows) is one statement under way to the server,
also while nothing comes: neither ``idle_in_transaction_session_timeout`` nor ``statement_timeout`` runs. A process that
is frozen there (SIGSTOP, a machine that is paused) keeps its locks as long as its connection lives. So whoever else is
on the store looks for such sessions, and has the server end those that others wait for.
"""

from __future__ import annotations

import logging
from datetime import datetime
from typing import TypeAlias

from psycopg import AsyncConnection, errors

from antiphon.ports import Clock
from antiphon.store.leases import LEASE_MS
from antiphon.store.postgres.connection import Address
from antiphon.store.postgres.queries import query
from antiphon.store.postgres.statements import numbered

log = logging.getLogger("antiphon.store")

#: For so long nothing may come from who holds what all wait for (as in the block ``lock_log``), and from who holds rows
#: of a service's own (as for a unit that says nothing).
STILL_MS, STILL_WITH_ROWS_MS = LEASE_MS, 300_000
# What happened while nobody looked, as this process or its machine stood still itself, is not known.
_MOST_MS = 6_000

#: The number of its process, since when that runs, and when the last thing came that it sent.
_Session: TypeAlias = tuple[int, datetime, datetime]


class Standstills:
    """The sessions of our role on one database that stand still. *locks* are the numbers of the store's own."""

    def __init__(self, where: Address, clock: Clock, *locks: int) -> None:
        self._where = where
        self._clock = clock
        self._locks = list(locks)
        self._looked_ms = clock.boot_ms()
        self._may = True
        # For how long we have seen each of them do so.
        self._still: dict[_Session, int] = {}

    async def look(self, connection: AsyncConnection) -> None:
        """Look on *connection*, every few seconds. Raises psycopg's errors."""
        if not self._may:
            return
        now = self._clock.boot_ms()
        passed, self._looked_ms = min(now - self._looked_ms, _MOST_MS), now
        try:
            found = await (await connection.execute(query("standing_still").encode())).fetchall()
            # Whatever it sends in between makes it another one.
            self._still = {each: self._still.get(each, -passed) + passed for each in found}
            for each, still_ms in self._still.items():
                if still_ms >= STILL_MS:
                    await self._end(connection, each, still_ms)
        except errors.InsufficientPrivilege as error:
            self._may = False
            log.warning("%s: a process that is frozen may hold up others: %s", self._where.shown, error)

    async def _end(self, connection: AsyncConnection, session: _Session, still_ms: int) -> None:
        """Have the server end it, if it still stands there, with what others wait for."""
        asked = (*session, self._locks, still_ms >= STILL_WITH_ROWS_MS, self._where.schema)
        ended = await (await connection.execute(numbered(query("end_standing")), asked)).fetchall()
        if ended:
            log.warning(
                "%s: the server has ended session %s, which others waited for: nothing came from it for %g s",
                self._where.shown,
                session[0],
                still_ms / 1000,
            )
