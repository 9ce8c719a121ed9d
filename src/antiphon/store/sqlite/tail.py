"""The newest part of a log, in memory: what this process has just committed need not be read again."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from antiphon.model.envelope import Envelope
from antiphon.ports import INTERNAL, LoggedEvent
from antiphon.store.rows import bucket_of

_MOST_EVENTS = 4_096
_MOST_BYTES = 4 << 20

#: Events with their origins, and the position of the first; the others follow without a gap.
Run = tuple[int, Sequence[tuple[Envelope, int]]]


class Tail:
    """The events of one unbroken run of positions, of which this process committed every one.

    It answers for what comes after a position within its run. For all else (an older position, a long
    backlog, what another process commits, which breaks the run) the database has to be asked.
    """

    def __init__(self) -> None:
        self._events: list[LoggedEvent] = []
        self._after = 0
        self._bytes = 0

    def extend(self, run: Run) -> None:
        """Take in what has been committed."""
        first, events = run
        size = sum([len(envelope.data) for envelope, _ in events])
        count = len(self._events)
        if first != self._after + count + 1 or count > _MOST_EVENTS or self._bytes + size > _MOST_BYTES:
            self._events.clear()
            self._after = first - 1
            self._bytes = 0
        if size <= _MOST_BYTES:
            self._events += [LoggedEvent(seq, *event) for seq, event in enumerate(events, first)]
            self._bytes += size

    def read(
        self, after_seq: int, limit: int, types: Collection[str] | None = None, part: int = 0, parts: int = 1
    ) -> list[LoggedEvent]:
        """The next events (of *types*, of a partition) after a position. If none, the database may have some."""
        start = after_seq - self._after
        if start < 0 or start >= len(self._events):
            return []
        if types is None:
            return self._events[start : start + limit]
        found: list[LoggedEvent] = []
        for event in self._events[start:]:
            envelope = event.envelope
            if envelope.type in types:
                if event.origin == INTERNAL or envelope.target is not None:
                    break  # who is owed one of these, the database knows
                if parts > 1 and bucket_of(envelope.key, envelope.id) & (parts - 1) != part:
                    continue
                found.append(event)
                if len(found) == limit:
                    break
        return found
