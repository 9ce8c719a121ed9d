"""One worker, and several, on one backlog in PostgreSQL, of a handler that waits for something outside or computes.

    python benchmarks/workers.py postgresql://postgres@127.0.0.1/test --workers 1,2 --seconds 10
    python benchmarks/workers.py --work compute

Each round begins with a new schema ``bench_workers`` and a backlog, starts ``antiphon run --workers N``, waits until
the partitions are shared out, and counts what is handled in so many seconds. What it prints besides is how long that
took from the start of the processes. The schema is dropped at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import sys
import tempfile
import time
from pathlib import Path

import psycopg

from antiphon import App, Event, Service
from antiphon.runtime.runtime import Runtime

SCHEMA = "bench_workers"
KEYS = 1_000
#: What the handlers do: wait for so long, four at a time in each process; or compute for about as long, in a thread.
WAITS_S, AT_ONCE = 0.05, 4
HASHES = 12_000
_PATIENCE_S = 60.0


class Waited(Event, key="key"):
    """Something to wait for."""

    key: str


class Computed(Event, key="key"):
    """Something to compute."""

    key: str


shop = Service("shop")
bench = Service("bench")


@bench.on(Waited, concurrency=AT_ONCE)
async def wait(_: Waited) -> None:
    """As a call to another system does."""
    await asyncio.sleep(WAITS_S)


@bench.on(Computed)
def compute(event: Computed) -> None:
    """Keep a core busy."""
    digest = event.key.encode()
    for _ in range(HASHES):
        digest = hashlib.blake2b(digest).digest()


app = App(shop, bench, name=SCHEMA)
KINDS: dict[str, type[Waited | Computed]] = {"wait": Waited, "compute": Computed}


async def measure(url: str, kind: str, workers: int, seconds: float, backlog: int) -> tuple[float, float]:
    """Events a second, and after how many seconds all workers had their share."""
    with tempfile.TemporaryDirectory() as folder:
        async with app.run_in(folder, services=["shop"], store=url) as runtime:
            await _fill(runtime, KINDS[kind], backlog)
            began = time.perf_counter()
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "antiphon", "run", "benchmarks.workers:app", "--store", url, "--data", folder),
                *("--services", "bench", "--no-gateway", "--json", "--log-level", "error", "--workers", str(workers)),
                cwd=Path(__file__).parents[1],
                stdout=asyncio.subprocess.PIPE,
            )
            try:
                assert process.stdout is not None
                ready = json.loads(await process.stdout.readline())
                pids = set(map(str, ready.get("workers", [ready["pid"]])))
                while await _owners(url, kind) != pids:
                    if time.perf_counter() > began + _PATIENCE_S:
                        raise SystemExit(f"the partitions were not shared out: {await _owners(url, kind)}, {pids}")
                    await asyncio.sleep(0.1)
                shared_s = time.perf_counter() - began
                await asyncio.sleep(2)
                first, at = await _handled(url), time.perf_counter()
                await asyncio.sleep(seconds)
                rate = (await _handled(url) - first) / (time.perf_counter() - at)
            finally:
                process.terminate()
                await process.wait()
    return rate, shared_s


async def _fill(runtime: Runtime, kind: type[Waited | Computed], backlog: int) -> None:
    for start in range(0, backlog, 500):
        await runtime.publish("shop", *(kind(f"key-{n % KEYS}") for n in range(start, min(start + 500, backlog))))


async def _rows(url: str, sql: str, *parameters: object) -> list[tuple[object, ...]]:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        return list(await (await connection.execute(sql.encode(), parameters)).fetchall())


async def _owners(url: str, kind: str) -> set[str]:
    """The processes that have a partition of the handler."""
    rows = await _rows(url, f"SELECT owner FROM {SCHEMA}.antiphon_handlers WHERE name = %s", f"bench.{kind}")
    return {str(owner).partition("-")[0] for (owner,) in rows}


async def _handled(url: str) -> int:
    return int(str((await _rows(url, f"SELECT sum(handled) FROM {SCHEMA}.antiphon_handlers"))[0][0]))


def drop(url: str) -> None:
    """Leave nothing behind."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE".encode())


def main() -> None:
    """Print the rate of each number of workers, and its ratio to the first."""
    parser = argparse.ArgumentParser(description="Several workers beside one.")
    parser.add_argument("url", nargs="?", default="postgresql://postgres@127.0.0.1:5432/test")
    parser.add_argument("--work", choices=KINDS, default="wait")
    parser.add_argument("--workers", default="1,2", help="numbers of workers (1,2)")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--backlog", type=int, default=20_000)
    options = parser.parse_args()
    for _ in range(options.rounds):
        alone: float | None = None
        for workers in map(int, options.workers.split(",")):
            drop(options.url)
            try:
                work = measure(options.url, options.work, workers, options.seconds, options.backlog)
                rate, shared_s = asyncio.run(work)
            finally:
                drop(options.url)
            alone = alone or rate
            print(f"{workers} workers {rate:8,.1f}/s   ratio {rate / alone:.2f}   shared after {shared_s:.1f} s")


if __name__ == "__main__":
    main()
