"""Antiphon's own tables: made, brought up to date, and checked at every open."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from antiphon.errors import StoreVersion
from antiphon.ports import Clock
from antiphon.store.sqlite.queries import text

#: The files that lead from one version of the tables to the next; the n-th makes version n.
MIGRATIONS = ("schema.sql",)

_META = "CREATE TABLE IF NOT EXISTS antiphon_meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID"


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the tables to this code's version, inside the caller's transaction.

    Raises StoreVersion when the file was written by a newer Antiphon.
    """
    connection.execute(_META)
    found = connection.execute("SELECT value FROM antiphon_meta WHERE name = 'version'").fetchone()
    version = found[0] if found else 0
    if version > len(MIGRATIONS):
        raise StoreVersion(
            f"its tables have version {version}, this Antiphon knows up to {len(MIGRATIONS)}",
            where=str(path),
            mend="Upgrade Antiphon; nothing was changed",
        )
    for name in MIGRATIONS[version:]:
        run_script(connection, text(name))
    run_script(connection, text("views.sql"))
    _set(connection, "version", len(MIGRATIONS))


def clock_offset_ms(connection: sqlite3.Connection, clock: Clock) -> int:
    """What to add to the boot clock to get the store's clock, inside the caller's transaction.

    The store's clock starts at wall time at the first open after a boot, and then follows the boot
    clock alone: leases and retries are not moved by a wall clock that jumps (in simulation, an hour of
    skew stuck 21 of 60 seeds).
    """
    known = dict(
        connection.execute("SELECT name, value FROM antiphon_meta WHERE name IN ('boot_id', 'clock_offset_ms')")
    )
    if known.get("boot_id") == clock.boot_id():
        return int(known["clock_offset_ms"])
    offset = clock.now_ms() - clock.boot_ms()
    _set(connection, "boot_id", clock.boot_id())
    _set(connection, "clock_offset_ms", offset)
    return offset


def make_tables(connection: sqlite3.Connection, service: str, sql: str) -> None:
    """Run a service's own table script once, inside the caller's transaction; again only when it changed.

    A script that changed must be able to run over what is there (``CREATE TABLE IF NOT EXISTS``).
    """
    name = f"tables:{service}"
    found = connection.execute("SELECT value FROM antiphon_meta WHERE name = ?", (name,)).fetchone()
    if not sql or (found and found[0] == sql):
        return
    run_script(connection, sql)
    _set(connection, name, sql)


def run_script(connection: sqlite3.Connection, script: str) -> None:
    """Run statements one by one: ``executescript`` would commit the caller's transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            connection.execute(statement)
            statement = ""
    if statement.strip():
        connection.execute(statement)


def _set(connection: sqlite3.Connection, name: str, value: str | int) -> None:
    connection.execute(
        "INSERT INTO antiphon_meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", (name, value)
    )
