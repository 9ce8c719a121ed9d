"""A MariaDB for the tests: at ``$ANTIPHON_TEST_MARIADB``, at its standard port, or one of their own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from antiphon.errors import StoreError
from antiphon.runtime.clock import SystemClock
from antiphon.store.base import SqlStore
from tests.conftest import require
from tests.servers import engine_called, url_of
from tests.store.postgres import name_of

if TYPE_CHECKING:
    from antiphon.store.mariadb.connection import Session
    from antiphon.store.mariadb.store import MariaStore

MARIADB = engine_called("mariadb")
#: Databases of the tests are named so, and a number.
_NAME = "antiphon_test_"


async def asked(url: str, *statements: str) -> Sequence[tuple[Any, ...]]:
    """What the last of some statements finds, on a connection of its own to the server at *url*. Raises StoreError."""
    from antiphon.store.mariadb.connection import address, connect

    session = await connect(address(url, "bus"), database=False)
    try:
        found: Sequence[tuple[Any, ...]] = ()
        for statement in statements:
            found = await session.ask(statement)
        return found
    finally:
        await session.close()


@contextmanager
def databases() -> Iterator[str]:
    """An address for databases of one's own, dropped afterwards; skips where there is no server."""
    require("asyncmy", find_spec("asyncmy") is not None)
    server = os.environ.get("ANTIPHON_TEST_MARIADB") or asyncio.run(url_of(MARIADB))
    url = f"{server.rstrip('/')}/{_NAME}{os.getpid()}_{os.urandom(4).hex()}"
    try:
        asyncio.run(asked(url, "SELECT 1"))
        found = True
    except StoreError:
        found = False
    require("MariaDB", found)
    try:
        yield url
    finally:
        asyncio.run(dropped(url))


async def dropped(url: str) -> None:
    """Drop what is at *url*."""
    from antiphon.store.mariadb.connection import prefix_of

    names = await asked(
        url,
        "SELECT schema_name FROM information_schema.schemata"
        f" WHERE left(schema_name, {len(prefix_of(url))}) = '{prefix_of(url)}'",
    )
    if names:
        await asked(url, *(f'DROP DATABASE "{name}"' for (name,) in names))


@contextmanager
def on_mariadb() -> Iterator[OnMariadb]:
    """MariaDB, with an address for databases of one's own; skips where there is no server."""
    with databases() as url:
        yield OnMariadb(url)


class OnMariadb:
    """MariaDB in its own words (`tests.store.served.Served`)."""

    name = "mariadb"
    failing = "SELECT no_such_function(?)"
    divided = "10 / ?"
    by_zero = "asyncmy.errors.OperationalError"
    own_end = "KILL CONNECTION connection_id()"
    notices = False

    def __init__(self, url: str) -> None:
        from asyncmy import errors

        from antiphon.store.mariadb.unit import MariaUnit

        self.url = url
        self.twice = errors.IntegrityError
        self.failed = errors.MySQLError
        self.missing = errors.ProgrammingError
        self.wrong = errors.MySQLError
        self.unit = MariaUnit

    def make(self, path: Path, owner: str, *, at: str | None = None, **options: Any) -> MariaStore:
        """A store on a database that stands for the path, not open yet, perhaps on another way there."""
        from antiphon.store.mariadb.connection import address
        from antiphon.store.mariadb.store import MariaStore

        return MariaStore(address(at or self.url, name_of(path)), clock=SystemClock(), owner=owner, **options)

    def sleep(self, seconds: float) -> str:
        """A query that takes so long."""
        return f"SELECT sleep({seconds})"

    async def asleep(self, store: SqlStore) -> list[int]:
        """The server's sessions on this database that sleep for a minute."""
        return await self._sessions(store, "info LIKE '%sleep(60)%' AND info NOT LIKE '%processlist%'")

    async def break_all(self, store: SqlStore) -> None:
        """Have the server end the connections to this database, but for the one that it is asked on."""
        await asked(self.url, *(f"KILL CONNECTION {number}" for number in await self._sessions(store)))

    async def _sessions(self, store: SqlStore, what: str = "TRUE") -> list[int]:
        rows = await store.fetch_all(
            f"SELECT id FROM information_schema.processlist WHERE db = database() AND id <> connection_id() AND {what}"
        )
        return [number for (number,) in rows]

    @asynccontextmanager
    async def writer(self, store: SqlStore) -> AsyncIterator[_Writer]:
        """A writer on a session of the store's."""
        async with cast("MariaStore", store)._units.connection() as session:
            yield _Writer(session)


class _Writer:
    def __init__(self, session: Session) -> None:
        self._session = session

    async def insert(self, row: tuple[Any, ...], *, locked: bool) -> None:
        """Without the lock, the position is drawn before the transaction, as a sequence would."""
        from antiphon.store.mariadb.queries import query
        from antiphon.store.mariadb.statements import understood

        drawn = (await self._session.run(understood(query("draw_more")), (1,))).insert_id
        if not locked:
            await self._session.say("COMMIT")
        await self._session.ask(
            "INSERT INTO antiphon_log (seq, id, type, version, service, time_ms, data) VALUES (?, ?, ?, ?, ?, ?, ?)",
            *(drawn, row[0], row[1], row[2], row[4], row[5], row[13]),
        )

    async def commit(self) -> None:
        await self._session.say("COMMIT")
