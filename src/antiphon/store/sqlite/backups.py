"""Copies of stores while they are in use, and whether a copy is sound."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack, closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from antiphon.errors import StoreError
from antiphon.model.views import BackupReport
from antiphon.store.sqlite import folders
from antiphon.store.sqlite.connection import translated
from antiphon.store.sqlite.migrations import MIGRATIONS

if TYPE_CHECKING:
    from antiphon.store.sqlite.store import SqliteStore

_CHECKS = (
    (
        "handlers ahead of the log",
        "SELECT count(*) FROM antiphon_handlers WHERE seq > (SELECT coalesce(max(seq), 0) FROM antiphon_log)",
    ),
    (
        "open or dead deliveries without their event",
        "SELECT count(*) FROM antiphon_deliveries AS d WHERE archived IS NULL"
        " AND NOT EXISTS (SELECT 1 FROM antiphon_log AS l WHERE l.seq = d.seq)",
    ),
)


async def backup(copies: Sequence[tuple[SqliteStore, Path]]) -> list[BackupReport]:
    """Copy each store to its target, all as they are at one moment, and check the copies.

    Positions in one store point into another: copies of different moments would, once restored, skip
    events. So all writers are held back for the instant in which a snapshot of each file is taken;
    they go on while the snapshots are copied. Raises StoreError if a target exists, or cannot be written.
    """
    for _, target in copies:
        if target.exists():
            raise StoreError("the file exists already", where=str(target), mend="Name a new file")
    with ExitStack() as sources:
        snapshots = []
        async with AsyncExitStack() as gates:
            for store, _ in sorted(copies, key=lambda copy: copy[0].path):
                await gates.enter_async_context(store.writer.alone())
            for store, target in copies:
                snapshots.append((sources.enter_context(closing(_snapshot(store))), target))
        clock = copies[0][0].clock
        return [await clock.run_blocking(partial(_copy, source, target)) for source, target in snapshots]


def _snapshot(store: SqliteStore) -> sqlite3.Connection:
    """A connection that sees the file as it is now, until it is closed."""
    connection = store.place.connect(read_only=True)
    connection.execute("BEGIN")
    connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return connection


def _copy(source: sqlite3.Connection, target: Path) -> BackupReport:
    """Write what *source* sees to *target*, under another name until it is complete and checked."""
    unfinished = target.with_name(f"{target.name}.partial")
    with translated(target):
        folders.make(target.parent)
        unfinished.unlink(missing_ok=True)
        with closing(sqlite3.connect(unfinished, isolation_level=None)) as copy:
            # All in one step: with several, a write to the source between two would begin it anew.
            source.backup(copy)
            # A copy is one file; it becomes a WAL database again when it is opened.
            copy.execute("PRAGMA journal_mode = DELETE")
            report = _report(copy, target)
    unfinished.rename(target)
    folders.sync(target.parent)
    return report


def check(path: Path) -> BackupReport:
    """Whether the file at *path*, which nobody has open, may be restored. Raises StoreError if it cannot be read."""
    if not path.is_file():
        raise StoreError("there is no such file", where=str(path))
    uri = f"{path.absolute().as_uri()}?mode=ro"
    with translated(path), closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
        return _report(connection, path)


def _report(connection: sqlite3.Connection, path: Path) -> BackupReport:
    problems = [text for (text,) in connection.execute("PRAGMA integrity_check(20)") if text != "ok"]
    if problems:
        return BackupReport(path=str(path), events=0, handlers=0, problems=tuple(problems))
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'antiphon_meta'").fetchone():
        return BackupReport(path=str(path), events=0, handlers=0, problems=("it is no store of Antiphon",))
    version = connection.execute("SELECT value FROM antiphon_meta WHERE name = 'version'").fetchone()[0]
    if version > len(MIGRATIONS):
        problems.append(f"its tables have version {version}, this Antiphon knows up to {len(MIGRATIONS)}")
    for text, sql in _CHECKS:
        if count := connection.execute(sql).fetchone()[0]:
            problems.append(f"{text}: {count}")
    events, handlers = (
        connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608  names of ours
        for table in ("antiphon_log", "antiphon_handlers")
    )
    return BackupReport(path=str(path), events=events, handlers=handlers, problems=tuple(problems))
