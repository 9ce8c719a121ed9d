"""Where a database file lies: all that a store asks of its machine beside SQL.

``Place`` is the seam, `LocalPlace` the machine that we run on. A simulator has a machine of its own.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from antiphon.ports import Clock
from antiphon.store.sqlite import folders, host
from antiphon.store.sqlite.connection import connect, refuse_network_file_system


class Gate(Protocol):
    """A fair lock between processes, taken before every write transaction; who dies drops it."""

    async def acquire(self) -> None:
        """Wait for the gate without blocking the loop. One waiter at a time in each process."""

    def release(self) -> None:
        """Leave the gate."""

    def close(self) -> None:
        """Give the gate up for good."""


class Life(Protocol):
    """A sign that a worker lives. It ends with the worker's process, whatever ends that."""

    def beat(self) -> None:
        """Show that the worker does not hang."""

    def neighbours(self) -> dict[str, frozenset[str]]:
        """The services of every worker, this one included, that has shown itself lately, by owner."""

    def end(self) -> None:
        """Say that the worker is gone."""


class Bell(Protocol):
    """Wakes the other processes after a commit. A ring may be missed: somebody looks every second."""

    def ring(self) -> None:
        """Wake every other process that listens. Never blocks."""

    def forget_seen(self) -> None:
        """Look for neighbours again at the next ring."""

    def close(self) -> None:
        """Stop listening."""


class Place(Protocol):
    """The place of one database file, and what the processes that share it have in common."""

    def prepare(self) -> None:
        """Make the folders. Raises OSError, StoreError."""

    def connect(self, *, read_only: bool = False) -> sqlite3.Connection:
        """A connection to the file, with our settings. Raises StoreError."""

    def gate(self, clock: Clock) -> Gate:
        """This process's way to the writer gate. Raises OSError."""

    def life(self, owner: str, services: Iterable[str]) -> Life:
        """Show from now on that *owner* lives and runs *services*."""

    def bell(self, owner: str, rung: Callable[[], None]) -> Bell:
        """Listen to the bell as *owner*: *rung* is called in the loop."""

    def is_alive(self, owner: str) -> bool:
        """Whether the worker *owner* lives on this machine."""

    def secret(self) -> bytes:
        """32 random bytes of this machine, the same for all processes on this file."""

    def wal_bytes(self) -> int:
        """The size of the write-ahead log. Raises FileNotFoundError when there is none."""


PlaceOf = Callable[[Path], Place]


class LocalPlace:
    """A file of this machine; what its processes share lies in ``<file>-host/`` (host.py)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._folder = host.host_folder(path)

    def prepare(self) -> None:
        """Make the folders. Raises OSError, StoreError."""
        folders.make(self.path.parent)
        refuse_network_file_system(self.path)
        self._folder.mkdir(mode=0o700, exist_ok=True)

    def connect(self, *, read_only: bool = False) -> sqlite3.Connection:
        """A connection to the file. Raises StoreError."""
        return connect(self.path, read_only=read_only)

    def gate(self, clock: Clock) -> Gate:
        """The gate of lock files."""
        return host.Gate(self._folder, clock)

    def life(self, owner: str, services: Iterable[str]) -> Life:
        """A locked file."""
        return host.Life(self._folder, owner, services)

    def bell(self, owner: str, rung: Callable[[], None]) -> Bell:
        """A named pipe."""
        return host.Bell(self._folder, owner, rung)

    def is_alive(self, owner: str) -> bool:
        """Whether the owner's file is locked. A dead one's leftovers are removed."""
        return host.is_alive(self._folder, owner)

    def secret(self) -> bytes:
        """Made at the first call; no copy of the database carries it along."""
        return host.secret(self._folder)

    def wal_bytes(self) -> int:
        """``stat`` opens nothing, so no lock of SQLite's is lost."""
        return self.path.with_name(self.path.name + "-wal").stat().st_size
