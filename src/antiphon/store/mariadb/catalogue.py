"""What stores there are on a MariaDB server."""

from __future__ import annotations

from antiphon.store.mariadb.connection import address, connect, prefix_of, translated

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
