"""An app in a test: real code on real stores, a process for each service, virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from antiphon.errors import AntiphonError, DeclarationError
from antiphon.model.events import event_type_of
from antiphon.model.handlers import ServiceSpec
from antiphon.model.retry import seconds
from antiphon.policy.timeline import after, trace_lines
from antiphon.policy.words import moment
from antiphon.runtime.runtime import Runtime
from antiphon.runtime.transaction import Transaction
from antiphon.store.desk import Desk
from antiphon.store.sqlite.store import SqliteStore
from antiphon.testing.assertions import Assertions, Function, Handler, WorldFailure, handler_named
from antiphon.testing.clock import START_MS, VirtualClock
from antiphon.testing.faults import Crash, Error, Fault, breakable, breakable_runs, described, patch
from antiphon.testing.process import Killed, process_here, processes_possible, start_outside
from antiphon.testing.record import Record, at_once
from antiphon.testing.stage import GRACE_S, Runtimes, ServiceProcess, temporary_folder
from antiphon.workflow import WorkflowHandle

if TYPE_CHECKING:
    import httpx

    from antiphon.app import App

#: The worlds that are entered now, for the report of a test that fails.
OPEN: list[World] = []

_MOST_LINES = 400
# How often it is looked, in real seconds, whether what waits for something real has ended.
_LOOK_EVERY_S = 0.002


class World(Assertions):
    """A running app whose time stands still until it is moved: ``async with app.test() as world``.

    What acts is awaited; what only looks is not. `settle` lets everything happen that can happen now, `advance`
    moves the time. Every handler runs in its service's process, which can crash.
    """

    def __init__(self, app: App, *, seed: int, start: datetime | None, data: Path | None) -> None:
        if start is not None and start.tzinfo is None:
            raise DeclarationError("start= needs a time zone", where="test", mend="Use datetime(..., tzinfo=UTC)")
        self.app = app
        self.clock = VirtualClock(seed, START_MS if start is None else round(start.timestamp() * 1000))
        self._seed = seed
        self._start_ms = self.clock.now_ms()
        self._data = data
        self._specs = app.specs
        self._functions = {spec.name: spec.fn for service in app.specs for spec in service.handlers}
        self._faults: dict[str, list[Fault]] = {name: [] for name in self._functions}
        self._step_faults: dict[Function, list[Fault]] = {}
        self._acts: list[tuple[str, list[str]]] = []
        self._running: dict[str, ServiceProcess] = {}
        self._deaths: set[asyncio.Task[None]] = set()
        self._observed: dict[Path, SqliteStore] = {}
        self._stack = ExitStack()

    def __repr__(self) -> str:
        return f"<World of app {self.app.name!r} at {self.now.isoformat()}>"

    # ------------------------------------------------------------------ begin and end

    async def __aenter__(self) -> Self:
        if self.app.runtime is not None:
            raise AntiphonError(f"app {self.app.name!r} runs in this process already")
        if self._data is not None and any(self._data.glob("*.db")):
            # Virtual time begins anew, and so do the ids: they would be taken for those of the time before.
            raise AntiphonError("a test has left databases here", where=str(self._data), mend="Name an empty folder")
        self._stack.enter_context(processes_possible())
        if self._data is None:
            self._data = Path(self._stack.enter_context(temporary_folder()))
        self._runtimes = Runtimes(self.app.name, self._data, self.clock, self._running)
        self._specs = tuple(map(self._breakable, self.app.specs))
        try:
            for service in self.app.services:
                await self._start(service)
            await self.settle()
        except BaseException:
            await self._end()
            raise
        # It does what users may ask of a runtime.
        self.app.runtime = cast("Runtime", self._runtimes)
        OPEN.append(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        OPEN.remove(self)
        if isinstance(error, Exception) and not isinstance(error, WorldFailure):
            error.add_note(self.timeline())
        await self._end()

    async def _end(self) -> None:
        self.app.runtime = None
        await asyncio.gather(*self._deaths)
        stopping = asyncio.gather(*(each.stop() for each in self._running.values()))
        await self.clock.rest()
        if not stopping.done():
            await self.clock.advance(GRACE_S)
        await stopping
        for store in self._observed.values():
            await store.close()
        self._stack.close()

    async def _start(self, service: str) -> None:
        starting = ServiceProcess(self.app, self._specs, service, self.data, self.clock)
        await starting.start()
        self._running[service] = starting

    # ------------------------------------------------------------------ act

    async def publish(self, event: object, *, service: str | None = None) -> str:
        """Publish *event* and return its id. It is durable then, and handled by nobody yet.

        It is published as *service*; unless that is said, as one that declares that it publishes it, else as
        one that handles it. Raises InvalidEvent, DeclarationError for what is no event, ConnectionError if the process
        that publishes it is killed before it is durable.
        """
        producer = self.app.producer_of(event_type_of(event)) if service is None else service
        before = self.clock.new_id()
        try:
            return (await self._runtimes.publish(producer, event))[0]
        except Killed:
            # It may be durable, and handled: its handler has killed the process that should have said so.
            await asyncio.gather(*self._deaths)
            published = self.record().published(type(event))
            found = [view.id for view, each in published if view.id > before and each == event]
            if not found:
                raise
            return found[0]

    @asynccontextmanager
    async def transaction(self, service: str) -> AsyncIterator[Transaction]:
        """A transaction of *service*, from outside of its handlers: to signal a workflow's run, or cancel it."""
        async with self._runtimes.transaction(service) as tx:
            yield tx

    async def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """What the gateway answers. *options* are those of ``httpx.AsyncClient.request``: ``json=``, ``headers=``.

        It is asked of the process of the service that has the route; while that is down, of another. Raises
        ConnectionError if the process is killed before it answers.
        """
        here = self._running.get(self._answering(method, path)) or next(iter(self._running.values()), None)
        if here is None:
            raise ConnectionRefusedError("no service runs")
        answer = await here.request(method, path, **options)
        self._note(f"{method} {path} -> {answer.status_code}")
        return answer

    async def settle(self, patience: timedelta = seconds(5)) -> None:
        """Return when nothing can happen any more unless time moves.

        What handlers wait for outside (sockets, threads, ``asyncio.sleep``) takes its real time, for which
        there is a *patience*; after that it fails and says what still runs.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience.total_seconds()
        while True:
            try:
                await self.clock.rest()
            except TimeoutError as error:
                raise WorldFailure(f"{error}\n\n{self.timeline()}") from error
            busy = [name for each in self._running.values() for name in each.at_work()]
            if not busy and not self._deaths:
                return
            if loop.time() > deadline:
                waited = f"{patience.total_seconds():g} real seconds"
                raise WorldFailure(f"{', '.join(busy)} still at work after {waited}\n\n{self.timeline()}")
            await asyncio.sleep(_LOOK_EVERY_S)

    async def advance(self, span: timedelta) -> None:
        """Let *span* of time pass. All that is due meanwhile happens at its moment, and settles before time goes on."""
        await self.settle()
        await self.clock.advance(span.total_seconds(), over_upkeep=True, rest=self.settle)

    # ------------------------------------------------------------------ break

    def fail(
        self,
        handler: Handler,
        *,
        times: int | None = 1,
        error: Error = RuntimeError,
        after: bool = False,
    ) -> Fault:
        """Let the next *times* (None: until ``.end()``) attempts of *handler* raise *error*.

        It is raised in place of calling the function; with *after*, when it has ended: all of its work is done,
        and has to be undone. It may also be the function of a workflow's step, or of its undo.
        """
        fault = Fault(error, times, after)
        name = self._break(handler, fault)
        self._note(f"{name} fails {_count(times)}{' at its end' if after else ''}: {described(error)}")
        return fault

    def fail_peer(self, owner: Any, name: str, *, times: int | None = 1, error: Error = ConnectionError) -> Fault:
        """Let the next *times* (None: until ``.end()``) calls of ``owner.name`` raise *error*; others go through.

        *owner* is the module, class or object in which handlers look *name* up. It is restored at the end of the
        world, as it was.
        """
        fault = Fault(error, times)
        self._stack.callback(patch(owner, name, fault))
        self._note(f"{getattr(owner, '__name__', repr(owner))}.{name} fails {_count(times)}: {described(error)}")
        return fault

    async def crash(self, service: str) -> None:
        """Kill the process of *service* where it stands: what was not committed is gone, no ``finally`` runs.

        Called by code that runs in it (a handler, a peer that is replaced), it does not return.
        """
        here = self._runtimes.running(service)
        self._note(f"{service} was killed")
        death = start_outside(self._kill(here))
        self._deaths.add(death)
        death.add_done_callback(self._deaths.discard)
        if process_here() is here.process:
            await asyncio.get_running_loop().create_future()
        await asyncio.shield(death)

    def crash_during(self, handler: Handler, *, after: bool = False) -> Fault:
        """Let the next attempt of *handler* kill its process: before its first line, or with *after*, behind its
        last one, before anything is committed."""
        loop = asyncio.get_running_loop()
        fault = Crash(RuntimeError, 1, after, die=self._die, loop=loop)
        self._break(handler, fault)
        return fault

    async def _die(self) -> None:
        """Kill the process that this is called in."""
        here = process_here()
        await self.crash(next(each.service for each in self._running.values() if each.process is here))

    def _break(self, handler: Handler, fault: Fault) -> str:
        """Let *fault* strike at *handler*, a handler or a step; returns its name."""
        if callable(handler) and self.is_step(handler):
            self._step_faults.setdefault(handler, []).append(fault)
            return f"step {getattr(handler, '__qualname__', repr(handler))}"
        name = self.handler_name(handler)
        self._faults[name].append(fault)
        return name

    async def restart(self, service: str) -> None:
        """Start *service* again after a crash, on its store as it was."""
        await asyncio.gather(*self._deaths)
        if service not in self.app.services or service in self._running:
            why = "runs" if service in self._running else "is no service of the app"
            raise AntiphonError(f"{service!r} {why}", where="restart", mend="First await world.crash(...)")
        await self._start(service)
        self._note(f"{service} was started again")
        for store in self._running[service].runtime.logs:
            if observer := self._observed.pop(store.path, None):
                await observer.close()

    async def _kill(self, here: ServiceProcess) -> None:
        del self._running[here.service]
        await here.kill()
        for store in here.runtime.logs:
            if store.path not in {each.path for each in self._stores()}:
                observer = SqliteStore(store.path, clock=self.clock, owner=f"observer-{self.clock.new_id()}")
                await observer.open()
                self._observed[store.path] = observer

    # ------------------------------------------------------------------ look

    @property
    def data(self) -> Path:
        """The directory of the databases."""
        assert self._data is not None, "the world has not been entered"
        return self._data

    @property
    def now(self) -> datetime:
        """The virtual time, in UTC."""
        return datetime.fromtimestamp(self.clock.now_ms() / 1000, UTC)

    def rows(self, service: str, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Committed rows of a service's store, also of one that is down."""
        if service not in self.app.services:
            raise DeclarationError(
                f"there is no service {service!r}", mend=f"There are: {', '.join(self.app.services)}"
            )
        path = self.data / f"{service if self.app.own_stores else self.app.name}.db"
        store = next(each for each in self._stores() if each.path == path)
        return [tuple(row) for row in at_once(store.fetch_all(sql, parameters))]

    def record(self) -> Record:
        """All that has happened, as values: events, deliveries with their attempts, traces."""
        return Record([Desk(store) for store in self._stores()])

    def timeline(self) -> str:
        """All that has happened, as text: who published what, who handled it when, each attempt, why it ended so."""
        parts = list(self._acts)
        parts += [(trace.nodes[0].event.id, [*trace_lines(trace, self._start_ms)]) for trace in self.record().traces]
        lines = [line for _, part in sorted(parts) for line in part]
        if len(lines) > _MOST_LINES:
            half = _MOST_LINES // 2
            lines[half:-half] = [f"... {len(lines) - 2 * half} lines ..."]
        down = [service for service in self.app.services if service not in self._running]
        until = f", now {after(self.clock.now_ms(), self._start_ms)}" + (f", down: {', '.join(down)}" if down else "")
        head = f"timeline of {self.app.name} from {moment(self._start_ms)}, seed {self._seed}{until}"
        return "\n".join([head, *(f"  {line}" for line in lines or ["nothing has happened"])])

    def is_step(self, handler: Handler) -> bool:
        """Whether it is no handler, but a function that a workflow may have as a step."""
        has_workflows = any(service.workflows for service in self.app.services.values())
        is_handler = isinstance(handler, str | WorkflowHandle) or handler in self._functions.values()
        return has_workflows and not is_handler

    def handler_name(self, handler: Handler) -> str:
        """The full name of a handler. Raises DeclarationError if the app has none such."""
        return handler_named(handler, self._functions)

    # ------------------------------------------------------------------

    def _stores(self) -> list[SqliteStore]:
        """Every store that is open, once, the bus last."""
        found: dict[Path, SqliteStore] = {}
        for each in self._running.values():
            found |= {store.path: store for store in each.runtime.logs}
        found = {**self._observed, **found}
        return sorted(found.values(), key=lambda store: (store.path.stem == "bus", store.path.stem))

    def _breakable(self, spec: ServiceSpec) -> ServiceSpec:
        functions = {each.name: each.fn for each in spec.handlers}
        for workflow in self.app.services[spec.name].workflows.values():
            functions |= breakable_runs(workflow, self._step_faults)
        return replace(
            spec,
            handlers=tuple(
                replace(each, fn=breakable(functions[each.name], self._faults[each.name])) for each in spec.handlers
            ),
        )

    def _answering(self, method: str, path: str) -> str:
        """The service that has the route; the first one if none has."""
        from starlette.routing import compile_path

        for spec in self.app.specs:
            for route in spec.routes:
                if route.method == method.upper() and compile_path(route.path)[0].match(path.partition("?")[0]):
                    return spec.name
        return next(iter(self.app.services))

    def _note(self, act: str) -> None:
        # Ids sort in the order in which they were made, so acts and events can be told in turn.
        self._acts.append((self.clock.new_id(), [f"{after(self.clock.now_ms(), self._start_ms)} {act}"]))


def _count(times: int | None) -> str:
    return "from now on" if times is None else "once" if times == 1 else f"{times} times"
