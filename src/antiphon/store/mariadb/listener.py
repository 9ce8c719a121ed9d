"""What processes on one database tell each other, where the server wakes nobody."""

from __future__ import annotations

import asyncio
from hashlib import blake2b

from asyncmy.errors import Error

from antiphon.errors import StoreError
from antiphon.store.mariadb.connection import Address, Session, connect, translated
from antiphon.store.mariadb.queries import query
from antiphon.store.served import listener

#: Looks at the log's head are so far apart after something has come, and at most, when nothing comes.
SOONEST_S, LATEST_S = 0.02, 0.1
_SLOWER = 1.25
_WAIT_FOR_LOCK_S = 5


def lock_name(*names: str) -> str:
    """The name of a lock of the server, where they are the same for all databases and at most 64 letters long."""
    return f"antiphon {blake2b(chr(0).join(names).encode(), digest_size=16).hexdigest()}"


class Listener(listener.Listener[Address, Session]):
    """The one session of a process that stays. It looks at the log's head.

    MariaDB wakes nobody, so the head is read again and again: every 20 ms after it has moved, more and more
    slowly down to ten times a second when it does not.
    """

    breaks = (StoreError, Error, OSError)
    _own = 0

    def moved(self, before: int, head: int) -> None:
        """This process has moved the head itself: whom that concerns, it has told. Of what another has appended
        before that, and nobody has seen yet, it has told nobody."""
        if before <= self._own:
            self._own = max(self._own, head)

    async def _connect(self) -> Session:
        return await connect(self._where)

    async def _appear(self, connection: Session) -> None:
        with translated(self._where):
            name = lock_name("worker", self._where.database, self._owner)
            if (await connection.ask("SELECT get_lock(?, ?)", name, _WAIT_FOR_LOCK_S))[0][0] != 1:
                raise StoreError(f"another process has the name {self._owner}", where=self._where.shown)
            await connection.ask(query("put_worker"), self._owner, name, self._services)

    async def _hear(self, connection: Session) -> None:
        known, wait_s = -1, SOONEST_S
        while True:
            head = int((await connection.ask(query("log_head")))[0][0])
            if head != known:
                if known >= 0 and head > self._own:
                    self._rung()
                known, wait_s = head, SOONEST_S
                self._own = max(self._own, head)
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * _SLOWER, LATEST_S)
