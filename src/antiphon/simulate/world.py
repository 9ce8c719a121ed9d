"""A world: one run of a whole application, with its processes, stores, bus, clients and faults, out of one seed."""

from __future__ import annotations

import asyncio
import inspect
import os
import random  # noqa: TID251  seeded: the seed decides everything
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import Context, copy_context
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import msgspec

from antiphon.app import RUNTIME_HERE, App
from antiphon.errors import StoreError
from antiphon.gateway.application import build
from antiphon.runtime.runtime import Runtime
from antiphon.runtime.steward import PRESSED_MS
from antiphon.simulate import observing
from antiphon.simulate.ambient import Ambient, Report
from antiphon.simulate.asking import Answer, ask
from antiphon.simulate.bus import SimBus
from antiphon.simulate.clock import SimClock
from antiphon.simulate.faults import Fault, FaultMix, Plan, Schedule
from antiphon.simulate.invariants import Checks, Violation
from antiphon.simulate.ledger import Ledger
from antiphon.simulate.logs import LoggedError, Logs
from antiphon.simulate.loop import SimLoop, Stuck
from antiphon.simulate.machine import START_MS, Machine
from antiphon.simulate.network import Network
from antiphon.simulate.process import PROCESS, Effects, Killed, Process, Record
from antiphon.simulate.templates import templates
from antiphon.simulate.traffic import Traffic

_TRAFFIC_WITHIN_S = 3_600.0
# After the last fault, besides the longest delay of a retry.
_SETTLES_WITHIN_S = 3_600.0
_LOOK_EVERY_S = 1.0
_NET_S = 0.002
_cpu = time.process_time
T = TypeVar("T")


class Run(msgspec.Struct):
    """What came of a world. *schedule* are the faults that struck; said again, they strike in the same way.

    *virtual_s* are seconds of virtual time, *cpu_s* those of this machine's. *records* are there if asked for.
    """

    seed: int
    events: int
    points: int
    crashes: int
    virtual_s: float
    cpu_s: float
    trace_hash: str
    schedule: Schedule
    violations: list[Violation] = []
    reports: list[Report] = []
    timeline: list[str] = []
    records: list[Record] = []


class World:
    """One run of *app*. The *seed* decides everything: how many processes there are, what comes in, in which order
    things happen, and unless *faults* are said, what goes wrong.
    """

    def __init__(
        self,
        app: App,
        seed: int,
        *,
        events: int = 20,
        faults: FaultMix | Schedule | None = None,
        record: bool = False,
    ) -> None:
        self.app = app
        self.seed = seed
        self.events = events
        self.random = random.Random(f"{seed}:traffic")
        self.loop = SimLoop(seed)
        self.effects = Effects(self.loop.time, self._strike)
        self.loop.effects = self.effects
        self.network = Network(self.loop, self.effects, seed)
        self.ledger = Ledger(self.loop.time)
        self.processes: dict[str, Process] = {}
        self.violations: list[Violation] = []
        self.logs = Logs(self.loop.time)
        self._ambient = Ambient(self.loop, seed, self._wall_ms)
        self._plan = Plan(FaultMix.swarm(seed) if faults is None else faults, seed)
        self._topology = _topology(app, random.Random(f"{seed}:topology"))
        # In two worlds of three, handlers are divided as soon as there is somebody to share them with.
        self._pressed_ms = random.Random(f"{seed}:pressed").choice((0, 0, PRESSED_MS))
        self._specs = observing.wrap(self, app.specs)
        self._machine: Machine
        self._healed = False
        self._look_ahead()
        if record:
            self.effects.records = []
        #: What those who stand in for the outside remember in this world.
        self.outside: dict[tuple[str, int], dict[str, Any]] = {}
        for (host, port), protocols in app.stand_ins.items():
            memory = self.outside.setdefault((host, port), {})
            remembers = bool(inspect.signature(protocols).parameters)
            self.network.stand_in(host, port, partial(protocols, memory) if remembers else protocols)

    # ------------------------------------------------------------------ for traffic and invariants

    @property
    def now(self) -> float:
        """Virtual seconds since the start."""
        return self.loop.time()

    @property
    def errors(self) -> list[LoggedError]:
        """What was logged as an error."""
        return self.logs.errors

    @property
    def healed(self) -> bool:
        """Whether faults are over."""
        return self._healed

    def serving(self, service: str) -> list[Process]:
        """The live processes that run *service*, and have started."""
        return [
            each
            for each in self.processes.values()
            if each.alive and each.runtime is not None and service in each.services
        ]

    async def request(
        self,
        method: str,
        path: str,
        *,
        service: str,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
        process: Process | None = None,
    ) -> Answer:
        """The answer of a gateway of a process that runs *service*. Raises ConnectionError when there is none, or
        it dies meanwhile."""
        body = None if json is None else msgspec.json.encode(json)

        async def asked(each: Process) -> Answer:
            return await ask(self._gateway(each), method, path, body, headers)

        return await self._in(process or self._any(service), asked)

    async def publish(self, event: object, *, service: str | None = None) -> str:
        """Publish as a client in a process of the application would. Raises ConnectionError as `request` does."""
        return await self._in(self._any(service), lambda _: self.app.publish(event, service=service))

    async def sleep(self, seconds: float) -> None:
        """Wait in virtual time."""
        await asyncio.sleep(seconds)

    def rows(self, store: str, sql: str, *parameters: Any) -> list[Any]:
        """Committed rows of the store of a service, or of ``bus``."""
        name = f"{store if self.app.own_stores else self.app.name}.db"
        return self._machine.files[name].keeper.execute(sql, parameters).fetchall()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Meanwhile `rows` shows every store as it is now."""
        with ExitStack() as undo:
            for file in self._machine.files.values():
                file.keeper.execute("BEGIN")
                undo.callback(file.keeper.execute, "ROLLBACK")
                file.keeper.execute("SELECT count(*) FROM antiphon_meta").fetchone()
            yield

    def kill(self, process: Process, why: str = "killed", after_s: float = 1.0) -> None:
        """Kill *process*; it is started again *after_s* seconds. Raises Killed if it is the one that runs."""
        if process.alive:
            self.ledger.crashed(process, why)
            process.kill()
            self.loop.call_later(after_s, self._start, process.name, context=Context())
        if PROCESS.get() is process:
            raise Killed

    def violation(self, violation: Violation) -> None:
        """Something is not as it must be."""
        self.violations.append(violation)

    # ------------------------------------------------------------------ the run

    def run(self) -> Run:
        """Run to the end: traffic and faults, then without faults until all is at rest, then the last look."""
        began = _cpu()
        folder = TemporaryDirectory(prefix="antiphon-world-", dir=_ram())
        made = templates(self.app, observing.TABLES)
        with folder as directory, self.logs.installed(), self._ambient.installed():
            self._machine = Machine(Path(directory), made, self.loop, self.effects, self.seed, self._power_fails)
            try:
                Context().run(self.loop.run_until_complete, self._live())
            except Stuck as error:
                self.violation(Violation("G8 it comes to rest", str(error)))
            finally:
                self._end()
        violations = self.violations
        return Run(
            seed=self.seed,
            events=self.events,
            points=self.effects.count,
            crashes=self.ledger.crashes,
            virtual_s=self.now,
            cpu_s=_cpu() - began,
            trace_hash=self.effects.digest(),
            schedule=Schedule(tuple(self._plan.struck)),
            violations=violations,
            reports=sorted(self._ambient.reports, key=str),
            timeline=self.ledger.timeline() if violations else [],
            records=self.effects.records or [],
        )

    async def _live(self) -> None:
        for name in self._topology:
            self._start(name)
        checks = Checks(self)
        watch = asyncio.ensure_future(self._watch(checks))
        try:
            await asyncio.wait_for(Traffic(self).run(), _TRAFFIC_WITHIN_S)
        except TimeoutError:
            self.violation(Violation("G8 clients are answered", f"not within {_TRAFFIC_WITHIN_S:g} s"))
        await asyncio.sleep(random.Random(f"{self.seed}:calm").random() * 20)
        self._heal()
        deadline = self.now + _SETTLES_WITHIN_S + self._longest_delay_s()
        while self._may_rest() and (not self._is_up() or checks.pending()) and self.now < deadline:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_EVERY_S)
        watch.cancel()
        self.violations += checks.along()
        if self._may_rest():
            self.violations += checks.end()
        self._note_contents()

    async def _watch(self, checks: Checks) -> None:
        while not self.violations:
            self.violations += checks.along()
            await asyncio.sleep(_LOOK_EVERY_S)

    def _longest_delay_s(self) -> float:
        """How long an event may wait for its next attempt."""
        return max((each.retry.cap.total_seconds() for spec in self._specs for each in spec.handlers), default=0.0)

    def _may_rest(self) -> bool:
        """A world that has broken a promise may never come to rest, and what holds at rest says nothing of it."""
        return not any(violation.breaks_a_promise for violation in self.violations)

    def _is_up(self) -> bool:
        return all(each.alive and each.runtime is not None for each in self.processes.values())

    def _note_contents(self) -> None:
        """What is in the stores at the end belongs to the trace, but for the places of files in tracebacks."""
        for name, file in sorted(self._machine.files.items()):
            tables = file.keeper.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
            for (table,) in tables:
                if table.startswith("sqlite_") or table == "antiphon_meta":
                    continue
                rows = file.keeper.execute(f'SELECT * FROM "{table}"').fetchall()  # noqa: S608  a name of its own
                kept = [key for key in (rows[0].keys() if rows else ()) if key not in ("traceback", "fingerprint")]
                for row in sorted(repr([row[key] for key in kept]) for row in rows):
                    self.effects.note(f"{name} {table} {row}".encode())

    def _end(self) -> None:
        for process in self.processes.values():
            process.kill()
        self.loop.bury()
        self._machine.close()

    def _heal(self) -> None:
        self._healed = True
        self._plan.end()
        self._look_ahead()
        self.ledger.note("world", "nothing goes wrong any more")
        for process in self.processes.values():
            process.skew_ms = 0
            if process.runtime is not None and isinstance(process.runtime.bus, SimBus):
                process.runtime.bus.heal()
        for file in self._machine.files.values():
            file.trouble = ""

    # ------------------------------------------------------------------ processes

    def _start(self, name: str) -> None:
        old = self.processes.get(name)
        if old is not None and old.alive:
            return
        process = Process(name, old.number + 1 if old else 0, self._topology[name], self.loop)
        self.processes[name] = process
        context = Context()
        context.run(PROCESS.set, process)
        self.loop.create_task(self._boot(process), context=context)

    async def _boot(self, process: Process) -> None:
        runtime = Runtime(
            self.app.name,
            self._specs,
            data=Path("/simulated"),
            own_stores=self.app.own_stores,
            services=[name for name in self.app.services if name in process.services],
            clock=SimClock(process, self._machine, self.loop, self.seed),
            retention=self.app.retention,
            max_payload=self.app.max_payload,
            owner=process.owner,
            place_of=self._machine.place_of(process),
            make_bus=partial(SimBus, process=process, effects=self.effects),
            pressed_ms=self._pressed_ms,
        )
        RUNTIME_HERE.set(runtime)
        process.context = copy_context()
        try:
            await runtime.start()
        except StoreError as error:
            self.kill(process, f"cannot start: {error}")
        process.runtime = runtime
        self.ledger.restarted(process)

    def _any(self, service: str | None) -> Process:
        """A process that runs *service*, as a load balancer would choose it. Raises ConnectionError."""
        found = [
            each
            for each in self.processes.values()
            if each.alive and each.runtime is not None and (service is None or service in each.services)
        ]
        if not found:
            raise ConnectionRefusedError(f"nobody serves {service or 'anything'} now")
        return self.random.choice(found)

    def _gateway(self, process: Process) -> Any:
        if process.gateway is None:
            assert process.runtime is not None
            process.gateway = build(self.app, process.runtime)
        return process.gateway

    async def _in(self, process: Process, work: Callable[[Process], Awaitable[T]]) -> T:
        """What comes of *work* in *process*, for somebody outside. Raises ConnectionError when it dies first."""
        await asyncio.sleep(self.network.latency())
        outcome = self.loop.create_future()
        if not process.alive:
            raise ConnectionRefusedError(f"{process.owner} is gone")
        process.on_kill[outcome] = partial(_break_off, outcome, process.owner)

        async def inside() -> None:
            try:
                result = await work(process)
            except Exception as error:  # noqa: BLE001  it is the caller's
                if not outcome.done():
                    outcome.set_exception(error)
            else:
                if not outcome.done():
                    outcome.set_result(result)

        assert process.context is not None
        self.loop.create_task(inside(), context=process.context.copy())
        try:
            result: T = await outcome
        finally:
            process.on_kill.pop(outcome, None)
        await asyncio.sleep(self.network.latency())
        return result

    # ------------------------------------------------------------------ faults

    def _strike(self, process: Process | None, name: str) -> Fault | None:
        fault = self._plan.strike(self.effects.count, process.name if process else None, name)
        self._look_ahead()
        if fault is None:
            return None
        victim = self.processes.get(fault.process)
        self.ledger.note(fault.process or "world", f"fault {fault}, at {name}")
        if fault.kind == "power":
            if name in ("commit", "checkpoint"):
                return fault  # the connection that writes knows what may be torn
            self._power_fails(fault, {})
        elif victim is not None and fault.kind == "crash":
            if victim.alive:
                self._crash(victim, "crash", fault.seconds)
        elif victim is not None and fault.kind == "stall":
            victim.stall(self.now + fault.seconds)
        elif victim is not None and fault.kind == "clock":
            victim.skew_ms = round(fault.seconds * 1000)
        else:
            return fault
        return None

    def _look_ahead(self) -> None:
        self.effects.next_at, self.effects.occasions = self._plan.next_at, self._plan.occasions

    def _crash(self, process: Process, why: str, after_s: float) -> None:
        self.ledger.crashed(process, why)
        process.kill()
        self.loop.call_later(after_s, self._start, process.name, context=Context())

    def _power_fails(self, fault: Fault, torn: Mapping[str, tuple[bytes, bytes]]) -> None:
        """All processes of the machine are gone at once; the disks have what had been synced, and some of the rest."""
        unsynced = self._machine.unsynced()
        for process in self.processes.values():
            if process.alive:
                self._crash(process, "power loss", fault.seconds)
        self._machine.lose_power(torn, unsynced, random.Random(f"{self.seed}:{fault.at}:power"))

    def _wall_ms(self) -> int:
        process = PROCESS.get()
        return START_MS + int(self.loop.time() * 1000) + (process.skew_ms if process is not None else 0)


def _break_off(outcome: asyncio.Future[Any], owner: str) -> None:
    if not outcome.done():
        outcome.set_exception(ConnectionResetError(f"{owner} died"))


def _topology(app: App, chance: random.Random) -> dict[str, frozenset[str]]:
    """The processes and what each runs: a few that run everything, or one or two for each service."""
    services = frozenset(app.services)
    if len(services) > 1 and chance.random() < 0.3:
        return {
            f"{service}-{number}": frozenset({service})
            for service in app.services
            for number in range(1, chance.choice((2, 2, 3)))
        }
    return {f"w{number}": services for number in range(1, chance.choice((2, 3, 3, 4)))}


def _ram() -> str | None:
    """A folder in memory, if the machine has one."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
