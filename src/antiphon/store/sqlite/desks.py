"""Desks on SQLite files, which other processes may be using."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path

from antiphon.errors import NotFound, StoreError
from antiphon.model.events import EventType
from antiphon.model.views import BackupReport
from antiphon.ports import Clock
from antiphon.store.desk import Desk, desk_owner, desks_on
from antiphon.store.sqlite import backups
from antiphon.store.sqlite.connection import translated
from antiphon.store.sqlite.store import SqliteStore


async def backup(desk: Desk, target: Path) -> BackupReport:
    """Copy a store to a new file while it is in use, and check the copy. Raises StoreError.

    Stores that exchange events are copied together, by `backup_all`.
    """
    return (await backups.backup([(_in_file(desk), target)]))[0]


async def backup_all(desks: Sequence[Desk], folder: Path) -> list[BackupReport]:
    """Copy stores, each to a file of its name in *folder*, as they are at one moment together.

    Writers wait for an instant, not for the copying. Raises StoreError if a file is there already.
    """
    return await backups.backup([(store, folder / store.path.name) for store in map(_in_file, desks)])


def _in_file(desk: Desk) -> SqliteStore:
    if not isinstance(desk.store, SqliteStore):
        raise StoreError("it is no file", where=desk.name, mend="Back it up with the tools of its database server")
    return desk.store


@asynccontextmanager
async def open_desk(
    path: Path, clock: Clock, event_types: Mapping[str, EventType] | None = None
) -> AsyncIterator[Desk]:
    """A desk on the database at *path*, which other processes may be using. Runs nothing.

    Raises NotFound if there is no such file, StoreError if it cannot be opened.
    """
    if not is_store(path):
        raise NotFound("there is no store", where=str(path), mend="Name the data directory of an application")
    async with desks_on([SqliteStore(path, clock=clock, owner=desk_owner(clock))], event_types) as (desk,):
        yield desk


@asynccontextmanager
async def open_desks(
    data: Path, clock: Clock, event_types: Mapping[str, EventType] | None = None
) -> AsyncIterator[list[Desk]]:
    """A desk on each store in the directory *data*, the bus (named ``bus``) last. Raises as `open_desk`."""
    stores = [SqliteStore(path, clock=clock, owner=desk_owner(clock)) for path in stores_in(data)]
    async with desks_on(stores, event_types) as desks:
        yield desks


def stores_in(data: Path) -> list[Path]:
    """The stores in a directory, the bus last; other databases are left alone."""
    return sorted(filter(is_store, data.glob("*.db")), key=lambda path: (path.stem == "bus", path.stem))


def is_store(path: Path) -> bool:
    """Whether the file at *path* is a store. Raises StoreError if it cannot be read."""
    if not path.is_file():
        return False
    # To open a store brings its tables up to date, and would put them into any other database.
    with translated(path), closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as found:
        return found.execute("SELECT 1 FROM sqlite_master WHERE name = 'antiphon_meta'").fetchone() is not None
