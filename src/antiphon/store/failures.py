"""Counts failed invocations by handler and event type, as they happen."""

from __future__ import annotations

from collections import Counter

from antiphon.store.base import SqlStore


class FailureCounts:
    """Failed invocations since the first reading. Each reading looks at new attempts only."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store
        self._upto: int | None = None
        self._counts: Counter[tuple[str, str]] = Counter()

    async def read(self) -> dict[tuple[str, str], int]:
        """The counts by handler and event type. Raises StoreError."""
        newest = (await self._store.fetch_all("SELECT coalesce(max(id), 0) FROM antiphon_attempts"))[0][0]
        if self._upto is not None and newest > self._upto:
            rows = await self._store.fetch_all(
                "SELECT h.name, l.type, count(*) FROM antiphon_attempts AS a"
                " JOIN antiphon_handlers AS h ON h.id = a.handler_id JOIN antiphon_log AS l ON l.seq = a.seq"
                " WHERE a.id > ? AND a.id <= ? AND a.outcome IN ('failed', 'probe') GROUP BY h.name, l.type",
                (self._upto, newest),
            )
            self._counts.update({(handler, type_): count for handler, type_, count in rows})
        self._upto = newest
        return dict(self._counts)
