"""The chain beside its hand-written limit: publish, handle with one upsert and a follow-up, count."""

from __future__ import annotations

import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from antiphon.bench import workload
from antiphon.bench.limit import HandWritten
from antiphon.runtime.runtime import Runtime

_LOOK_EVERY_S = 0.002


@asynccontextmanager
async def running(data: Path, *, own_stores: bool = False) -> AsyncIterator[Runtime]:
    """The three services of the workload, started."""
    specs = [service.spec for service in workload.services()]
    runtime = Runtime("bench", specs, data=data, own_stores=own_stores)
    await runtime.start()
    try:
        yield runtime
    finally:
        await runtime.stop()


async def counted(runtime: Runtime) -> int:
    """How many orders have gone through the whole chain."""
    rows = await runtime.stores["counter"].fetch_all("SELECT billed FROM totals")
    return int(rows[0][0])


async def through(runtime: Runtime, count: int) -> tuple[float, float]:
    """Send so many orders through the chain; seconds, and seconds of CPU of this process."""
    goal = await counted(runtime) + count
    started, cpu = time.perf_counter(), time.process_time()
    for start in range(0, count, workload.BATCH):
        orders = workload.orders(start, min(workload.BATCH, count - start))
        await runtime.publish("shop", *orders)
    while await counted(runtime) < goal:
        await runtime.clock.sleep(_LOOK_EVERY_S)
    return time.perf_counter() - started, time.process_time() - cpu


async def measure(folder: Path, *, events: int, rounds: int) -> dict[str, Any]:
    """The chain in one shared file, with a file per service, and by hand, in turn; medians of *rounds*."""
    rates: dict[str, list[float]] = {"shared": [], "own": [], "limit": []}
    cpu: list[float] = []
    for number in range(rounds):
        limit_file = folder / f"limit{number}.db"
        await HandWritten.prepare(limit_file)
        by_hand = HandWritten(limit_file)
        started = time.perf_counter()
        by_hand.run(events)
        rates["limit"].append(events / (time.perf_counter() - started))
        by_hand.close()
        for layout in ("shared", "own"):
            async with running(folder / f"{layout}{number}", own_stores=layout == "own") as runtime:
                seconds, busy = await through(runtime, events)
            rates[layout].append(events / seconds)
            if layout == "shared":
                cpu.append(busy / events * 1e6)
    middle = {name: statistics.median(values) for name, values in rates.items()}
    ratios = {
        name: statistics.median(ours / limit for ours, limit in zip(rates[name], rates["limit"], strict=True))
        for name in ("shared", "own")
    }
    return {
        "events": events,
        "rounds": rounds,
        "events_per_second": round(middle["shared"]),
        "limit_events_per_second": round(middle["limit"]),
        "ratio": round(ratios["shared"], 3),
        "cpu_us_per_event": round(statistics.median(cpu), 1),
        "file_per_service": {"events_per_second": round(middle["own"]), "ratio": round(ratios["own"], 3)},
    }
