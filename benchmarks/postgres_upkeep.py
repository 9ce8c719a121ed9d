"""What PostgreSQL has to clean up after the happy path, and whom retention keeps waiting.

    python benchmarks/postgres_upkeep.py postgresql://postgres@127.0.0.1/test --events 20000

The chain of ``antiphon bench`` goes through, in large batches and then one order at a time. Then its log is removed,
chunk by chunk, while more orders come one at a time. The schema ``bench_upkeep`` is made anew, and dropped at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import psycopg

from antiphon.bench import workload
from antiphon.bench.chain import counted, through
from antiphon.runtime.runtime import Runtime
from antiphon.store.maintenance import prune
from benchmarks.postgres_chain import specs

SCHEMA = "bench_upkeep"
_TABLES = b"""
SELECT relname, n_tup_ins, n_tup_upd, n_tup_hot_upd, n_tup_del, n_dead_tup, pg_relation_size(relid) / 8192
FROM pg_stat_user_tables WHERE schemaname = $1 AND relname LIKE 'antiphon%'
AND n_tup_ins + n_tup_upd + n_tup_del > 0 ORDER BY n_dead_tup DESC, relname"""
_SINGLE = 300


def show_tables(server: psycopg.Connection, when: str) -> None:
    """Antiphon's own tables: what was done to them, and what is dead in them."""
    print(f"\n{when}")
    print(f"{'table':26} {'inserted':>9} {'updated':>8} {'in place':>9} {'deleted':>8} {'dead':>6} {'pages':>6}")
    for name, *figures in psycopg.RawCursor(server).execute(_TABLES, (SCHEMA,)):
        print("{:26} {:9,} {:8,} {:9,} {:8,} {:6,} {:6,}".format(name, *figures))


async def one_at_a_time(runtime: Runtime, first: int, go_on: Callable[[int], bool]) -> list[float]:
    """Milliseconds from publishing an order to its end, sorted."""
    took = []
    while go_on(len(took)):
        goal = await counted(runtime) + 1
        began = time.perf_counter()
        await runtime.publish("shop", *workload.orders(first + len(took), 1))
        while await counted(runtime) < goal:
            pass
        took.append(1000 * (time.perf_counter() - began))
    return sorted(took)


def show(what: str, took: list[float]) -> None:
    """The spread of times."""
    middle, late = took[len(took) // 2], took[len(took) * 99 // 100]
    print(f"{what:40} {len(took):5} orders   p50 {middle:6.1f} ms   p99 {late:6.1f} ms   max {took[-1]:6.1f} ms")


async def run(url: str, events: int) -> None:
    """All of it."""
    with tempfile.TemporaryDirectory() as folder, psycopg.connect(url, autocommit=True) as server:
        runtime = Runtime(SCHEMA, specs(), data=Path(folder), store=url)
        await runtime.start()
        try:
            seconds, _ = await through(runtime, events)
            # A session tells what it has done when it has been idle for a second.
            await asyncio.sleep(2)
            show_tables(server, f"{events:,} orders, {events / seconds:,.0f} a second")
            alone = await one_at_a_time(runtime, events, lambda count: count < _SINGLE)
            await asyncio.sleep(2)
            show_tables(server, f"and {_SINGLE} one at a time")
            store = runtime.stores["shop"]
            began = time.perf_counter()
            pruning = asyncio.ensure_future(prune(store, runtime.clock.now_ms() + 1000))
            work: Awaitable[list[float]] = one_at_a_time(runtime, events + _SINGLE, lambda _: not pruning.done())
            beside = await work
            removed = (await pruning).events
            lasted = time.perf_counter() - began
            print()
            show("alone", alone)
            show(f"while {removed:,} events go in {lasted:.1f} s", beside)
        finally:
            await runtime.stop()


def main() -> None:
    """Measure, and leave nothing behind."""
    parser = argparse.ArgumentParser(description="What the happy path leaves to clean up, and whom retention delays.")
    parser.add_argument("url", nargs="?", default="postgresql://postgres@127.0.0.1:5432/test")
    parser.add_argument("--events", type=int, default=20_000)
    options = parser.parse_args()
    with psycopg.connect(options.url, autocommit=True) as server:
        server.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE".encode())
        with contextlib.ExitStack() as stack:
            stack.callback(server.execute, f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE".encode())
            asyncio.run(run(options.url, options.events))


if __name__ == "__main__":
    main()
