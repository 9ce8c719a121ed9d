"""How long from publish to handled, at a steady rate, in units of this disk's fsync."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from io import RawIOBase
from pathlib import Path
from typing import Any

from antiphon.model.events import Event
from antiphon.runtime.runtime import Runtime
from antiphon.runtime.transaction import Transaction
from antiphon.service import Service

_PAGE = b"x" * 4096
_WARM_UP = 50


class Measured(Event, key="n"):
    """One event whose way is timed."""

    n: int


class Handled(Event, key="n"):
    """Published by the handler: when it is there, the handler's transaction is durable."""

    n: int


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which *share* of *values* lie."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def fsync_seconds(probe: RawIOBase) -> float:
    """How long appending a page and fsync takes on this disk."""
    started = time.perf_counter()
    probe.write(_PAGE)
    os.fsync(probe.fileno())
    return time.perf_counter() - started


async def measure(folder: Path, *, events: int, per_second: int = 500) -> dict[str, Any]:
    """Publish so many events at a steady rate; the time from the call to the handler's durable commit."""
    service = Service("timed", tables="CREATE TABLE IF NOT EXISTS seen (n INTEGER PRIMARY KEY);")

    @service.on(Measured)
    async def see(event: Measured, tx: Transaction) -> Handled:
        await tx.execute("INSERT INTO seen VALUES (?)", event.n)
        return Handled(event.n)

    runtime = Runtime("latency", [service.spec], data=folder / "latency")
    await runtime.start()
    try:
        with (folder / "fsync.probe").open("wb", buffering=0) as probe:
            taken, probes = await _paced(runtime, events, per_second, probe)
    finally:
        await runtime.stop()
    fsync = quantile(probes, 0.5)
    found: dict[str, Any] = {"events": events, "per_second": per_second, "fsync_ms": round(fsync * 1e3, 3)}
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        value = quantile(taken, share)
        found[f"{name}_ms"] = round(value * 1e3, 3)
        found[f"{name}_in_fsyncs"] = round(value / fsync, 2)
    return found


async def _paced(runtime: Runtime, events: int, per_second: int, probe: RawIOBase) -> tuple[list[float], list[float]]:
    """Seconds from publish to handled, and seconds of an fsync between them, taken in turn."""
    handled = asyncio.Event()
    forget = runtime.stores["timed"].listen(("Handled",), handled.set)
    taken: list[float] = []
    probes: list[float] = []
    for n in range(events + _WARM_UP):
        handled.clear()
        started = time.perf_counter()
        await runtime.publish("timed", Measured(n))
        await handled.wait()
        seconds = time.perf_counter() - started
        fsync = fsync_seconds(probe)
        if n >= _WARM_UP:
            taken.append(seconds)
            probes.append(fsync)
        await runtime.clock.sleep(max(0.0, 1 / per_second - seconds - fsync))
    forget()
    return taken, probes
