"""Copying the write-ahead log of a file into the file."""

from __future__ import annotations

import sqlite3


def checkpoint(connection: sqlite3.Connection, *, empty: bool = True) -> None:
    """Copy the WAL into the database file, and have it written from its beginning again. The caller holds
    the writer gate. The WAL file keeps its size unless it is to be made *empty*: a commit that overwrites
    is synced in little more than half the time of one that appends.

    With the gate held no other connection of ours writes or checkpoints, which is what the WAL-reset
    race of older SQLite builds needs. A reader in the way only makes it incomplete; it is tried again.
    """
    connection.execute(f"PRAGMA wal_checkpoint({'TRUNCATE' if empty else 'RESTART'})").fetchall()
