"""Starts, runs and stops an application's services in this process, in order."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from antiphon.errors import BusError, DeclarationError, StoreError
from antiphon.model.commands import answers
from antiphon.model.envelope import Envelope
from antiphon.model.events import MAX_PAYLOAD, event_type_of
from antiphon.model.handlers import HandlerSpec, ServiceSpec
from antiphon.model.retry import days
from antiphon.model.workflows import ADVANCE_TYPE
from antiphon.policy.sharing import can_be_split
from antiphon.ports import INTERNAL, PUBLISHED, Bus, Clock, MakeBus
from antiphon.runtime.channels import ChannelWorker, Forwarder, Receiver
from antiphon.runtime.clock import SystemClock
from antiphon.runtime.inlet import Inlet
from antiphon.runtime.outlet import Outlet
from antiphon.runtime.publishing import PublishQueue
from antiphon.runtime.redriver import Redriver
from antiphon.runtime.requests import Requests
from antiphon.runtime.retention import Retention
from antiphon.runtime.signals import Slots, Solo
from antiphon.runtime.steward import PRESSED_MS, Steward
from antiphon.runtime.timer import TICK_TYPE, TimerLoop, schedule_timer
from antiphon.runtime.transaction import Publisher, Transaction
from antiphon.runtime.worker import Worker
from antiphon.store.base import SqlStore
from antiphon.store.bus import LogBus
from antiphon.store.engines import BUS, engine_at
from antiphon.store.sessions import DIALECTS as SESSIONS
from antiphon.store.sqlite.place import LocalPlace, PlaceOf

log = logging.getLogger("antiphon.runtime")

_RESTART_AFTER_S = 1.0
#: What a loop fails of again and again is logged so often.
_SAY_EVERY_MS = 60_000
#: A `SqlStore`; who knows the engine may reach for what is the engine's own.
AnyStore = Any
#: The gateway as a sender to the bus, and the log that it has where the bus is not one; no service bears this name.
GATEWAY = "antiphon.gateway"


class Runtime:
    """An application's services in this process. `start`, then `stop`; not to be started again.

    *services* names those that run here (None: all). With *own_stores* each has a store of its own and the bus
    carries events between them; otherwise they share one and need no bus. Stores are files in *data*, or lie in
    the database at the URL *store*. *owner* names this process in leases; it is never used again. *place_of* and
    *make_bus* give the machine and the bus that it works with. Where that is no log, the processes share one beside it.
    A handler that has had work in hand for *pressed_ms* is divided among the processes that run its service.
    """

    def __init__(
        self,
        name: str,
        specs: Sequence[ServiceSpec],
        *,
        data: Path,
        own_stores: bool = False,
        services: Sequence[str] | None = None,
        clock: Clock | None = None,
        retention: timedelta = days(7),
        max_payload: int = MAX_PAYLOAD,
        owner: str | None = None,
        store: str | None = None,
        place_of: PlaceOf = LocalPlace,
        make_bus: MakeBus | None = None,
        pressed_ms: int = PRESSED_MS,
    ) -> None:
        known = [spec.name for spec in specs]
        unknown = sorted(set(services or ()) - set(known))
        if unknown:
            raise DeclarationError(
                f"no service {', '.join(unknown)}", where=name, mend=f"There are: {', '.join(known)}"
            )
        self.name = name
        self.data = data
        self.clock: Clock = clock or SystemClock()
        self.owner = owner or f"{os.getpid()}-{self.clock.new_id()[-12:]}"
        self.own_stores = own_stores
        self.specs = [spec for spec in specs if services is None or spec.name in services]
        self._elsewhere = [spec for spec in specs if spec not in self.specs]
        self.max_payload = max_payload
        self._retention = retention
        self._engine = engine_at(store, data, place_of)
        if self._engine.dialect not in SESSIONS:
            _refuse_sessions(self.specs)
        self._place_of = place_of
        self._make_bus = make_bus
        self._pressed_ms = pressed_ms
        self._solo = Solo()
        self._slots: dict[str, Slots] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._stewards: list[Steward] = []
        self._outlets: list[Outlet] = []
        self._queues: dict[str, PublishQueue] = {}
        self._requests: dict[SqlStore, Requests] = {}
        self._started: list[SqlStore | Bus] = []
        self.bus: Bus | None = None
        self._joined = asyncio.Event()
        # The log that every process on this directory has open, where each service has a file of its own.
        self.hub: AnyStore | None = None
        self._shared: SqlStore | None = None
        self.stores = self._plan_stores()

    def _plan_stores(self) -> dict[str, AnyStore]:
        tables = {spec.name: spec.dialects.get(self._engine.dialect, spec.tables) for spec in self.specs}
        if self.own_stores:
            self.bus = self._bus()
            self.hub = self.bus.store if isinstance(self.bus, LogBus) else self._store(GATEWAY, {})
            return {name: self._store(name, {name: sql}) for name, sql in tables.items()}
        self._shared = self._store(self.name, tables)
        return dict.fromkeys(tables, self._shared)

    def _store(self, name: str, tables: dict[str, str]) -> SqlStore:
        return self._engine.store(name, clock=self.clock, owner=self.owner, tables=tables)

    def _bus(self) -> Bus:
        """The bus between the stores: the one that is asked for, else the one beside them."""
        if self._make_bus is None:
            return self._engine.bus(clock=self.clock, owner=self.owner)
        return self._make_bus(self.data / f"{BUS}.db", clock=self.clock, owner=self.owner, place_of=self._place_of)

    # ------------------------------------------------------------------ start and stop

    async def start(self) -> None:
        """Open the stores, register handlers and schedules, start the loops. Raises StoreError."""
        try:
            if isinstance(self.bus, LogBus):
                await self._join(self.bus)
            elif self.hub is not None:
                await self.hub.open()
                self._started.append(self.hub)
            for store in self._distinct_stores():
                await store.open()
                self._started.append(store)
                await self._register(store)
        except BaseException:
            await self._close()
            raise
        for store in self._distinct_stores():
            self._start_loops(store)
        if self.bus is not None and self.hub is not None:
            self._start_hub(self.hub, self.bus)

    async def _join(self, bus: Bus) -> None:
        """Connect to the bus and have it keep what the services wait for. Raises StoreError, BusError."""
        await bus.open()
        if bus not in self._started:
            self._started.append(bus)
        receivers = {spec.name: self._foreign_types(spec) for spec in (*self.specs, *self._elsewhere)}
        await bus.expect({name: types for name, types in receivers.items() if types})
        self._joined.set()

    def _start_hub(self, hub: SqlStore, bus: Bus) -> None:
        self._keep_running(f"upkeep of {hub.name}", partial(self._look_after, hub))
        self._start_retention(hub)
        if not self._joined.is_set():
            # A bus that is away delays nobody: events wait in the logs.
            self._keep_running("joining of the bus", partial(self._join, bus))
            self._start_outlet(GATEWAY, hub, bus, is_one_of_many=True)

    def _distinct_stores(self) -> list[SqlStore]:
        """The store of each service here. One that is shared is open in a process without services too."""
        return list(self.stores.values()) if self._shared is None else [self._shared]

    def _specs_in(self, store: SqlStore) -> list[ServiceSpec]:
        return [spec for spec in self.specs if self.stores[spec.name] is store]

    async def _register(self, store: SqlStore) -> None:
        specs = self._specs_in(store)
        others = [] if self.own_stores else self._elsewhere
        await store.register(
            [handler for spec in specs for handler in spec.handlers],
            [handler for spec in others for handler in spec.handlers],
        )
        divided = {each.handler: each.parts for each in await store.partitions() if each.parts > 1}
        for handler in (handler for spec in specs for handler in spec.handlers):
            if handler.name in divided and not can_be_split(handler):
                raise DeclarationError(
                    f"it has been divided into {divided[handler.name]} partitions, and cannot be any more: what it is "
                    "declared with counts over all of its events",
                    where=handler.name,
                    mend="Give it another name, with start='now' if it is not to handle the past again",
                )
        async with store.unit() as unit:
            for spec in specs:
                for schedule in spec.schedules:
                    await unit.put_timer(schedule_timer(schedule, self.clock))

    def _start_loops(self, store: SqlStore) -> None:
        specs = self._specs_in(store)
        name = store.name
        handlers = [handler for spec in specs for handler in spec.handlers]
        steward = Steward(
            store, handlers, self.clock, self.owner, lambda handler: self._worker(handler, store), self._pressed_ms
        )
        self._stewards.append(steward)
        self._queues.update({spec.name: PublishQueue(store) for spec in specs})
        self._keep_running(f"steward of {name}", steward.run)
        timers = TimerLoop(name, store, self.clock)
        self._keep_running(timers.name, timers.run)
        redriver = Redriver(store)
        self._keep_running(redriver.name, redriver.run)
        self._start_retention(store)
        if self.bus is None:
            return
        for spec in specs:
            inlet = Inlet(spec.name, self._foreign_types(spec), store, self.bus, self.clock)
            self._keep_running(inlet.name, partial(self._once_joined, inlet.run))
            self._start_outlet(spec.name, store, self.bus)

    def _start_outlet(self, service: str, store: SqlStore, bus: Bus, *, is_one_of_many: bool = False) -> None:
        outlet = Outlet(service, store, bus, self.clock, is_one_of_many=is_one_of_many)
        self._outlets.append(outlet)
        self._keep_running(outlet.name, partial(self._once_joined, outlet.run))

    async def _once_joined(self, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run when the bus knows its receivers: before that, it might keep for nobody what is sent."""
        await self._joined.wait()
        await run()

    def _start_retention(self, store: SqlStore) -> None:
        retention = Retention(store, self._retention)
        self._keep_running(retention.name, retention.run)

    def _worker(self, handler: HandlerSpec, store: SqlStore) -> Worker | ChannelWorker:
        if handler.channel is not None:
            if handler.types:
                return Forwarder(handler, store, self.clock, self.max_payload)
            return Receiver(handler, store, self.clock, self.max_payload, is_alone=self.bus is None)
        allowed = frozenset(event_type.name for event_type in handler.publishes)
        replies = {each.name: frozenset(reply.name for reply in each.replies) for each in handler.types if each.target}
        publisher = Publisher(handler.service, self.clock, allowed, handler.name, self.max_payload, replies)
        session_of = None
        if any(kind == "session" for _, kind in handler.parameters):
            from antiphon.store.sessions import Sessions

            session_of = Sessions()
        slots = self._slots.setdefault(handler.name, Slots(handler.concurrency))
        return Worker(handler, store, self.clock, publisher, self._solo, session_of, slots)

    def _keep_running(self, name: str, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._tasks.append(asyncio.create_task(self._supervised(name, run), name=name))

    async def _supervised(self, name: str, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a loop again when it breaks: its state is in the store, so it goes on where it was.

        What is wrong is said when it is something else, and once a minute: a server that is away must not fill the log.
        """
        said: dict[str, int] = {}
        while True:
            try:
                await run()
                return
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                now_ms = self.clock.boot_ms()
                said = {each: at_ms for each, at_ms in said.items() if now_ms - at_ms < _SAY_EVERY_MS}
                if reason not in said:
                    said[reason] = now_ms
                    if isinstance(error, StoreError | BusError):
                        log.error("%s waits %g s, and tries again: %s", name, _RESTART_AFTER_S, error)
                    else:
                        log.exception("%s broke; it is started again", name)
            await self.clock.sleep(_RESTART_AFTER_S)

    async def _look_after(self, store: SqlStore) -> None:
        while True:
            await store.look_after()
            await self.clock.idle(1.0)

    async def stop(self, grace_s: float = 10.0) -> None:
        """Stop in order: handlers end or are released, the outboxes drain, the stores close. Idempotent."""
        await asyncio.gather(*(steward.stop(grace_s) for steward in self._stewards))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for outlet in self._outlets if self._joined.is_set() else ():
            try:
                await outlet.drain()
            except (StoreError, BusError) as error:
                log.error("%s keeps its events for the next start: %s", outlet.name, error)
        self._stewards.clear()
        self._tasks.clear()
        self._outlets.clear()
        await self._close()

    async def _close(self) -> None:
        for store in reversed(self._started):
            await store.close()
        self._started.clear()

    def _foreign_types(self, spec: ServiceSpec) -> list[str]:
        """The event types that a service receives: what it handles, and whatever may answer a command of its own."""
        handled = {event_type for handler in spec.handlers for event_type in handler.types}
        types = {each.name for each in handled if not each.name.startswith((TICK_TYPE, ADVANCE_TYPE))}
        for other in (*self.specs, *self._elsewhere):
            for command in other.commands:
                types.update(event_type.name for event_type in answers(command) if not event_type.domain)
        return sorted(types)

    # ------------------------------------------------------------------ publishing from outside

    def store_of(self, service: str) -> AnyStore:
        """The store of a service that runs here. Raises DeclarationError."""
        try:
            return self.stores[service]
        except KeyError:
            raise DeclarationError(
                f"service {service!r} does not run here", where=self.name, mend=f"Here run: {', '.join(self.stores)}"
            ) from None

    async def publish(self, service: str, *events: object, traceparent: str | None = None) -> list[str]:
        """Publish *events* as *service*; durable on return. Concurrent callers share a commit.

        Raises InvalidEvent (nothing is published then), StoreError.
        """
        self.store_of(service).refuse_nesting()
        publisher = Publisher(service, self.clock, None, service, self.max_payload)
        rows = []
        for event in events:
            envelope, event_type = publisher.envelope(event, None, traceparent)
            rows.append((envelope, INTERNAL if event_type.domain else PUBLISHED))
        await self._queues[service].publish(rows)
        return [envelope.id for envelope, _ in rows]

    async def request(self, service: str, command: object, timeout: timedelta) -> Any:
        """Send *command* as *service* and return the first event that answers it: a `TimedOut` after *timeout*.

        Raises InvalidEvent, DeclarationError for what is no command, StoreError.
        """
        store = self.store_of(service)
        store.refuse_nesting()
        requests = self._requests.setdefault(store, Requests(store))
        async with AsyncExitStack() as stack:
            async with self.transaction(service) as tx:
                request_id = await tx.request(command, timeout=timeout)
                answer = await stack.enter_async_context(requests.watching(request_id, event_type_of(command)))
            return await answer()

    @asynccontextmanager
    async def transaction(
        self,
        service: str,
        cause: Envelope | None = None,
        traceparent: str | None = None,
        allowed: frozenset[str] | None = None,
    ) -> AsyncIterator[Transaction]:
        """A transaction of *service*: durable when the ``async with`` ends, undone on an exception."""
        store = self.store_of(service)
        publisher = Publisher(service, self.clock, allowed, service, self.max_payload)
        tx = Transaction(store, publisher, cause, traceparent=traceparent)
        try:
            yield tx
            if tx.outgoing:
                await tx.flush()
        except BaseException as error:
            await tx.abandon(error)
            raise
        await tx.commit()

    @property
    def logs(self) -> list[AnyStore]:
        """Every log that is open here: those of the stores, and the hub. The last is there in each process."""
        return [*self._distinct_stores(), *([] if self.hub is None else [self.hub])]

    @property
    def workers(self) -> dict[str, Worker]:
        """The workers that run here now, by the partition of a handler (see `ports.Partition`)."""
        running = [each for steward in self._stewards for each in steward.workers.items()]
        return {name: worker for name, worker in running if isinstance(worker, Worker)}


def _refuse_sessions(specs: Sequence[ServiceSpec]) -> None:
    """Raise DeclarationError for what asks for an AsyncSession, which this database has none of."""
    for spec in specs:
        asking = [each.name for each in spec.handlers if any(kind == "session" for _, kind in each.parameters)]
        asking += [each.path for each in spec.routes if any(kind == "session" for _, kind in each.injected)]
        if asking:
            raise DeclarationError(
                "asks for an AsyncSession, which there is on SQLite and PostgreSQL only",
                where=f"{spec.name}: {', '.join(asking)}",
                mend="Ask for a Transaction, or keep the stores there",
            )
