"""What stores there are in a PostgreSQL database."""

from __future__ import annotations

from antiphon.store.postgres.connection import address, connect, translated

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
