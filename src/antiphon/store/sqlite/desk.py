"""What a person asks of one SQLite store, while workers run in this or other processes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from antiphon.model.events import EventType
from antiphon.model.views import (
    BackupReport,
    DeliveryView,
    Forgotten,
    HandlerStatus,
    LoggedView,
    PositionView,
    Trace,
    TracePart,
)
from antiphon.ports import Clock
from antiphon.store.sqlite.deadletters import DeadLetters
from antiphon.store.sqlite.maintenance import Pruned
from antiphon.store.sqlite.store import SqliteStore


class Desk:
    """Questions to, and acts on, one open store. *event_types*, by name, check what is edited."""

    def __init__(self, store: SqliteStore, event_types: Mapping[str, EventType] | None = None) -> None:
        self.store = store
        self.name = store.path.stem
        self.dead = DeadLetters(store, event_types or {})

    async def status(self) -> list[HandlerStatus]:
        """Every handler that the store knows, by name."""
        raise NotImplementedError

    async def positions(self) -> list[PositionView]:
        """How far inlets and outlets have come."""
        raise NotImplementedError

    async def tail(
        self, after_seq: int = 0, limit: int = 100, *, type: str | None = None, correlation_id: str | None = None
    ) -> list[LoggedView]:
        """The next events after a position, in the order of the log."""
        raise NotImplementedError

    async def latest(
        self, limit: int = 20, *, type: str | None = None, correlation_id: str | None = None
    ) -> list[LoggedView]:
        """The newest events, oldest of them first."""
        raise NotImplementedError

    async def wait_for_events(self, after_seq: int, timeout_s: float) -> bool:
        """Whether the log has something after a position, at once or within *timeout_s*."""
        raise NotImplementedError

    async def event(self, event_id: str) -> LoggedView:
        """The event of an id, or of the unique beginning of one. Raises NotFound."""
        raise NotImplementedError

    async def events_of(self, correlation_id: str, after_seq: int = 0, limit: int = 1_000) -> list[LoggedView]:
        """The events of one correlation after a position, in the order of the log."""
        raise NotImplementedError

    async def deliveries_of(self, event_ids: Sequence[str]) -> list[DeliveryView]:
        """What became of events, for each handler that is owed them."""
        raise NotImplementedError

    async def trace(self, event_id: str) -> Trace:
        """All events of the same correlation as far as this store knows. Raises NotFound."""
        raise NotImplementedError

    async def trace_part(self, correlation_id: str) -> TracePart:
        """What this store knows of a correlation, for `antiphon.policy.tracing.merge`."""
        raise NotImplementedError

    async def forget(self, handler: str) -> Forgotten:
        """Forget a handler that is no longer in the code. Raises NotFound, and AntiphonError while it runs."""
        raise NotImplementedError

    async def prune(self, before_ms: int) -> Pruned:
        """Remove what came before *before_ms* (wall) and nobody needs any more."""
        raise NotImplementedError

    async def backup(self, target: Path) -> BackupReport:
        """Copy the store to a new file while it is in use, and check the copy. Raises StoreError."""
        raise NotImplementedError


async def trace(desks: Sequence[Desk], event_id: str) -> Trace:
    """The trace of an event over several stores. Raises NotFound if none has it."""
    raise NotImplementedError


@asynccontextmanager
async def open_desk(
    path: Path, clock: Clock, event_types: Mapping[str, EventType] | None = None
) -> AsyncIterator[Desk]:
    """A desk on the database at *path*, which other processes may be using. Runs nothing.

    Raises NotFound if there is no such file, StoreError if it cannot be opened.
    """
    raise NotImplementedError
    yield


@asynccontextmanager
async def open_desks(
    data: Path, clock: Clock, event_types: Mapping[str, EventType] | None = None
) -> AsyncIterator[list[Desk]]:
    """A desk on each store in the directory *data*, the bus (named ``bus``) last. Raises as `open_desk`."""
    raise NotImplementedError
    yield
