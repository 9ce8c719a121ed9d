"""The MariaDB bus: a log in a database of its own that carries events between services."""

from __future__ import annotations

from antiphon.ports import Clock
from antiphon.store.bus import LogBus
from antiphon.store.mariadb.connection import Address
from antiphon.store.mariadb.store import MariaStore


class MariaBus(LogBus):
    """A bus on one database."""

    store: MariaStore

    def __init__(self, where: Address, *, clock: Clock, owner: str) -> None:
        self.store = MariaStore(where, clock=clock, owner=owner)
