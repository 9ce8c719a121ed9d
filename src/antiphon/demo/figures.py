"""What the running system looks like: read from its stores, beside its own work."""

from __future__ import annotations

from dataclasses import dataclass

from antiphon.errors import AntiphonError
from antiphon.runtime.runtime import Runtime
from antiphon.store.sqlite.store import SqliteStore

STATUSES = ("CREATED", "PAID", "SEATED", "TICKETED", "CANCELLED")
_ENDS = ("TicketIssued", "PaymentRefunded", "PaymentFailed")
_TRACES = 4


@dataclass(frozen=True)
class Trace:
    """What came of one booking: its first event's id, and each event's type and milliseconds after the first."""

    event_id: str
    steps: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Figures:
    """One look at the system. *events* is what the services have published for each other so far."""

    statuses: dict[str, int]
    emails: int
    events: int
    failed_attempts: int
    dead_letters: int
    paused: tuple[str, ...]

    @property
    def settled(self) -> bool:
        """Whether every booking has come to its end, and every ticket was sent."""
        ended = self.statuses["TICKETED"] + self.statuses["CANCELLED"]
        return ended == sum(self.statuses.values()) and self.emails >= self.statuses["TICKETED"]


async def look(runtime: Runtime) -> Figures:
    """The figures of now. Raises StoreError."""
    statuses = dict.fromkeys(STATUSES, 0)
    by_status = "SELECT status, count(*) FROM bookings GROUP BY status"
    statuses.update([tuple(row) for row in await runtime.store_of("booking").fetch_all(by_status)])
    failed = dead = 0
    paused: list[str] = []
    for store in runtime.stores.values():
        handlers = "SELECT name, failed_invocations, paused_until_ms IS NOT NULL FROM antiphon_handlers"
        for name, failures, waits in await store.fetch_all(handlers):
            failed += failures
            paused += [name] * waits
        dead += await _number(store, "SELECT count(*) FROM antiphon_dead_letters")
    return Figures(
        statuses=statuses,
        emails=await _number(runtime.store_of("notification"), "SELECT count(*) FROM emails"),
        events=await _number(_bus(runtime), "SELECT coalesce(max(seq), 0) FROM antiphon_log"),
        failed_attempts=failed,
        dead_letters=dead,
        paused=tuple(paused),
    )


async def last_traces(runtime: Runtime) -> list[Trace]:
    """The bookings that ended last, newest first. Raises StoreError."""
    log = _bus(runtime)
    ends: list[tuple[int, str]] = []
    for type_ in _ENDS:
        newest = "SELECT seq, correlation_id FROM antiphon_log WHERE type = ? ORDER BY seq DESC LIMIT ?"
        ends += [(row[0], row[1]) for row in await log.fetch_all(newest, (type_, _TRACES))]
    traces = []
    for _, first in sorted(ends, reverse=True)[:_TRACES]:
        chain = (
            "SELECT seq, type, time_ms FROM antiphon_log WHERE id = ?1 UNION ALL "
            "SELECT seq, type, time_ms FROM antiphon_log WHERE correlation_id = ?1 ORDER BY seq"
        )
        rows = await log.fetch_all(chain, (first,))
        traces.append(Trace(first, tuple((row["type"], row["time_ms"] - rows[0]["time_ms"]) for row in rows)))
    return traces


def _bus(runtime: Runtime) -> SqliteStore:
    if runtime.hub is None:
        raise AntiphonError("the demo looks at the bus between services, and there is none", where=runtime.name)
    return runtime.hub


async def _number(store: SqliteStore, sql: str) -> int:
    return int((await store.fetch_all(sql))[0][0])
