"""What the running system looks like: read from its stores, beside its own work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from antiphon.demo.subject import Subject
from antiphon.store.base import SqlStore

#: Statuses of deliveries that pass.
PASSING = ("IN_PROGRESS", "RETRY")
_TRACES = 4


@dataclass(frozen=True)
class Trace:
    """What came of one request: its first event's id, and each event's type and milliseconds after the first."""

    event_id: str
    steps: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Figures:
    """One look at the system. *events* is what the services have published for each other so far.

    *statuses* says how many have come how far, *counters* has what else the subject counts, *deliveries* how many
    deliveries are in a status that is shown only while it lasts.
    """

    statuses: Mapping[str, int]
    counters: Mapping[str, int]
    events: int
    failed_attempts: int
    deliveries: Mapping[str, int]
    dead_letters: int
    paused: tuple[str, ...]
    settled: bool


class Looker:
    """Looks at the stores of a subject that runs: each service's, by its name, and the *bus* between them."""

    def __init__(self, subject: Subject, stores: Mapping[str, SqlStore], bus: SqlStore) -> None:
        self._subject = subject
        self._stores = stores
        self._bus = bus

    async def look(self) -> Figures:
        """The figures of now. Raises StoreError."""
        subject = self._subject
        service, by_status = subject.progress
        statuses = dict.fromkeys(subject.statuses, 0)
        statuses.update([tuple(row) for row in await self._stores[service].fetch_all(by_status)])
        counters = {name: await self._count(*asked) for name, asked in subject.counters.items()}
        failed = dead = 0
        deliveries = dict.fromkeys(PASSING, 0)
        paused: list[str] = []
        for store in self._stores.values():
            handlers = "SELECT name, failed_invocations, paused_until_ms IS NOT NULL FROM antiphon_handlers"
            for name, failures, waits in await store.fetch_all(handlers):
                failed += failures
                paused += [name] * waits
            dead += await _number(store, "SELECT count(*) FROM antiphon_dead_letters")
            passing = "SELECT status, count(*) FROM antiphon_deliveries GROUP BY status"
            for status, count in await store.fetch_all(passing):
                if status in deliveries:
                    deliveries[status] += count
        return Figures(
            statuses=statuses,
            counters=counters,
            events=await _number(self._bus, "SELECT coalesce(max(seq), 0) FROM antiphon_log"),
            failed_attempts=failed,
            deliveries=deliveries,
            dead_letters=dead,
            paused=tuple(paused),
            settled=subject.settled(statuses, counters),
        )

    async def last_traces(self) -> list[Trace]:
        """The processes that ended last, newest first. Raises StoreError."""
        ends: list[tuple[int, str]] = []
        for type_ in self._subject.last_events:
            newest = "SELECT seq, correlation_id FROM antiphon_log WHERE type = ? ORDER BY seq DESC LIMIT ?"
            ends += [(row[0], row[1]) for row in await self._bus.fetch_all(newest, (type_, _TRACES))]
        traces = []
        for _, first in sorted(ends, reverse=True)[:_TRACES]:
            chain = (
                "SELECT seq, type, time_ms FROM antiphon_log WHERE id = ?1 UNION ALL "
                "SELECT seq, type, time_ms FROM antiphon_log WHERE correlation_id = ?1 ORDER BY seq"
            )
            rows = await self._bus.fetch_all(chain, (first,))
            traces.append(Trace(first, tuple((row["type"], row["time_ms"] - rows[0]["time_ms"]) for row in rows)))
        return traces

    async def _count(self, service: str, sql: str) -> int:
        return await _number(self._stores[service], sql)


async def _number(store: SqlStore, sql: str) -> int:
    return int((await store.fetch_all(sql))[0][0])
