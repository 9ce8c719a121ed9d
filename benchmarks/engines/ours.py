"""The chain with Antiphon: the services of ``antiphon bench``, a SQLite file each, joined by a broker."""

from __future__ import annotations

from pathlib import Path

from antiphon.bench import workload
from antiphon.bench.chain import through
from antiphon.broker.connecting import bus_at
from antiphon.broker.feed import Feeds
from antiphon.model.retry import days
from antiphon.runtime.clock import SystemClock
from antiphon.runtime.runtime import Runtime

_WARM = 256


async def ours(url: str, name: str, folder: Path, events: int) -> tuple[float, float]:
    """Events a second of the whole chain in one process, and microseconds of its CPU for each."""
    specs = [service.spec for service in workload.services()]
    named = f"{url}{'&' if '?' in url else '?'}name={name}"
    make = bus_at(named, "", keep=days(7))
    runtime = Runtime("bench", specs, data=folder, own_stores=True, make_bus=make)
    await runtime.start()
    try:
        await through(runtime, _WARM)
        seconds, cpu = await through(runtime, events)
    finally:
        await runtime.stop()
        bus = make(folder, clock=SystemClock(), owner="")
        assert isinstance(bus, Feeds)
        await bus.open()
        await bus.destroy([spec.name for spec in specs])
        await bus.close()
    return events / seconds, cpu / events * 1e6
