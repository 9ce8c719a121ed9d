"""Antiphon's own tables in a database: made, brought up to date, and checked at every open.

MariaDB keeps a change of tables at once, so a death may come between any two of them. All of ours can be made over
again. Of a service's own script it is kept how far it has come.
"""

from __future__ import annotations

from asyncmy.errors import Error

from antiphon.errors import StoreError
from antiphon.store.mariadb.connection import NO_DATABASE, Address, Session, connect, translated
from antiphon.store.mariadb.listener import lock_name
from antiphon.store.mariadb.queries import text
from antiphon.store.mariadb.statements import defines, statements_of
from antiphon.store.migrations import digest, marks, version_of
from antiphon.store.queries import views

#: The files that lead from one version of the tables to the next; the n-th makes version n.
MIGRATIONS = ("schema.sql",)

_WAIT_S = 60
# There is such a table, column or index already, or no longer.
_DONE_BEFORE = frozenset((1050, 1051, 1060, 1061, 1091, 1304, 1826))
_OURS = " ENGINE InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin"
_META = f"CREATE TABLE IF NOT EXISTS antiphon_meta (name VARCHAR(255) PRIMARY KEY, value TEXT NOT NULL){_OURS}"
_SET = "INSERT INTO antiphon_meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
_TIME = "concat(left(date_format(timestampadd(microsecond, {} * 1000, '1970-01-01'), '%Y-%m-%dT%H:%i:%s.%f'), 23), 'Z')"


async def migrate(where: Address, tables: dict[str, str]) -> None:
    """Bring Antiphon's tables and the services' own to what this code has, if they are not there.

    One process does it, and the others wait for it. Raises StoreVersion when the tables are of a newer Antiphon.
    """
    session = await _connect(where)
    try:
        with translated(where):
            wanted = marks(len(MIGRATIONS), _views(), tables)
            if wanted.items() <= (await _known(session)).items():
                return
            lock = lock_name("migration", where.database)
            if (await session.ask("SELECT get_lock(?, ?)", lock, _WAIT_S))[0][0] != 1:
                raise StoreError("another process is making the tables, for long now", where=where.shown)
            await _make(session, tables, wanted)
    finally:
        await session.close()


async def _connect(where: Address) -> Session:
    """A session on the database, which is made if it is not there."""
    try:
        return await connect(where)
    except StoreError as error:
        if not isinstance(error.__cause__, Error) or error.__cause__.args[0] != NO_DATABASE:
            raise
    session = await connect(where, database=False)
    try:
        with translated(where):
            await session.say(
                f'CREATE DATABASE IF NOT EXISTS "{where.database}" CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin'
            )
    finally:
        await session.close()
    return await connect(where)


async def _make(session: Session, tables: dict[str, str], wanted: dict[str, str]) -> None:
    await session.say(_META)
    known = await _known(session)
    for name in MIGRATIONS[version_of(known, len(MIGRATIONS), session.where.shown) :]:
        for statement in statements_of(text(name)):
            await session.ask(statement + (_OURS if "CREATE TABLE" in statement else ""))
    if known.get("views") != wanted["views"]:
        for statement in statements_of(_views()):
            await session.ask(statement)
    for name in ("version", "views"):
        await session.ask(_SET, name, wanted[name])
    for service, script in tables.items():
        if script and known.get(f"tables:{service}") != wanted[f"tables:{service}"]:
            await _run_script(session, service, script, known)


async def _run_script(session: Session, service: str, script: str, known: dict[str, str]) -> None:
    """Run a service's script, each of its statements once, from where a death has left it.

    A script that changed must be able to run over what is there (``CREATE TABLE IF NOT EXISTS``). A change of
    tables cannot commit with the note of it, so the one that was under way may have been made.
    """
    mark, note = digest(script), f"making:{service}"
    of, _, done = known.get(note, "").partition(" ")
    start = int(done) if of == mark else 0
    for number, statement in enumerate(statements_of(script)):
        if number < start:
            continue
        await session.ask(_SET, note, f"{mark} {number}")
        if defines(statement):
            try:
                await session.ask(statement)
            except Error as error:
                if of != mark or number > start or error.args[0] not in _DONE_BEFORE:
                    raise
        else:
            await session.say("START TRANSACTION")
            await session.ask(statement)
            await session.ask(_SET, note, f"{mark} {number + 1}")
            await session.say("COMMIT")
    await session.say("START TRANSACTION")
    await session.ask(_SET, f"tables:{service}", mark)
    await session.ask("DELETE FROM antiphon_meta WHERE name = ?", note)
    await session.say("COMMIT")


async def _known(session: Session) -> dict[str, str]:
    there = await session.ask(
        "SELECT 1 FROM information_schema.tables WHERE table_schema = database() AND table_name = 'antiphon_meta'"
    )
    if not there:
        return {}
    known = {name: value for name, value in await session.ask("SELECT name, value FROM antiphon_meta")}  # noqa: C416
    version_of(known, len(MIGRATIONS), session.where.shown)  # raises StoreVersion
    return known


def _views() -> str:
    """The event tables without functions, for which one may need rights of their own; each is replaced as a whole."""
    script = views(
        antiphon_time=_TIME,
        antiphon_text="convert({} USING utf8mb4)",
        antiphon_bucket="l.bucket",
        antiphon_now="cast(unix_timestamp(sysdate(3)) * 1000 AS SIGNED)",
    )
    kept = "\n".join(line for line in script.splitlines() if not line.startswith("DROP VIEW"))
    return kept.replace("CREATE VIEW", "CREATE OR REPLACE VIEW")
