"""What waiting costs: an idle application, and a backlog that is deep."""

from __future__ import annotations

import resource
import statistics
import time
from pathlib import Path
from typing import Any

from antiphon.bench import chain, workload
from antiphon.model.events import Event
from antiphon.runtime.runtime import Runtime
from antiphon.service import Service
from antiphon.store.sqlite.store import SqliteStore

_FILL = """
WITH RECURSIVE numbers (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < ?2)
INSERT INTO antiphon_log (id, type, version, key, service, time_ms, data)
SELECT printf('%08x-0000-7000-8000-%012x', 0, ?1 + n), 'OrderPlaced', 1,
       printf('customer-%05d', (?1 + n) % 10007), 'shop', ?3,
       CAST(printf('{"order_id":"order-%08d","customer":"customer-%05d","cents":%d,"currency":"EUR",'
                   || '"items":["sku-0001","sku-0002"],"address":"1 Chestnut Avenue, 10115 Berlin"}',
                   ?1 + n, (?1 + n) % 10007, 100 + n % 997) AS BLOB)
FROM numbers
"""
_CHUNK = 20_000


class Never(Event, key="n"):
    """An event that nobody publishes."""

    n: int


async def idle(folder: Path, *, seconds: float, handlers: int = 10) -> dict[str, Any]:
    """The share of a core that an application with nothing to do takes, a file per service."""
    services = [Service(f"idle{number}") for number in range(5)]
    for number in range(handlers):

        async def wait(event: Never) -> None: ...

        services[number % 5].on(Never, name=f"wait{number}")(wait)
    runtime = Runtime("idle", [service.spec for service in services], data=folder / "idle", own_stores=True)
    await runtime.start()
    try:
        await runtime.clock.sleep(1.0)
        busy = time.process_time()
        await runtime.clock.sleep(seconds)
        share = (time.process_time() - busy) / seconds
    finally:
        await runtime.stop()
    return {"handlers": handlers, "services": 5, "seconds": seconds, "core_percent": round(share * 100, 2)}


async def backlog(folder: Path, *, depth: int, events: int) -> dict[str, Any]:
    """What one event costs without a backlog, and at its start, and the memory that the backlog takes."""
    async with chain.running(folder / "none") as runtime:
        await chain.through(runtime, events)
        _, without = await chain.through(runtime, events)
    data = folder / "deep"
    async with chain.running(data) as runtime:
        tables = {spec.name: spec.tables for spec in runtime.specs}
        clock = runtime.clock
    store = SqliteStore(data / "bench.db", clock=clock, owner="filler", tables=tables)
    await store.open()
    for start in range(0, depth, _CHUNK):
        async with store.unit() as unit:
            await unit.execute(_FILL, (start, min(_CHUNK, depth - start), clock.now_ms()))
        await store.look_after()
    await store.close()
    costs = []
    before = resident_mib()
    most = before
    async with chain.running(data) as runtime:
        while await chain.counted(runtime) < events:
            await clock.sleep(0.01)
        for _ in range(3):
            done, busy = await chain.counted(runtime), time.process_time()
            while await chain.counted(runtime) < done + events:
                await clock.sleep(0.01)
            costs.append((time.process_time() - busy) / (await chain.counted(runtime) - done))
            most = max(most, resident_mib())
    publishing = await _publishing_cost(folder / "publish", events)
    alone = without / events - publishing
    return {
        "depth": depth,
        "cpu_us_per_event_without": round(alone * 1e6, 1),
        "cpu_us_per_event_with": round(statistics.median(costs) * 1e6, 1),
        "ratio": round(statistics.median(costs) / alone, 2),
        "memory_growth_mib": round(most - before, 1),
    }


async def _publishing_cost(data: Path, events: int) -> float:
    """CPU seconds to publish one order, so that it can be taken from what a whole chain costs."""
    shop = Service("shop")
    runtime = Runtime("publish", [shop.spec], data=data)
    await runtime.start()
    try:
        busy = time.process_time()
        for start in range(0, events, workload.BATCH):
            await runtime.publish("shop", *workload.orders(start, min(workload.BATCH, events - start)))
        return (time.process_time() - busy) / events
    finally:
        await runtime.stop()


def resident_mib() -> float:
    """The memory of this process, in MiB."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return pages * resource.getpagesize() / (1 << 20)
