"""Antiphon's own tables in a schema: made, brought up to date, and checked at every open."""

from __future__ import annotations

from psycopg import AsyncConnection, errors, sql

from antiphon.errors import StoreError
from antiphon.store.migrations import marks, version_of
from antiphon.store.postgres.connection import Address
from antiphon.store.postgres.listener import number_of
from antiphon.store.postgres.queries import text
from antiphon.store.queries import views

#: The files that lead from one version of the tables to the next; the n-th makes version n.
MIGRATIONS = ("schema.sql", "partitions.sql")

_META = b"CREATE TABLE IF NOT EXISTS antiphon_meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)"
_SET = b"INSERT INTO antiphon_meta VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value"


async def _make_schema(connection: AsyncConnection, where: Address) -> None:
    """Make it where it is not there: to ask for that needs a right that who was given a schema need not have."""
    if await (await connection.execute(b"SELECT to_regnamespace($1)", (f'"{where.schema}"',))).fetchone() != (None,):
        return
    try:
        await connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(where.schema)))
    except errors.InsufficientPrivilege as error:
        user, database = connection.info.user, connection.info.dbname
        raise StoreError(
            f"it may not make the schema {where.schema} ({str(error).strip()})",
            where=where.shown,
            mend=f'GRANT CREATE ON DATABASE "{database}" TO "{user}", or '
            f'CREATE SCHEMA "{where.schema}" AUTHORIZATION "{user}"',
        ) from error


async def migrate(connection: AsyncConnection, where: Address, tables: dict[str, str]) -> None:
    """Bring Antiphon's tables and the services' own to what this code has, if they are not there.

    One process does it, in one transaction, and the others wait for it. Raises StoreVersion when the tables are of
    a newer Antiphon, StoreError when the connection does not end up in the schema.
    """
    wanted = marks(len(MIGRATIONS), views(), tables)
    if wanted.items() <= (await _known(connection, where)).items():
        return
    async with connection.transaction():
        await connection.execute(b"SELECT pg_advisory_xact_lock($1)", (number_of("migration", where.schema),))
        await _make_schema(connection, where)
        found = await (await connection.execute(b"SELECT current_schema()")).fetchone()
        if found is None or found[0] != where.schema:
            raise StoreError(
                f"the session's first schema is {found and found[0]!r}, not {where.schema!r}",
                where=where.shown,
                mend=f"Behind a pooler, say ALTER ROLE ... SET search_path = {where.schema}",
            )
        await connection.execute(_META)
        known = await _known(connection, where)
        for name in MIGRATIONS[version_of(known, len(MIGRATIONS), where.shown) :]:
            await connection.execute(text(name).encode())
        if known.get("views") != wanted["views"]:
            await connection.execute(views().encode())
        for service, script in tables.items():
            # A script that changed must be able to run over what is there (CREATE TABLE IF NOT EXISTS).
            if script and known.get(f"tables:{service}") != wanted[f"tables:{service}"]:
                await connection.execute(script.encode())
        for name, value in wanted.items():
            await connection.execute(_SET, (name, value))


async def _known(connection: AsyncConnection, where: Address) -> dict[str, str]:
    table = sql.Identifier(where.schema, "antiphon_meta")
    there = await (await connection.execute(b"SELECT to_regclass($1)", (table.as_string(None),))).fetchone()
    if there is None or there[0] is None:
        return {}
    rows = await connection.execute(sql.SQL("SELECT name, value FROM {}").format(table))
    known: dict[str, str] = dict(await rows.fetchall())
    version_of(known, len(MIGRATIONS), where.shown)  # raises StoreVersion
    return known
