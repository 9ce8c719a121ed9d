"""Desks on the schemas of a PostgreSQL database, which processes may be using."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from antiphon.model.events import EventType
from antiphon.ports import Clock
from antiphon.store.desk import Desk, desk_owner, desks_on
from antiphon.store.postgres.connection import address, connect, translated
from antiphon.store.postgres.store import PostgresStore

_STORES = b"""
SELECT n.nspname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relname = 'antiphon_meta' AND starts_with(n.nspname, $1) ORDER BY n.nspname = $2, n.nspname
"""


async def stores_at(url: str, last: str) -> list[str]:
    """The names of the stores in the database at *url*, that named *last* as the last. Raises StoreError."""
    where = address(url, last)
    prefix = where.schema.removesuffix(last)
    connection = await connect(where)
    async with connection:
        with translated(where):
            found = await (await connection.execute(_STORES, (prefix, where.schema))).fetchall()
    return [name.removeprefix(prefix) for (name,) in found]


@asynccontextmanager
async def open_desks(
    url: str, last: str, clock: Clock, event_types: Mapping[str, EventType] | None = None
) -> AsyncIterator[list[Desk]]:
    """A desk on each store in the database at *url*, that named *last* as the last. Runs nothing. Raises StoreError."""
    names = await stores_at(url, last)
    stores = [PostgresStore(address(url, name), clock=clock, owner=desk_owner(clock)) for name in names]
    async with desks_on(stores, event_types) as desks:
        yield desks
