"""What processes on one database tell each other: that something has been committed, and that they live."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from hashlib import blake2b

import msgspec
from asyncmy.errors import Error

from antiphon.errors import StoreError
from antiphon.ports import Clock
from antiphon.store.mariadb.connection import Address, Session, connect, translated
from antiphon.store.mariadb.queries import query

log = logging.getLogger("antiphon.store")

#: Looks at the log's head are so far apart after something has come, and at most, when nothing comes.
SOONEST_S, LATEST_S = 0.02, 0.1
_SLOWER = 1.25
_AGAIN_S = 1.0
_WAIT_FOR_LOCK_S = 5


def lock_name(*names: str) -> str:
    """The name of a lock of the server, where they are the same for all databases and at most 64 letters long."""
    return f"antiphon {blake2b(chr(0).join(names).encode(), digest_size=16).hexdigest()}"


class Listener:
    """The one session of a process that stays: its lock shows that the process lives, and it looks at the log's head.

    MariaDB wakes nobody, so the head is read again and again: every 20 ms after it has moved, more and more
    slowly down to ten times a second when it does not.
    """

    def __init__(
        self, where: Address, owner: str, services: tuple[str, ...], clock: Clock, rung: Callable[[], None]
    ) -> None:
        self._where = where
        self._owner = owner
        self._services = services
        self._clock = clock
        self._rung = rung
        self._session: Session | None = None
        self._task: asyncio.Task[None] | None = None
        self._own = 0

    async def open(self) -> None:
        """Show that the process lives, and look from now on. Raises StoreError."""
        self._session = await self._connect()
        self._task = asyncio.create_task(self._listen(), name=f"listener on {self._where.database}")

    async def close(self) -> None:
        """Look no more; the process's sign of life goes out. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def moved(self, before: int, head: int) -> None:
        """This process has moved the head itself: whom that concerns, it has told. Of what another has appended
        before that, and nobody has seen yet, it has told nobody."""
        if before <= self._own:
            self._own = max(self._own, head)

    async def _connect(self) -> Session:
        session = await connect(self._where)
        try:
            with translated(self._where):
                name = lock_name("worker", self._where.database, self._owner)
                if (await session.ask("SELECT get_lock(?, ?)", name, _WAIT_FOR_LOCK_S))[0][0] != 1:
                    raise StoreError(f"another process has the name {self._owner}", where=self._where.shown)
                services = msgspec.json.encode(self._services).decode()
                await session.ask(query("put_worker"), self._owner, name, services)
        except BaseException:
            await session.close()
            raise
        return session

    async def _listen(self) -> None:
        """Look for ever, over sessions that break."""
        while True:
            try:
                if self._session is None or self._session.closed:
                    self._session = await self._connect()
                    self._rung()  # what has come meanwhile nobody has seen
                await self._look(self._session)
            except (StoreError, Error, OSError) as error:
                log.warning("nobody looks at %s: %s", self._where.shown, error)
                if self._session is not None:
                    with contextlib.suppress(Error, OSError):
                        await self._session.close()
                self._session = None
            await self._clock.idle(_AGAIN_S)

    async def _look(self, session: Session) -> None:
        """Look at the head of the log until the session breaks."""
        known, wait_s = -1, SOONEST_S
        while True:
            head = int((await session.ask(query("log_head")))[0][0])
            if head != known:
                if known >= 0 and head > self._own:
                    self._rung()
                known, wait_s = head, SOONEST_S
                self._own = max(self._own, head)
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * _SLOWER, LATEST_S)
