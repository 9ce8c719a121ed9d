"""Antiphon's own tables: made, brought up to date, and checked at every open."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from antiphon.ports import Clock
from antiphon.store.leases import LEASE_MS
from antiphon.store.migrations import version_of
from antiphon.store.queries import views
from antiphon.store.rows import bucket_of
from antiphon.store.sqlite.queries import query, text

#: The files that lead from one version of the tables to the next; the n-th makes version n.
MIGRATIONS = ("schema.sql", "workflows_schema.sql", "requests.sql", "partitions.sql")

#: The first version that tells in which bucket an event is.
_WITH_BUCKETS = 4

_NOW = "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"
_TIME = "strftime('%Y-%m-%dT%H:%M:%fZ', {} / 1000.0, 'unixepoch')"
_META = "CREATE TABLE IF NOT EXISTS antiphon_meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID"


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the tables to this code's version, inside the caller's transaction.

    An up-to-date file is not written to: every process on it would prepare its statements anew.
    Raises StoreVersion when the file was written by a newer Antiphon.
    """
    connection.execute(_META)
    known = dict(connection.execute("SELECT name, value FROM antiphon_meta WHERE name IN ('version', 'views')"))
    version = version_of(known, len(MIGRATIONS), str(path))
    for name in MIGRATIONS[version:]:
        run_script(connection, text(name))
    if version < _WITH_BUCKETS:
        connection.create_function("antiphon_bucket", 2, bucket_of, deterministic=True)
        connection.execute("UPDATE antiphon_log SET bucket = antiphon_bucket(key, id)")
    shown = own_views()
    if version < len(MIGRATIONS) or known.get("views") != shown:
        run_script(connection, shown)
        _set(connection, "views", shown)
        _set(connection, "version", len(MIGRATIONS))


def own_views() -> str:
    """The event tables without functions, of which a file of SQLite keeps none."""
    return views(antiphon_time=_TIME, antiphon_text="CAST({} AS TEXT)", antiphon_bucket="l.bucket", antiphon_now=_NOW)


def clock_offset_ms(connection: sqlite3.Connection, clock: Clock) -> int:
    """What to add to the boot clock to get the store's clock, inside the caller's transaction.

    The store's clock starts at wall time at the first open after a boot, and then follows the boot
    clock alone: leases and retries are not moved by a wall clock that jumps (in simulation, an hour of
    skew stuck 21 of 60 seeds). It never goes back: a machine that starts in 1970 goes on where it was.
    """
    known = dict(
        connection.execute("SELECT name, value FROM antiphon_meta WHERE name IN ('boot_id', 'clock_offset_ms')")
    )
    if known.get("boot_id") == clock.boot_id():
        return int(known["clock_offset_ms"])
    latest = int(connection.execute(query("latest_store_ms"), (LEASE_MS,)).fetchone()[0])
    offset = max(clock.now_ms(), latest) - clock.boot_ms()
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
    for part in script.split(";"):
        statement += f"{part};"
        if sqlite3.complete_statement(statement):
            connection.execute(statement)
            statement = ""
    rest = statement.removesuffix(";")
    if rest.strip():
        connection.execute(rest)


def _set(connection: sqlite3.Connection, name: str, value: str | int) -> None:
    connection.execute(
        "INSERT INTO antiphon_meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", (name, value)
    )
