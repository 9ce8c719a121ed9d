"""Opening SQLite files: settings, version checks, and SQLite's errors in our words."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from antiphon.errors import StoreCorrupt, StoreError, StoreFull, StoreLocked

_NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "fuse.sshfs", "ceph", "glusterfs"}
)


def has_wal_reset_race(version: tuple[int, int, int] = sqlite3.sqlite_version_info) -> bool:
    """Whether this SQLite can corrupt a WAL when two connections write or checkpoint at once.

    Fixed in 3.51.3, and in the maintenance releases 3.50.7 and 3.44.6 (sqlite.org/wal.html#walresetbug).
    """
    fixed_in_branch = {(3, 50): 7, (3, 44): 6}
    patch = fixed_in_branch.get(version[:2])
    if patch is not None:
        return version[2] < patch
    return version < (3, 51, 3)


def connect(
    path: Path, *, read_only: bool = False, factory: type[sqlite3.Connection] = sqlite3.Connection
) -> sqlite3.Connection:
    """A connection with our settings: WAL, synchronous=FULL, no implicit transactions, no busy wait.

    Waiting for a lock in C would stall the event loop, so a busy database answers at once and the
    caller awaits. Checkpoints are one duty's work (maintenance.py), never a side effect of a commit:
    that is how the WAL-reset race of older SQLite builds is kept out.
    """
    if sqlite3.sqlite_version_info < (3, 35, 0):
        raise StoreError(
            f"SQLite {sqlite3.sqlite_version} is too old", where=str(path), mend="Use a Python built with 3.35 or newer"
        )
    with translated(path):
        connection = sqlite3.connect(
            path, isolation_level=None, timeout=0, check_same_thread=False, cached_statements=512, factory=factory
        )
        try:
            _configure(connection, read_only)
        except BaseException:
            connection.close()
            raise
    return connection


def _configure(connection: sqlite3.Connection, read_only: bool) -> None:
    connection.execute("PRAGMA busy_timeout = 5000")  # only while opening: switching to WAL needs a short lock
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise StoreError(f"write-ahead logging is not possible here (journal mode {mode})")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA cache_size = -32768")
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute("PRAGMA busy_timeout = 0")
    if read_only:
        connection.execute("PRAGMA query_only = ON")


def refuse_network_file_system(path: Path) -> None:
    """Raise StoreError if *path* lies on a network file system: its locks cannot be trusted."""
    kind = file_system(path)
    if kind in _NETWORK_FILE_SYSTEMS:
        raise StoreError(
            f"the file system is {kind}, whose locks SQLite cannot trust",
            where=str(path),
            mend="Put the data directory on a local disk, or use a server database",
        )


def file_system(path: Path) -> str:
    """The kind of file system that *path* lies on; empty if it cannot be told."""
    folder = os.path.realpath(path if path.is_dir() else path.parent)
    if sys.platform == "darwin":
        found = subprocess.run(["/usr/bin/stat", "-f", "%T", folder], capture_output=True, text=True, check=False)
        return found.stdout.strip()
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    best, kind = "", ""
    for mount in mounts:
        _, point, file_system, *_ = mount.split(" ")
        point = point.encode().decode("unicode_escape")
        inside = folder == point or folder.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, file_system
    return kind


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another connection held the lock."""
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def store_error(error: sqlite3.Error, path: Path) -> StoreError | None:
    """The StoreError that *error* stands for; None if the statement itself is at fault."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return StoreFull(
            "the disk is full", where=str(path), mend="Free some space; nothing was kept of this transaction"
        )
    if code == sqlite3.SQLITE_IOERR:
        return StoreFull(
            f"the disk failed ({error})",
            where=str(path),
            mend="Check space and disk; nothing was kept of this transaction",
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreLocked(
            "another connection holds the write lock",
            where=str(path),
            mend="End the other program's transaction; the work is tried again",
        )
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return StoreCorrupt(f"not a sound database ({error})", where=str(path), mend="Restore it from a backup")
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return StoreError(
            f"cannot be opened for writing ({error})", where=str(path), mend="Check the path and its permissions"
        )
    return None


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Raise our StoreError for what is the database's fault; leave the statement's own errors alone."""
    try:
        yield
    except sqlite3.Error as error:
        ours = store_error(error, path)
        if ours is None:
            raise
        raise ours from error
