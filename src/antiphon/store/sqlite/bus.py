"""The SQLite bus: a log in a file of its own that carries events between services of one machine."""

from __future__ import annotations

from pathlib import Path

from antiphon.ports import Clock
from antiphon.store.bus import LogBus
from antiphon.store.sqlite.place import LocalPlace, PlaceOf
from antiphon.store.sqlite.store import SqliteStore


class SqliteBus(LogBus):
    """A bus on one SQLite file."""

    store: SqliteStore

    def __init__(self, path: Path, *, clock: Clock, owner: str, place_of: PlaceOf = LocalPlace) -> None:
        self.store = SqliteStore(path, clock=clock, owner=owner, place_of=place_of)
