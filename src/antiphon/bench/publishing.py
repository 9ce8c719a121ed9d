"""Publishing one by one: many tasks at once against one task after the other."""

from __future__ import annotations

import asyncio
import statistics
import time
from pathlib import Path
from typing import Any

from antiphon.bench import workload
from antiphon.runtime.runtime import Runtime
from antiphon.service import Service


async def measure(folder: Path, *, events: int, tasks: int = 100, rounds: int = 3) -> dict[str, Any]:
    """Events a second, each publish awaited until durable; the ratio is what group commit gives."""
    runtime = Runtime("publishing", [Service("shop").spec], data=folder / "publishing")
    await runtime.start()
    try:
        alone, together = [], []
        for _ in range(rounds):
            alone.append(await _rate(runtime, events // 20, 1))
            together.append(await _rate(runtime, events, tasks))
    finally:
        await runtime.stop()
    return {
        "tasks": tasks,
        "alone_per_second": round(statistics.median(alone)),
        "together_per_second": round(statistics.median(together)),
        "ratio": round(statistics.median(b / a for a, b in zip(alone, together, strict=True)), 1),
    }


async def _rate(runtime: Runtime, events: int, tasks: int) -> float:
    orders = iter(list(workload.orders(0, events)))

    async def publish() -> None:
        for order in orders:
            await runtime.publish("shop", order)

    started = time.perf_counter()
    await asyncio.gather(*(publish() for _ in range(tasks)))
    return events / (time.perf_counter() - started)
