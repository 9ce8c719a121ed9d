"""Dead letters: found, grouped, shown, redriven, edited, archived."""

from __future__ import annotations

from collections.abc import Mapping

from antiphon.model.events import EventType
from antiphon.model.views import (
    DeadLetterDetail,
    DeadLetterFilter,
    DeadLetterGroup,
    DeadLetterView,
    LoggedView,
    RedriveJob,
    RedrivePlan,
)
from antiphon.store.sqlite.store import SqliteStore

ALL = DeadLetterFilter()


class DeadLetters:
    """The dead letters of one store.

    One of them is named by its event's id, or the unique beginning of one, and by its handler where the
    event is dead for several.
    """

    def __init__(self, store: SqliteStore, event_types: Mapping[str, EventType]) -> None:
        self.store = store
        self.event_types = event_types

    async def list(self, where: DeadLetterFilter = ALL, *, limit: int = 100, offset: int = 0) -> list[DeadLetterView]:
        """Dead letters, the newest first."""
        raise NotImplementedError

    async def groups(self, where: DeadLetterFilter = ALL, *, limit: int = 100) -> list[DeadLetterGroup]:
        """The same by failure, the most frequent first."""
        raise NotImplementedError

    async def show(self, event_id: str, handler: str | None = None) -> DeadLetterDetail:
        """All that is known of one, archived or not. Raises NotFound."""
        raise NotImplementedError

    async def plan(self, where: DeadLetterFilter = ALL) -> RedrivePlan:
        """What `redrive` would do (a dry run)."""
        raise NotImplementedError

    async def redrive_one(self, event_id: str, handler: str | None = None) -> DeadLetterView:
        """Revive one at once; returns it as it was. Raises NotFound."""
        raise NotImplementedError

    async def redrive(
        self,
        where: DeadLetterFilter = ALL,
        *,
        canary: bool = False,
        rate: float | None = None,
        stop_share: float | None = None,
        stop_after: int = 5,
    ) -> RedriveJob:
        """Submit a redrive of all that match now; a running app carries it out.

        *rate* is per second (None: as fast as they are handled). *stop_share* ends it when that share of at
        least *stop_after* outcomes are failures.
        """
        raise NotImplementedError

    async def jobs(self, limit: int = 20) -> list[RedriveJob]:
        """Redrives, the newest first."""
        raise NotImplementedError

    async def job(self, job_id: str) -> RedriveJob:
        """One redrive, by its id or the unique beginning of it. Raises NotFound."""
        raise NotImplementedError

    async def cancel(self, job_id: str) -> RedriveJob:
        """End a redrive: what has not gone stays a dead letter."""
        raise NotImplementedError

    async def edit(self, event_id: str, data: bytes, handler: str | None = None) -> LoggedView:
        """Publish corrected *data* (JSON text) as a new event, for this handler alone; archives the original.

        Raises NotFound, and InvalidEvent with field and reason; then nothing has changed.
        """
        raise NotImplementedError

    async def archive_one(self, event_id: str, reason: str, handler: str | None = None) -> DeadLetterView:
        """Set one aside for good: it is not shown, not redriven, and holds back no retention."""
        raise NotImplementedError

    async def archive(self, where: DeadLetterFilter, reason: str) -> int:
        """Archive all that match now; returns how many."""
        raise NotImplementedError
