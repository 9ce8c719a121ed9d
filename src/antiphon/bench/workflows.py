"""Workflows of five recorded steps beside hand-written batched SQL that leaves the same rows."""

from __future__ import annotations

import sqlite3
import statistics
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec

from antiphon.bench.latency import quantile
from antiphon.bench.upkeep import resident_mib
from antiphon.bench.workload import BATCH
from antiphon.model.events import Event
from antiphon.ports import PUBLISHED
from antiphon.runtime.clock import SystemClock
from antiphon.runtime.runtime import Runtime
from antiphon.runtime.transaction import Transaction
from antiphon.runtime.workflow.handle import Workflow
from antiphon.service import Service
from antiphon.store.sqlite.connection import connect
from antiphon.store.sqlite.queries import query
from antiphon.store.sqlite.store import SqliteStore

STEPS = 5
_TABLES = "CREATE TABLE IF NOT EXISTS done (n INTEGER PRIMARY KEY, run INTEGER NOT NULL, step INTEGER NOT NULL);"
_DONE = "INSERT INTO done (run, step) VALUES (?, ?)"
_LOOK_EVERY_S = 0.002
_CHUNK = 4 * BATCH
_PUNCTUAL_MS = 50
_BEGUN = "SELECT coalesce(max(nr), 0) FROM antiphon_runs"
_WOKEN = "SELECT count(*) FROM antiphon_log WHERE type = 'Woken'"


class Begun(Event, key="n"):
    """Begins a run."""

    n: int


class Ended(Event, key="n"):
    """What a run returns."""

    n: int
    last: int


async def work(n: int, step: int, tx: Transaction) -> int:
    """One step: one row."""
    await tx.execute(_DONE, n, step)
    return step


def service() -> Service:
    """The service with the workflow that is measured."""
    found = Service("flows", tables=_TABLES)

    @found.workflow(starts=Begun)
    async def process(begun: Begun, wf: Workflow) -> Ended:
        last = 0
        for step in range(STEPS):
            last = await wf.step(work, begun.n, step)
        return Ended(begun.n, last)

    return found


async def through(runtime: Runtime, count: int, first: int = 0) -> float:
    """Send so many runs through; seconds until all have ended durably."""
    store = runtime.stores["flows"]
    started = time.perf_counter()
    for start in range(first, first + count, BATCH):
        await runtime.publish("flows", *(Begun(n) for n in range(start, min(start + BATCH, first + count))))
    while (await store.fetch_all("SELECT max(nr) FROM antiphon_runs"))[0][0] != first + count:
        await runtime.clock.sleep(_LOOK_EVERY_S)
    return time.perf_counter() - started


class HandWritten:
    """The same rows by a loop of batched SQL: no replay, no validation, no savepoints, no lease."""

    def __init__(self, path: Path) -> None:
        self._connection: sqlite3.Connection = connect(path)
        self._clock = SystemClock()

    @staticmethod
    async def prepare(path: Path) -> None:
        """Make the file with a store's tables."""
        spec = service().spec
        store = SqliteStore(path, clock=SystemClock(), owner="bench", tables={spec.name: spec.tables})
        await store.open()
        try:
            await store.register(spec.handlers)
        finally:
            await store.close()

    def run(self, count: int) -> None:
        """Publish and carry out so many runs."""
        for start in range(0, count, BATCH):
            numbers = range(start, min(start + BATCH, count))
            self._connection.execute("BEGIN IMMEDIATE")
            rows = self._publish(numbers)
            self._connection.execute("COMMIT")
            self._connection.execute("BEGIN IMMEDIATE")
            self._carry_out(rows)
            self._connection.execute("COMMIT")

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _publish(self, numbers: range) -> list[tuple[Any, ...]]:
        encode, new_id, now = msgspec.json.Encoder().encode, self._clock.new_id, self._clock.now_ms()
        rows = [
            (new_id(), "Begun", 1, str(n), "flows", now, None, None, PUBLISHED, encode(Begun(n)), 0) for n in numbers
        ]
        self._connection.executemany(query("append_plain"), rows)
        return rows

    def _carry_out(self, rows: list[tuple[Any, ...]]) -> None:
        decode, encode, new_id = msgspec.json.decode, msgspec.json.encode, self._clock.new_id
        now, execute = self._clock.now_ms(), self._connection.execute
        done, records, ended = [], [], []
        for event_id, _, _, key, *_, data, _ in rows:
            n = decode(data)["n"]
            done += [(n, step) for step in range(STEPS)]
            result = encode({"value": {"n": n, "last": STEPS - 1}, "type": "Ended", "version": 1})
            run = (event_id, "flows.process", key, key, 1, "COMPLETED", event_id, None, n + 1, "Begun", 1, data, "")
            ((nr,),) = execute(query("insert_run"), (*run, None, None, None, result, None, None, now, now)).fetchall()
            records += [
                (nr, str(step), "step", "work", "DONE", step, 1, None, None, None, encode(step), None, None, now)
                for step in range(1, STEPS + 1)
            ]
            follow_up = encode({"n": n, "last": STEPS - 1})
            ended.append((new_id(), "Ended", 1, key, "flows", now, event_id, event_id, PUBLISHED, follow_up, 0))
        self._connection.executemany(_DONE, done)
        self._connection.executemany(query("put_record"), records)
        self._connection.executemany(query("append_plain"), ended)


async def measure(folder: Path, *, runs: int, rounds: int) -> dict[str, Any]:
    """Workflows and the loop by hand, in turn; medians of *rounds*."""
    ours, limit, cpu, limit_cpu = [], [], [], []
    for number in range(rounds):
        by_hand_file = folder / f"flows-limit{number}.db"
        await HandWritten.prepare(by_hand_file)
        by_hand = HandWritten(by_hand_file)
        started, busy = time.perf_counter(), time.process_time()
        by_hand.run(runs)
        limit.append(runs / (time.perf_counter() - started))
        limit_cpu.append((time.process_time() - busy) / runs * 1e6)
        by_hand.close()
        runtime = Runtime("flows", [service().spec], data=folder / f"flows{number}")
        await runtime.start()
        busy = time.process_time()
        try:
            ours.append(runs / await through(runtime, runs))
            cpu.append((time.process_time() - busy) / runs * 1e6)
        finally:
            await runtime.stop()
    return {
        "workflows": runs,
        "steps": STEPS,
        "rounds": rounds,
        "workflows_per_second": round(statistics.median(ours)),
        "limit_workflows_per_second": round(statistics.median(limit)),
        "ratio": round(statistics.median(a / b for a, b in zip(ours, limit, strict=True)), 3),
        "cpu_us_per_workflow": round(statistics.median(cpu), 1),
        "limit_cpu_us_per_workflow": round(statistics.median(limit_cpu), 1),
    }


class Slept(Event, key="n"):
    """Begins a run that sleeps *ms* milliseconds."""

    n: int
    ms: int


class Woken(Event, key="n"):
    """A run has gone on."""

    n: int
    late_ms: int


def sleeper() -> Service:
    """A service whose runs sleep, and tell how late they went on."""
    found = Service("sleepers")

    @found.workflow(starts=Slept)
    async def doze(slept: Slept, wf: Workflow) -> Woken:
        due = wf.now() + timedelta(milliseconds=slept.ms)
        await wf.sleep(timedelta(milliseconds=slept.ms))
        late = wf.now() - due
        return Woken(slept.n, late // timedelta(milliseconds=1))

    return found


async def sleeping(folder: Path, *, runs: int, timers: int = 200) -> dict[str, Any]:
    """So many runs sleep for an hour while the process is restarted: the time to the first that goes on, which is
    due at the restart; how late timers fire among them; and the memory that they take, beginning with the second
    thousand."""
    data = folder / "sleepers"
    runtime = Runtime("sleepers", [sleeper().spec], data=data)
    await runtime.start()
    before = 0.0
    for start in range(0, runs, _CHUNK):
        end = min(start + _CHUNK, runs)
        await runtime.publish("sleepers", *(Slept(n, 3_600_000) for n in range(start, end)))
        await _until(runtime, _BEGUN, end)
        before = before or resident_mib()
    await runtime.publish("sleepers", Slept(runs, 1_000))
    await _until(runtime, _BEGUN, runs + 1)
    await runtime.stop()
    await SystemClock().sleep(1.0)
    runtime = Runtime("sleepers", [sleeper().spec], data=data)
    started = time.perf_counter()
    await runtime.start()
    try:
        await _until(runtime, _WOKEN, 1)
        first_s = time.perf_counter() - started
        late = sorted(await _lateness(runtime, runs + 1, timers))
        after = resident_mib()
    finally:
        await runtime.stop()
    store_bytes = sum(each.stat().st_size for each in data.glob("sleepers.db*") if each.is_file())
    return {
        "sleeping": runs,
        "first_resumed_s": round(first_s, 3),
        "bytes_per_sleeping_run": round(store_bytes / runs),
        "memory_growth_mib": round(after - before, 1),
        "timers": timers,
        "late_p50_ms": quantile(late, 0.5),
        "late_p95_ms": quantile(late, 0.95),
        "late_p99_ms": quantile(late, 0.99),
        "late_max_ms": late[-1],
        "within_50_ms": round(sum(each <= _PUNCTUAL_MS for each in late) / timers, 3),
    }


async def _lateness(runtime: Runtime, first: int, count: int) -> list[int]:
    """How many milliseconds after its due time each of so many runs went on."""
    await runtime.publish("sleepers", *(Slept(first + n, 200 + 10 * n) for n in range(count)))
    await _until(runtime, _WOKEN, count + 1)
    rows = await runtime.stores["sleepers"].fetch_all(
        "SELECT data FROM antiphon_log WHERE type = 'Woken' ORDER BY seq LIMIT -1 OFFSET 1"
    )
    return [msgspec.json.decode(data)["late_ms"] for (data,) in rows]


async def _until(runtime: Runtime, sql: str, goal: int) -> None:
    """Wait until a query counts so many."""
    while (await runtime.stores["sleepers"].fetch_all(sql))[0][0] < goal:
        await runtime.clock.sleep(_LOOK_EVERY_S)
