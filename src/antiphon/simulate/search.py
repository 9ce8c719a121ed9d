"""Searches for a seed that breaks a promise: many seeds, or one world killed at each of its effect points.

Every seed is run twice, in interpreters that hash strings differently; that both come to the same trace is an
invariant as well. The first seed that shows a violation is shrunk.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import msgspec

from antiphon.simulate.ambient import Report
from antiphon.simulate.faults import Schedule
from antiphon.simulate.interpreters import Runner
from antiphon.simulate.invariants import Violation
from antiphon.simulate.process import Record
from antiphon.simulate.shrink import shrink
from antiphon.simulate.worker import Job
from antiphon.simulate.world import Run

NOT_DETERMINISTIC = "G0 deterministic"
_SHRINKING_RUNS = 120
_AT_ONCE = 64
#: So many characters of a point are shown before and after the place where two runs part.
_SHOWN = 80

Progress = Callable[[int, int], None]


class Found(msgspec.Struct):
    """A violation, with the least that shows it: *schedule* and *events* are what is left of those of the seed."""

    seed: int
    events: int
    schedule: str
    violations: list[Violation]
    timeline: list[str]
    drawn: str
    shrunk: bool
    runs: int


class Outcome(msgspec.Struct):
    """What a search has come to. Times are seconds; *points* and *cpu_seconds* are of all runs."""

    seeds: int = 0
    events: int = 0
    runs: int = 0
    points: int = 0
    crashes: int = 0
    faults: int = 0
    faults_by_kind: dict[str, int] = {}
    virtual_seconds: float = 0.0
    cpu_seconds: float = 0.0
    violating: dict[int, list[Violation]] = {}
    reports: list[Report] = []
    found: Found | None = None
    digest: str = ""

    def count_faults(self, run: Run) -> None:
        """Add what went wrong in a run that is counted once, however often it is repeated."""
        self.crashes += run.crashes
        self.faults += len(run.schedule.faults)
        kinds = Counter(self.faults_by_kind)
        kinds.update(fault.name for fault in run.schedule.faults)
        self.faults_by_kind = dict(sorted(kinds.items()))

    def count(self, run: Run) -> None:
        """Add the figures of one run."""
        self.runs += 1
        self.points += run.points
        self.virtual_seconds += run.virtual_s
        self.cpu_seconds += run.cpu_s
        self.reports += [report for report in run.reports if report not in self.reports]


class Search:
    """One search over worlds that *runner* runs. *places* say where each handler is written (``file:line``)."""

    def __init__(
        self,
        runner: Runner,
        *,
        until: Callable[[], bool] = lambda: False,
        tell: Progress | None = None,
        places: Mapping[str, str] | None = None,
    ) -> None:
        self._runner = runner
        self._places = places or {}
        self._until = until
        self._tell = tell or (lambda done, found: None)

    async def seeds(self, jobs: Iterable[Job]) -> Outcome:
        """Run every job, twice. None is begun any more when *until* says so."""
        outcome = Outcome()
        hashes: dict[int, str] = {}
        first: dict[int, tuple[Job, Run]] = {}

        async def one(job: Job) -> None:
            run, violations = await self._twice(job, outcome)
            outcome.seeds += 1
            outcome.events += run.events
            outcome.count_faults(run)
            hashes[job.seed] = run.trace_hash
            if violations:
                outcome.violating[job.seed] = violations
                first[job.seed] = (job, run)
            self._tell(outcome.seeds, len(outcome.violating))

        await self._all(map(one, jobs))
        outcome.digest = _digest([hashes[seed] for seed in sorted(hashes)])
        if first:
            job, run = first[min(first)]
            outcome.found = await self._shrunk(job, run, outcome.violating[job.seed])
        return outcome

    async def exhaustive(self, jobs: Sequence[Job], *, every: int = 1) -> Outcome:
        """Run the world of each job without a fault, and then killed at each of its effect points in turn, or at each
        of so many (*every*)."""
        outcome = await self.seeds([msgspec.structs.replace(job, schedule="") for job in jobs])
        if outcome.violating:
            return outcome
        hashes = [outcome.digest]
        bases = [(job, await self._runner.run(msgspec.structs.replace(job, schedule=""), 0)) for job in jobs]
        killed = [
            msgspec.structs.replace(job, schedule=f"crash@{point}")
            for job, base in bases
            for point in range(1, base.points + 1, every)
        ]
        kept: dict[Job, str] = {}
        first: dict[Job, tuple[Run, list[Violation]]] = {}

        async def one(number: int, job: Job) -> None:
            run = await self._runner.run(job, number % 2)
            outcome.count(run)
            outcome.count_faults(run)
            kept[job] = run.trace_hash
            if run.violations:
                first[job] = (run, run.violations)
                outcome.violating[job.seed] = outcome.violating.get(job.seed, []) + run.violations
            self._tell(len(kept), len(first))

        await self._all(one(number, job) for number, job in enumerate(killed))
        outcome.digest = _digest([*hashes, *(kept[job] for job in killed if job in kept)])
        for job in killed:
            if job in first:
                run, violations = first[job]
                outcome.found = await self._shrunk(job, run, violations)
                break
        return outcome

    async def _all(self, works: Iterable[Coroutine[Any, Any, None]]) -> None:
        """Do all *works*, some at a time, in order, until it is time to stop."""
        waiting: set[asyncio.Future[None]] = set()
        for work in works:
            if self._until():
                work.close()
                break
            waiting.add(asyncio.ensure_future(work))
            if len(waiting) >= _AT_ONCE:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for each in done:
                    each.result()
        await asyncio.gather(*waiting)

    async def _twice(self, job: Job, outcome: Outcome) -> tuple[Run, list[Violation]]:
        """Run *job* in both sorts of interpreter, and compare."""
        run, other = await asyncio.gather(self._runner.run(job, 0), self._runner.run(job, 1))
        outcome.count(run)
        outcome.count(other)
        violations = list(run.violations)
        if run.trace_hash != other.trace_hash:
            violations.append(Violation(NOT_DETERMINISTIC, await self._difference(job, run, other)))
        return run, violations

    async def _difference(self, job: Job, run: Run, other: Run) -> str:
        """Where the two runs of *job* part, and what was being done there."""
        job = msgspec.structs.replace(job, upto=max(run.points, other.points))
        one, two = await asyncio.gather(self._runner.run(job, 0), self._runner.run(job, 1))
        at = next(
            (at for at, pair in enumerate(zip(one.records, two.records, strict=False)) if pair[0] != pair[1]),
            min(len(one.records), len(two.records)),
        )
        reports = "".join(f"; {report}" for report in [*one.reports, *two.reports][:3])
        if at == len(one.records) == len(two.records):
            return f"two runs pass the same points, and leave different data{reports}"
        parted = _described(one.records, at), _described(two.records, at)
        start = next((n for n, pair in enumerate(zip(*parted, strict=False)) if pair[0] != pair[1]), 0)
        shown = [text[max(0, start - _SHOWN) : start + _SHOWN] for text in parted]
        place = self._at_work(one.records, at)
        return f"two runs part at point {at + 1}: the one does {shown[0]!r}, the other {shown[1]!r}; {place}{reports}"

    def _at_work(self, records: Sequence[Record], at: int) -> str:
        """The handler that the process which parts there had called last."""
        records = [Record(*record) for record in records[: at + 1]]
        who = records[at].process if at < len(records) else None
        for record in reversed(records):
            if record.name == "handler" and who in (None, record.process):
                name = bytes(record.detail).decode()
                return f"{record.process} last called {name} ({self._places.get(name, 'of the application')})"
        return "no handler had been called"

    async def _shrunk(self, job: Job, run: Run, violations: list[Violation]) -> Found:
        """The least that still shows one of *violations*."""
        drawn = str(run.schedule)
        found = Found(job.seed, job.events, drawn, violations, run.timeline, drawn, shrunk=False, runs=0)
        names = {violation.name for violation in violations} - {NOT_DETERMINISTIC}
        if not names:
            return found
        budget = _SHRINKING_RUNS
        loop = asyncio.get_running_loop()

        async def again(schedule: str, events: int) -> bool:
            found.runs += 1
            tried = await self._runner.run(msgspec.structs.replace(job, schedule=schedule, events=events), 0)
            if names.isdisjoint(violation.name for violation in tried.violations):
                return False
            # Without the others a fault may strike a little later than was said: what struck is what is told.
            found.schedule, found.events, found.shrunk = str(tried.schedule), events, True
            found.violations, found.timeline = tried.violations, tried.timeline
            return True

        if not await again(drawn, job.events):
            return found

        def fails(part: Sequence[object]) -> bool:
            return asyncio.run_coroutine_threadsafe(again(" ".join(map(str, part)), job.events), loop).result()

        await asyncio.to_thread(shrink, Schedule.parse(drawn).faults, fails, budget=budget)
        events = found.events // 2
        while events and await again(found.schedule, events):
            events //= 2
        return found


def _digest(hashes: Iterable[str]) -> str:
    return blake2b("".join(hashes).encode(), digest_size=16).hexdigest()


def _described(records: Sequence[Record], at: int) -> str:
    """What happened at a place of a trace."""
    if at >= len(records):
        return "the end"
    record = Record(*records[at])
    return f"{record.process or 'the world'} {record.name} {bytes(record.detail).decode()}"
