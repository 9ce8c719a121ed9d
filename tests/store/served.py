"""The stores on a database server: how each server is asked, and what the tests of all of them share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from antiphon import Event, Service
from antiphon.errors import StoreError
from antiphon.ports import PUBLISHED
from antiphon.runtime.runtime import Runtime
from antiphon.store.base import SqlStore
from antiphon.testing.conformance.kit import envelope

Make = Callable[..., SqlStore]
NOTES = "CREATE TABLE IF NOT EXISTS notes (n INTEGER PRIMARY KEY, text VARCHAR(100));"


class Writer(Protocol):
    """A transaction on a connection of its own, step by step."""

    async def insert(self, row: tuple[Any, ...], *, locked: bool) -> None:
        """Append one row of the log, at a position that follows the order of commits where it is *locked*."""

    async def commit(self) -> None:
        """The end."""


class Served(Protocol):
    """A database server, in its own words."""

    #: Where the databases or schemas of the tests are.
    url: str
    name: str
    #: A query of one parameter, 0, that fails when it runs.
    failing: str
    #: Ten by a parameter, and the error that is noted of a handler that divides by zero.
    divided: str
    by_zero: str
    #: A statement that ends the connection on which it runs.
    own_end: str
    #: Whether a connection that has broken meanwhile is noticed before it is used again.
    notices: bool

    @property
    def twice(self) -> type[Exception]:
        """What a second row of one key raises."""

    @property
    def failed(self) -> type[Exception]:
        """What the failing query raises."""

    @property
    def missing(self) -> type[Exception]:
        """What a table that is not there raises."""

    @property
    def wrong(self) -> type[Exception]:
        """What any statement may raise."""

    @property
    def unit(self) -> type[Any]:
        """The class of its stores' units."""

    def make(self, path: Path, owner: str, **options: Any) -> SqlStore:
        """A store of the path's, not open yet."""

    def sleep(self, seconds: float) -> str:
        """A query that takes so long."""

    async def asleep(self, store: SqlStore) -> list[int]:
        """The connections to the store's database on which the server sleeps for a minute."""

    async def break_all(self, store: SqlStore) -> None:
        """Have the server end the connections to the store's database."""

    def writer(self, store: SqlStore) -> AbstractAsyncContextManager[Writer]:
        """A writer on one of the store's connections."""


async def until(server: Served, store: SqlStore, holds: Callable[[list[int]], object]) -> None:
    """Look until it *holds* of those that sleep in the server; each look takes the server a moment."""
    while not holds(await server.asleep(store)):
        await store.fetch_all(server.sleep(0.01))


async def notes(store: SqlStore) -> list[int]:
    """The committed rows."""
    return [n for (n,) in await store.fetch_all("SELECT n FROM notes ORDER BY n")]


async def eventually(work: Callable[[], Awaitable[Any]]) -> Any:
    """What *work* gives when the store answers again."""
    for _ in range(20):
        try:
            return await work()
        except StoreError:
            continue
    return await work()


async def append(store: SqlStore, n: int) -> None:
    """An event, over connections that may have broken."""

    async def once() -> None:
        async with store.unit() as unit:
            await unit.append([(envelope(n), PUBLISHED)])

    await eventually(once)


# ---------------------------------------------------------------------- a service that bills


class Ordered(Event, key="customer"):
    """Somebody wants something."""

    customer: str
    n: int


@asynccontextmanager
async def running(url: str, name: str, folder: Path, billing: Service) -> AsyncIterator[Runtime]:
    """The service and a shop, started, in an app of this name."""
    runtime = Runtime(name, [Service("shop").spec, billing.spec], data=folder, store=url)
    await runtime.start()
    try:
        yield runtime
    finally:
        await runtime.stop()


async def rows(runtime: Runtime, sql: str) -> list[tuple[Any, ...]]:
    """Committed rows, as tuples."""
    return [tuple(row) for row in await runtime.stores["billing"].fetch_all(sql)]


async def handled(runtime: Runtime, count: int, sleep: str) -> None:
    """Wait until so many orders are over or wait for a retry; *sleep* is a query that takes a moment."""
    sql = """SELECT count(*) FROM antiphon_events
             WHERE MESSAGE_TYPE = 'Ordered' AND STATUS NOT IN ('UNPROCESSED', 'IN_PROGRESS')"""
    while (await rows(runtime, sql))[0][0] < count:
        await rows(runtime, sleep)
