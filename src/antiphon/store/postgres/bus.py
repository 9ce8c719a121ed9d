"""The PostgreSQL bus: a log in a schema of its own that carries events between services."""

from __future__ import annotations

from antiphon.ports import Clock
from antiphon.store.bus import LogBus
from antiphon.store.postgres.connection import Address
from antiphon.store.postgres.store import PostgresStore


class PostgresBus(LogBus):
    """A bus on one schema."""

    store: PostgresStore

    def __init__(self, where: Address, *, clock: Clock, owner: str) -> None:
        self.store = PostgresStore(where, clock=clock, owner=owner)
