"""Upkeep of a file: checkpoints, retention, backup."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from antiphon.errors import StoreError

if TYPE_CHECKING:
    from antiphon.store.sqlite.store import SqliteStore

# One large DELETE would hold the write lock for long; a thousand rows take some milliseconds.
_CHUNK = 1_000


class Pruned(msgspec.Struct, frozen=True):
    """What a pruning removed, and up to which position it was allowed to."""

    events: int
    upto_seq: int


def checkpoint(connection: sqlite3.Connection) -> None:
    """Copy the WAL into the database file and empty it. The caller holds the writer gate.

    With the gate held no other connection of ours writes or checkpoints, which is what the WAL-reset
    race of older SQLite builds needs. A reader in the way only makes it incomplete; it is tried again.
    """
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


async def prune(store: SqliteStore, before_ms: int, sent_seq: int | None) -> Pruned:
    """Remove events older than *before_ms* (wall) that nobody needs any more, in chunks.

    Kept is whatever a handler has not handled, any delivery that is not over (dead letters too, until
    they are archived), what has not been sent to the bus (beyond *sent_seq*; None: no bus), what a
    receiver of a bus has not taken, and the newest event, so that positions are never used again.
    """
    limit = await _needed_from(store, sent_seq)
    removed = 0
    while True:
        async with store.unit() as unit:
            rows = await unit.fetch_all(
                "SELECT seq FROM antiphon_log WHERE seq < ? AND time_ms < ? AND NOT EXISTS (SELECT 1 FROM"
                " antiphon_deliveries AS d WHERE d.seq = antiphon_log.seq AND d.archived IS NULL)"
                " ORDER BY seq LIMIT ?",
                (limit, before_ms, _CHUNK),
            )
            seqs = [(seq,) for (seq,) in rows]
            for table in ("antiphon_log", "antiphon_deliveries", "antiphon_attempts", "antiphon_progress"):
                await unit.execute_many(f"DELETE FROM {table} WHERE seq = ?", seqs)  # noqa: S608  names of ours
            await unit.execute("DELETE FROM antiphon_idempotency WHERE created_ms < ?", (before_ms,))
        removed += len(seqs)
        if len(seqs) < _CHUNK:
            return Pruned(removed, limit)


async def _needed_from(store: SqliteStore, sent_seq: int | None) -> int:
    """The first position that somebody still needs."""
    needed = [store.head()]
    cursors = await store.fetch_all(
        "SELECT min(h.seq) FROM antiphon_handlers AS h"
        " WHERE EXISTS (SELECT 1 FROM antiphon_log AS l JOIN antiphon_subscriptions AS s ON s.type = l.type"
        " WHERE s.handler_id = h.id AND l.seq > h.seq)"
    )
    needed += [seq + 1 for (seq,) in cursors if seq is not None]
    if sent_seq is not None:
        needed.append(sent_seq + 1)
    receivers = await store.fetch_all("SELECT min(seq) FROM antiphon_positions WHERE name GLOB 'inlet:*'")
    if sent_seq is None:
        needed += [seq + 1 for (seq,) in receivers if seq is not None]
    return min(needed)


def backup(path: Path, target: Path) -> None:
    """Copy the database at *path* to *target* while it is in use, by SQLite's backup API.

    Raises StoreError if *target* exists: a backup never overwrites one.
    """
    if target.exists():
        raise StoreError("the file exists already", where=str(target), mend="Name a new file")
    source = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    try:
        copy = sqlite3.connect(target)
        try:
            source.backup(copy, pages=4096)
        finally:
            copy.close()
    finally:
        source.close()
