"""Desks on the databases of a MariaDB server, which processes may be using."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from antiphon.model.events import EventType
from antiphon.ports import Clock
from antiphon.store.desk import Desk, desk_owner, desks_on
from antiphon.store.mariadb.connection import address, connect, prefix_of, translated
from antiphon.store.mariadb.store import MariaStore

_STORES = """
SELECT table_schema FROM information_schema.tables
WHERE table_name = 'antiphon_meta' AND left(table_schema, char_length(?1)) = ?1 ORDER BY table_schema = ?2, table_schema
"""


async def stores_at(url: str, last: str) -> list[str]:
    """The names of the stores at *url*, that named *last* as the last. Raises StoreError."""
    where, prefix = address(url, last), prefix_of(url)
    session = await connect(where, database=False)
    try:
        with translated(where):
            found = await session.ask(_STORES, prefix, where.database)
    finally:
        await session.close()
    return [name.removeprefix(prefix) for (name,) in found]


@asynccontextmanager
async def open_desks(
    url: str, last: str, clock: Clock, event_types: Mapping[str, EventType] | None = None
) -> AsyncIterator[list[Desk]]:
    """A desk on each store at *url*, that named *last* as the last. Runs nothing. Raises StoreError."""
    names = await stores_at(url, last)
    stores = [MariaStore(address(url, name), clock=clock, owner=desk_owner(clock)) for name in names]
    async with desks_on(stores, event_types) as desks:
        yield desks
