"""An app: the services that run together, checked against each other when it is declared."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Container, Iterable, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar, get_args, overload

from antiphon.declaring import caller, check_name, known_options, place, place_of
from antiphon.errors import AntiphonError, DeclarationError
from antiphon.model.channels import ChannelSpec, Decode, Encode, Identify
from antiphon.model.commands import Command, Refused, TimedOut
from antiphon.model.events import MAX_PAYLOAD, EventType, event_type_of
from antiphon.model.handlers import ServiceSpec
from antiphon.model.retry import days
from antiphon.model.trials import InvariantSpec, Look, TrafficSpec, When
from antiphon.ports import Clock
from antiphon.service import Service

if TYPE_CHECKING:
    from asyncio import BaseProtocol

    from antiphon.ports import MakeBus
    from antiphon.runtime.runtime import Runtime
    from antiphon.testing.world import World

Check = Callable[[Look], None]
M = TypeVar("M", bound=Callable[[Any], Any])
P = TypeVar("P", bound=Callable[..., Any])
R = TypeVar("R")

#: The runtime that is meant where an app runs several times in one process, as simulated ones do.
RUNTIME_HERE: ContextVar[Runtime | None] = ContextVar("antiphon_runtime", default=None)

#: Module names that say nothing; the package around them names the app.
_PLAIN_MODULES = frozenset({"app", "main", "application", "__main__", "__init__"})


class App:
    """Services that share a log, or with *own_stores* have a store each and a bus between them.

    *store* is the URL of the database that the stores lie in, instead of files: ``postgresql://``, ``mariadb://``.
    *bus* is the URL of a broker that carries events instead of that bus: ``nats://``, ``redis://``, ``amqp://``.
    *name* is by default that of the module or package which declares the app. *retention* is how long handled
    events are kept, *max_payload* the largest data of an event in bytes. With *ingress* the gateway takes
    CloudEvents from outside at ``POST /events``.
    Raises DeclarationError for two services of one name, two classes of one event type, or two handlers of one
    command.
    """

    @known_options
    def __init__(
        self,
        *services: Service,
        name: str | None = None,
        own_stores: bool = False,
        store: str | None = None,
        bus: str | None = None,
        retention: timedelta = days(7),
        max_payload: int = MAX_PAYLOAD,
        ingress: bool = False,
    ) -> None:
        frame = caller()
        self._where = place(frame)
        self.name = check_name(_default_name(frame) if name is None else name, "an app", self._where)
        self.own_stores = own_stores
        self.store = store
        self.bus = bus
        self.retention = retention
        self.max_payload = max_payload
        self.ingress = ingress
        self.services = _by_name(services, self._where)
        #: What the app has declared with `channel`, by name.
        self.channels: dict[str, ChannelSpec] = {}
        self._runtime: Runtime | None = None
        #: What the simulator is told: what must hold, what comes in, who stands in for an address outside.
        self.invariants: list[InvariantSpec] = []
        self.traffics: list[TrafficSpec] = []
        self.stand_ins: dict[tuple[str, int], Callable[..., BaseProtocol]] = {}
        if retention <= timedelta(0):
            raise DeclarationError(f"retention is {retention}; it must be more than zero", where=self._where)
        if max_payload < 1:
            raise DeclarationError(f"max_payload is {max_payload}; it must be 1 or more", where=self._where)
        declared = self._declared()
        _event_types(declared)  # so that what contradicts is said here
        _check_commands(declared)

    def __repr__(self) -> str:
        return f"App({', '.join(self.services)}, name={self.name!r})"

    @property
    def runtime(self) -> Runtime | None:
        """The runtime that runs this app here: the one of this context, else the one of this process."""
        return RUNTIME_HERE.get() or self._runtime

    @runtime.setter
    def runtime(self, runtime: Runtime | None) -> None:
        self._runtime = runtime

    @cached_property
    def specs(self) -> tuple[ServiceSpec, ...]:
        """What each service declares, as of the first use of the app.

        Raises DeclarationError for an annotation that cannot be resolved.
        """
        return self._declared()

    @property
    def all_specs(self) -> tuple[ServiceSpec, ...]:
        """What runs of this app: its services, and its channels, which are run as such."""
        if not self.channels:
            return self.specs
        from antiphon.channel.declaration import service_of

        return (*self.specs, *map(service_of, self.channels.values()))

    @cached_property
    def event_types(self) -> dict[str, EventType]:
        """All event types that the services and channels handle or publish, by name."""
        return _event_types(self.all_specs)

    @known_options
    def channel(
        self,
        url: str,
        *,
        name: str | None = None,
        inbound: Mapping[str, type | Iterable[type]] | None = None,
        outbound: Mapping[str, type | Iterable[type]] | None = None,
        decode: Decode | None = None,
        encode: Encode | None = None,
        identify: Identify | None = None,
        region: str | None = None,
        peer: str | None = None,
        replicate: Iterable[type] = (),
        options: Mapping[str, Any] | None = None,
    ) -> ChannelSpec:
        """Join the app with a system beside it, at *url*: what comes from there, and what goes there.

        *inbound* and *outbound* name the places of the foreign system (queues, streams, subjects, files, tables) with
        the events that come or go there. CloudEvents are understood as they are, and so is the JSON of the one event
        that a place is declared with; *decode* makes events of any other message (None: it is none), *encode* gives
        what is sent for one. *identify* gives the text by which a message is known if it comes twice. With *region*
        and *peer* it joins two regions of one app, which *replicate* events to each other. *options* are those of the
        URL's scheme. The channel runs as a service of its *name* does. Raises DeclarationError for what cannot work.
        """
        from antiphon.channel.declaration import declare

        where = place(caller())
        if name is None:
            name = f"to_{peer}".replace("-", "_") if peer is not None else "channel"
        check_name(name, "a channel", where)
        if name in self.services or name in self.channels:
            raise DeclarationError(
                f"{name!r} is a service or channel of this app already", where=where, mend="name=..."
            )
        declared = declare(
            name,
            self.name,
            url,
            inbound=inbound,
            outbound=outbound,
            region=region,
            peer=peer,
            replicate=tuple(replicate),
            where=where,
            functions={"decode": decode, "encode": encode, "identify": identify},
            options=options or {},
        )
        self.channels[name] = declared
        self.__dict__.pop("event_types", None)
        _event_types(self.all_specs)
        return declared

    async def publish(
        self,
        event: object,
        *,
        service: str | None = None,
        delay: timedelta | None = None,
        at: datetime | None = None,
    ) -> str:
        """Publish *event* durably, now or later, and return its id.

        It is published as *service*; unless that is said, as one that declares that it publishes it, else as
        one that handles it. Raises InvalidEvent for data that breaks the contract, DeclarationError for what
        is no event, AntiphonError when the app does not run here.
        """
        runtime = self._running()
        producer = self._producer(event_type_of(event), service, runtime)
        if delay is None and at is None:
            return (await runtime.publish(producer, event))[0]
        async with runtime.transaction(producer) as tx:
            return await tx.publish_later(event, delay=delay, at=at)

    @overload
    async def request(
        self, command: Command[R], *, timeout: timedelta, service: str | None = None
    ) -> R | Refused | TimedOut: ...

    @overload
    async def request(self, command: object, *, timeout: timedelta, service: str | None = None) -> Any: ...

    async def request(self, command: object, *, timeout: timedelta, service: str | None = None) -> Any:
        """Send *command* durably and return what answers it, within *timeout*: every outcome is an event.

        One of the events that the command names; `Refused`, when it became a dead letter; `TimedOut`. It is sent
        as *service*, chosen as by `publish`. Raises InvalidEvent, DeclarationError for what is no command,
        StoreError inside a transaction that has written (it would keep the answer out), AntiphonError when the
        app does not run here.
        """
        runtime = self._running()
        producer = self._producer(event_type_of(command), service, runtime)
        return await runtime.request(producer, command, timeout)

    @overload
    def invariant(self, check: Check) -> Check: ...

    @overload
    def invariant(self, *, at: When = "always") -> Callable[[Check], Check]: ...

    def invariant(self, check: Check | None = None, *, at: When = "always") -> Check | Callable[[Check], Check]:
        """Have the simulator hold that *check* raises no AssertionError, whatever goes wrong.

        *check* gets a `Look` at what is committed in every store at one moment. ``@app.invariant`` is looked
        at all along; ``@app.invariant(at="end")`` when everything has come to rest.
        """
        if at not in get_args(When):
            raise DeclarationError(
                f"at is {at!r}; it must be one of {', '.join(get_args(When))}", where=place(caller())
            )

        def declare(check: Check) -> Check:
            self.invariants.append(InvariantSpec(check.__name__, check, at, place_of(check)))
            return check

        return declare if check is None else declare(check)

    @overload
    def traffic(self, make: M) -> M: ...

    @overload
    def traffic(self, *, weight: float = 1.0) -> Callable[[M], M]: ...

    def traffic(self, make: M | None = None, *, weight: float = 1.0) -> M | Callable[[M], M]:
        """Tell the simulator what comes in: a function of a seeded ``random.Random`` that makes one thing.

        It returns an event, which is published, or ``(method, path, json)``, which is sent to the gateway.
        Of several functions one is drawn each time, by *weight*.
        """
        if not weight > 0:
            raise DeclarationError(f"weight is {weight!r}; it must be more than zero", where=place(caller()))

        def declare(make: M) -> M:
            self.traffics.append(TrafficSpec(make.__name__, make, weight, place_of(make)))
            return make

        return declare if make is None else declare(make)

    def stand_in(self, host: str, port: int) -> Callable[[P], P]:
        """Tell the simulator who answers at an address outside: a function that makes an ``asyncio.Protocol``
        for each connection (aiosmtpd's ``SMTP``, say). Nothing else outside can be reached in a simulation.

        If the function takes an argument, that is a dict in which it remembers from one connection to the next; each
        simulated world has one of its own, which invariants find as ``look.outside(host, port)``.
        """

        def declare(make: P) -> P:
            self.stand_ins[host, port] = make
            return make

        return declare

    def producer_of(self, event_type: EventType, among: Container[str] | None = None) -> str:
        """The service that an event is published as when nobody says: of those *among* which to choose (None:
        all), one that declares that it publishes it, else one that handles it, else the first."""
        here = [spec for spec in self.all_specs if among is None or spec.name in among]
        for types_of in (_published_types, _handled_types):
            for spec in here:
                if any(known.name == event_type.name for known in types_of(spec)):
                    return spec.name
        return here[0].name

    @asynccontextmanager
    async def run_in(
        self,
        data: str | Path,
        *,
        services: list[str] | None = None,
        clock: Clock | None = None,
        store: str | None = None,
        bus: str | None = None,
    ) -> AsyncIterator[Runtime]:
        """Run the app, or only *services* (and channels) of it, on the directory *data* for the length of the block.

        *store* and *bus* are the URLs of database and bus where they are others than the app's. Raises
        DeclarationError for one that nobody knows, StoreError.
        """
        from antiphon.runtime.runtime import Runtime

        if self.runtime is not None:
            raise AntiphonError(f"app {self.name!r} runs in this process already")
        runtime = Runtime(
            self.name,
            self.all_specs,
            data=Path(data),
            own_stores=self.own_stores,
            services=services,
            clock=clock,
            retention=self.retention,
            max_payload=self.max_payload,
            store=store or self.store,
            make_bus=self._bus_at(bus or self.bus),
        )
        await runtime.start()
        self.runtime = runtime
        try:
            yield runtime
        finally:
            self.runtime = None
            await runtime.stop()

    def test(self, *, seed: int = 0, start: datetime | None = None, data: str | Path | None = None) -> World:
        """The app in a test: ``async with app.test() as world``. Real code and stores, in virtual time.

        The time begins at *start* (with a zone; 2026-01-01 UTC); *seed* decides ids and jitter. The databases lie
        in a temporary directory; in *data* they are kept.
        """
        from antiphon.testing.world import World

        return World(self, seed=seed, start=start, data=None if data is None else Path(data))

    def _bus_at(self, url: str | None) -> MakeBus | None:
        """Makes the bus at *url*; None for the one beside the stores."""
        if url is None:
            return None
        from antiphon.broker.connecting import bus_at

        if not self.own_stores:
            raise DeclarationError(
                "a bus carries events between stores, and the services of this app share one",
                where=self._where,
                mend="App(..., own_stores=True)",
            )
        return bus_at(url, self.name, keep=self.retention)

    def _declared(self) -> tuple[ServiceSpec, ...]:
        return tuple(service.spec for service in self.services.values())

    def _running(self) -> Runtime:
        if self.runtime is None:
            raise AntiphonError(
                "the app does not run in this process",
                where=f"app {self.name!r}",
                mend='Publish inside "async with app.run_in(...)", or start it with antiphon run',
            )
        return self.runtime

    def _producer(self, event_type: EventType, service: str | None, runtime: Runtime) -> str:
        """The service that the event is published as, one that runs here."""
        if service is not None:
            runtime.store_of(service)
            return service
        return self.producer_of(event_type, runtime.stores)


def _by_name(services: tuple[Service, ...], where: str) -> dict[str, Service]:
    found: dict[str, Service] = {}
    for service in services:
        if not isinstance(service, Service):
            raise DeclarationError(f"App(...) takes services, not {service!r}", where=where)
        if found.setdefault(service.name, service) is not service:
            raise DeclarationError(f"two services are named {service.name!r}", where=where, mend="Rename one")
    if not found:
        raise DeclarationError("an app needs a service", where=where, mend='App(Service("name"))')
    return found


def _event_types(specs: tuple[ServiceSpec, ...]) -> dict[str, EventType]:
    """All event types by name. Raises DeclarationError if two classes bear one name."""
    found: dict[str, EventType] = {}
    for spec in specs:
        for event_type in (*_published_types(spec), *_handled_types(spec)):
            other = found.setdefault(event_type.name, event_type)
            if other.cls is not event_type.cls:
                raise DeclarationError(
                    f"event type {event_type.name!r} is declared by {_full_name(other.cls)} and by "
                    f"{_full_name(event_type.cls)}",
                    where=f"service {spec.name!r}",
                    mend='Import one of them, or give one another name: class ...(Event, type="...")',
                )
    return found


def _check_commands(specs: tuple[ServiceSpec, ...]) -> None:
    """Raise DeclarationError if a command has two handlers, both of which would answer it."""
    found: dict[str, str] = {}
    for handler in (handler for spec in specs for handler in spec.handlers):
        for command in (each.name for each in handler.types if each.target is not None):
            other = found.setdefault(command, handler.name)
            if other is not handler.name:
                raise DeclarationError(
                    f"it handles {command}, which {other} handles already",
                    where=handler.source,
                    mend="A command has one handler; publish an event for everybody else",
                )


def _published_types(spec: ServiceSpec) -> list[EventType]:
    publishers = [each.publishes for each in spec.routes] + [each.publishes for each in spec.handlers]
    return [known for publishes in publishers for known in publishes]


def _handled_types(spec: ServiceSpec) -> list[EventType]:
    """What its handlers are bound to. A schedule's tick is a type too: its dead letters are read by it."""
    return [known for handler in spec.handlers for known in handler.types]


def _default_name(frame: FrameType | None) -> str:
    """The name of the declaring module, or of the package around it if the module's says nothing."""
    if frame is None:
        return "app"
    module = str(frame.f_globals.get("__name__", "app"))
    if module == "__main__":
        module = Path(frame.f_globals.get("__file__", "app.py")).stem
    parts = module.split(".")
    while len(parts) > 1 and parts[-1] in _PLAIN_MODULES:
        parts.pop()
    plain = re.sub(r"[^a-z0-9_]+", "_", parts[-1].lower()).strip("_")
    return plain[:48] if plain[:1].isalpha() else f"app_{plain}"[:48].rstrip("_")


def _full_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
