"""Measures one system, in a process of its own: ``python -m benchmarks.peers.measure SYSTEM PHASE PLAN``.

The phases: ``steady`` takes rate, CPU, memory and latency; ``kill`` kills the workers again and again and audits the
effects; ``loop`` takes the hand-written limit. PLAN and the last line of stdout are one JSON object each. PEERS_FOLDER
and PEERS_PREFIX say where things may be left.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from struct import iter_unpack
from typing import Any, Protocol

from benchmarks.peers import job, processes
from benchmarks.peers.catalogue import CATALOGUE, Entry
from benchmarks.peers.ledger import Ledger
from benchmarks.peers.servers import SERVERS

Publish = Callable[[list[dict[str, Any]]], Awaitable[object]]

LOOK_EVERY_S = 0.01
#: How many orders may be under way while the rate is measured.
WINDOW = 4096
START_WITHIN_S = 30.0
#: After how long without any progress what is missing counts as lost.
_GIVE_UP_S = 10.0
#: How long nothing may change before everything has come to rest, redelivery by time-out aside.
_QUIET_S = 4.0
_PROBE = 400
_AT_LEAST, _AT_MOST = 200, 150_000


class System(Protocol):
    """What a file in ``systems`` offers."""

    DATABASE: str
    WORKER: list[str]
    EMBEDDED: bool

    async def prepare(self) -> None:
        """Make what it needs, empty."""

    def publishing(self, *, handling: bool) -> Any:
        """An asynchronous context whose value publishes a list of orders, durably as far as the system offers."""

    async def clean(self) -> None:
        """Leave the servers as they were."""


class Workers:
    """The worker process of a system, if it has one."""

    def __init__(self, command: list[str]) -> None:
        self._command = [sys.executable, *command]
        self._running: subprocess.Popen[bytes] | None = None

    @property
    def pids(self) -> list[int]:
        """It, and all that it has started."""
        return [each.pid for each in self._processes()]

    @property
    def cpu_s(self) -> float:
        """Seconds of CPU that they have taken."""
        return processes.cpu_s(self._processes())

    def start(self) -> None:
        """Start it; what it logs goes to a file beside its database."""
        with (job.place().folder / "worker.log").open("ab") as log:
            self._running = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
            )

    def kill(self) -> None:
        """SIGKILL to all of it, and wait until it is gone."""
        if self._running is not None:
            processes.kill(self._processes())
            self._running.wait()
            self._running = None

    def _processes(self) -> list[processes.Process]:
        return [] if self._running is None else processes.of_group(self._running.pid)


class Fixture:
    """A system that is prepared, what it has done so far, and its worker."""

    def __init__(self, system: System, entry: Entry) -> None:
        self.system = system
        self.entry = entry
        self.workers = Workers(system.WORKER)
        self.ledger = Ledger(system.DATABASE)
        self._server = SERVERS[entry.server].process if entry.server else ""

    def server(self) -> list[processes.Process]:
        """The processes of the server that it uses."""
        return processes.named(self._server) if self._server else []

    async def reached(self, goal: int, within_s: float) -> bool:
        """Wait until so many orders are counted, or nothing has come for *within_s*; whether they are."""
        last, seen = time.monotonic(), -1
        while (counted := self.ledger.counted()) < goal:
            now = time.monotonic()
            if counted != seen:
                last, seen = now, counted
            elif now - last > within_s:
                return False
            await asyncio.sleep(LOOK_EVERY_S)
        return True

    async def warm(self, publish: Publish) -> None:
        """Publish one order now and then until one is counted, and wait for the others: no figure has them."""
        for number in range(int(START_WITHIN_S / 0.3)):
            await publish(list(job.orders(number, 1, kind="warm")))
            if await self.reached(1, 0.3):
                await self.reached(number + 1, _QUIET_S)
                return
        raise TimeoutError(f"nothing came through within {START_WITHIN_S:.0f} s")


@asynccontextmanager
async def prepared(name: str) -> AsyncIterator[Fixture]:
    """The system, ready, and cleaned up after."""
    system: System = importlib.import_module(f"benchmarks.peers.systems.{name}")  # type: ignore[assignment]
    await system.prepare()
    fixture = Fixture(system, CATALOGUE[name])
    try:
        fixture.ledger.prepare()
        yield fixture
    finally:
        fixture.workers.kill()
        fixture.ledger.close()
        await system.clean()


async def steady(name: str, plan: dict[str, Any]) -> dict[str, Any]:
    """Orders a second, CPU and memory under load, then latency at a moderate rate."""
    async with prepared(name) as fixture:
        if not fixture.system.EMBEDDED:
            fixture.workers.start()
        async with fixture.system.publishing(handling=fixture.system.EMBEDDED) as publish:
            await fixture.warm(publish)
            probe_s, _ = await _through(fixture, publish, _PROBE)
            count = max(_AT_LEAST, min(_AT_MOST, int(_PROBE / probe_s * plan["seconds"])))
            found = await _loaded(fixture, publish, count)
            return found | await _latency(fixture, publish, min(plan["rate"], found["rate"] / 2), plan["seconds"])


async def _through(fixture: Fixture, publish: Publish, count: int) -> tuple[float, int]:
    """Send so many orders through; seconds to the last that came, and how many did not come."""
    base, started = fixture.ledger.counted(), time.monotonic()
    for start in range(0, count, job.BATCH):
        await publish(list(job.orders(start, min(job.BATCH, count - start))))
        if not await fixture.reached(base + start + job.BATCH - WINDOW, START_WITHIN_S):
            break
    all_there = await fixture.reached(base + count, _GIVE_UP_S)
    seconds = time.monotonic() - started - (0.0 if all_there else _GIVE_UP_S)
    return seconds, max(0, base + count - fixture.ledger.counted())


async def _loaded(fixture: Fixture, publish: Publish, count: int) -> dict[str, Any]:
    def cpu() -> tuple[float, float]:
        return time.process_time() + fixture.workers.cpu_s, processes.cpu_s(fixture.server())

    before = cpu()
    seconds, missing = await _through(fixture, publish, count)
    own_s, server_s = (now - then for now, then in zip(cpu(), before, strict=True))
    done = count - missing
    return {
        "events": count,
        "missing": missing,
        "rate": round(done / seconds, 1),
        "cpu_us": round(own_s / done * 1e6, 1),
        "server_cpu_us": round(server_s / done * 1e6, 1),
        "memory_mib": round(processes.memory_mib([os.getpid(), *fixture.workers.pids]), 1),
        "server_memory_mib": round(processes.memory_mib(each.pid for each in fixture.server()), 1),
    }


async def _latency(fixture: Fixture, publish: Publish, rate: float, seconds: float) -> dict[str, Any]:
    """From the call that publishes until the second handler runs; publishing goes on whatever comes back."""
    notes = job.place().folder / "latencies"
    skipped = notes.stat().st_size
    base, count = fixture.ledger.counted(), int(rate * seconds)
    started, sending = time.monotonic(), set()
    for number in range(count):
        await asyncio.sleep(max(0.0, started + number / rate - time.monotonic()))
        sending.add(asyncio.ensure_future(publish(list(job.orders(number, 1)))))
    await asyncio.gather(*sending)
    await fixture.reached(base + count, _GIVE_UP_S)
    taken = sorted(value / 1000 for (value,) in iter_unpack("<q", notes.read_bytes()[skipped:]))
    return {
        "latency_rate": round(rate, 1),
        "p50_ms": round(taken[len(taken) // 2], 2),
        "p99_ms": round(taken[int(len(taken) * 0.99)], 2),
    }


async def kill(name: str, plan: dict[str, Any]) -> dict[str, Any]:
    """Kill the workers while they work, again and again; what is lost and doubled when all has come to rest."""
    async with prepared(name) as fixture:
        chance = random.Random(plan["kills"])
        if fixture.system.EMBEDDED:
            published = max(_AT_LEAST, min(_AT_MOST, int(plan["events_per_second"] * plan["seconds"])))
            async with fixture.system.publishing(handling=False) as publish:
                for start in range(0, published, job.BATCH):
                    await publish(_own_customers(start, min(job.BATCH, published - start), "kill"))
            fixture.workers.start()
            await _kills(fixture, plan["kills"], published // (plan["kills"] + 2), chance)
            others = 0
            await _at_rest(fixture, published)
            await fixture.reached(published, _QUIET_S)
        else:
            fixture.workers.start()
            async with fixture.system.publishing(handling=False) as publish:
                await fixture.warm(publish)
                others = fixture.ledger.counted()
                rate = min(plan["rate"] * 2, plan["events_per_second"] / 3)
                async with _pouring(publish, "kill", rate) as poured:
                    await _kills(fixture, plan["kills"], max(_STEP, int(rate / 2)), chance)
                published = poured.count
                async with _pouring(publish, "later", _TRICKLE) as later:
                    await _at_rest(fixture, published)
                others += later.count
                await fixture.reached(others + published, _QUIET_S)
        audit = fixture.ledger.audit()
        return {
            "kills": plan["kills"],
            "published": published,
            "lost": published - audit.billed,
            "doubled": audit.doubled,
            "counted": audit.counted - others - published,
        }


#: How many orders at least are counted between two kills.
_STEP = 20
#: Orders a second that still come when the killing is over: some systems look for abandoned messages only then.
_TRICKLE = 4.0


class _Poured:
    """How many orders have been published."""

    count = 0


@asynccontextmanager
async def _pouring(publish: Publish, kind: str, rate: float) -> AsyncIterator[_Poured]:
    """Publish orders at a rate, each of a customer of its own, for the length of the block."""
    poured, over = _Poured(), asyncio.Event()

    async def pour() -> None:
        due = time.monotonic()
        while not over.is_set():
            await publish(_own_customers(poured.count, 1, kind))
            poured.count += 1
            due = max(due + 1 / rate, time.monotonic() - 0.1)
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    pouring = asyncio.ensure_future(pour())
    try:
        yield poured
    finally:
        over.set()
        await pouring


def _own_customers(start: int, count: int, kind: str) -> list[dict[str, Any]]:
    return list(job.orders(start, count, customers=sys.maxsize, kind=kind))


async def _kills(fixture: Fixture, kills: int, step: int, chance: random.Random) -> None:
    """Kill and start again, each time when *step* more orders have been counted and a little later."""
    for _ in range(kills):
        if not await fixture.reached(fixture.ledger.counted() + step, START_WITHIN_S):
            raise TimeoutError(f"nothing came through for {START_WITHIN_S:.0f} s after a kill")
        await asyncio.sleep(chance.uniform(0.0, 0.02))
        fixture.workers.kill()
        fixture.workers.start()


async def _at_rest(fixture: Fixture, published: int) -> None:
    """Wait until nothing has changed for a while: long enough for what comes again when a time is over."""
    seen, since = (-1, -1), time.monotonic()
    while True:
        audit, now = fixture.ledger.audit(), time.monotonic()
        if (audit.billed, audit.doubled) != seen:
            seen, since = (audit.billed, audit.doubled), now
        patience_s = _QUIET_S
        if fixture.entry.by_timeout:
            patience_s += job.REDELIVERY_S * (1 if audit.billed == published else 2)
        if now - since > patience_s:
            return
        await asyncio.sleep(0.1)


async def loop(name: str, plan: dict[str, Any]) -> dict[str, Any]:
    """The hand-written limit: rate, CPU and memory."""
    module = importlib.import_module(f"benchmarks.peers.systems.{name}")
    async with module.loop() as by_hand:
        started = time.monotonic()
        by_hand.run(_PROBE)
        count = min(_AT_MOST, int(_PROBE / (time.monotonic() - started) * plan["seconds"]))
        started, busy = time.monotonic(), time.process_time()
        by_hand.run(count)
        seconds, cpu_s = time.monotonic() - started, time.process_time() - busy
    return {
        "events": count,
        "missing": 0,
        "rate": round(count / seconds, 1),
        "cpu_us": round(cpu_s / count * 1e6, 1),
        "server_cpu_us": 0.0,
        "memory_mib": round(processes.memory_mib([os.getpid()]), 1),
        "server_memory_mib": 0.0,
    }


PHASES = {"steady": steady, "kill": kill, "loop": loop}


def main() -> None:
    """Measure and print. SIGTERM ends it like an error: workers are killed, servers cleaned."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    name, phase, plan = sys.argv[1:]
    print(json.dumps(asyncio.run(PHASES[phase](name, json.loads(plan)))))


if __name__ == "__main__":
    main()
