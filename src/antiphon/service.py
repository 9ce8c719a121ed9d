"""A service: its handlers, schedules and routes, declared by decorators, kept as plain specs."""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args

from antiphon.declaring import caller, check_name, known_options, place, place_of
from antiphon.errors import DeclarationError
from antiphon.model.events import Event, EventType, event_type_of
from antiphon.model.handlers import HandlerSpec, RouteSpec, ScheduleSpec, ServiceSpec, Start
from antiphon.model.retry import Rate, Retry
from antiphon.model.shape import all_fields
from antiphon.model.workflows import WorkflowSpec
from antiphon.policy import signatures
from antiphon.policy.schedule import check_schedule
from antiphon.replicated import TABLES as REPLICAS
from antiphon.replicated import Replica
from antiphon.runtime.workflow.definitions import StateMachine
from antiphon.workflow import (
    CONCURRENCY,
    MachineHandle,
    WorkflowHandle,
    WorkflowOptions,
    machine_spec,
    workflow_spec,
)

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
H = TypeVar("H", bound=WorkflowHandle)

_DEFAULT_RETRY = Retry()
# Tables may be written for these too, in a file of their own: tables.postgresql.sql beside tables.sql.
_DIALECTS = ("postgresql", "mariadb")


class Tick(Event, type="antiphon.tick", domain=True):
    """What a schedule's function is called with: the schedule's name and when it was due (UTC)."""

    name: str
    due: datetime


class Service:
    """Owner of handlers, schedules, routes and tables.

    *tables* is SQL text, or the name of a .sql file beside the declaring module; it is run once, when the
    service's store is made. Where ``<name>.postgresql.sql`` or ``<name>.mariadb.sql`` lies beside that file, that
    database is given that one.
    Raises DeclarationError for a name that breaks the rule, or a file that is not there.
    """

    @known_options
    def __init__(self, name: str, tables: str | Path | None = None) -> None:
        self.name = check_name(name, "a service", place(caller()))
        self.tables, self.dialects = ("", {}) if tables is None else _read_tables(tables)
        self._handlers: dict[str, _Lazy[HandlerSpec]] = {}
        self.workflows: dict[str, WorkflowHandle] = {}
        self._schedules: list[_Lazy[ScheduleSpec]] = []
        self._routes: dict[tuple[str, str], _Lazy[RouteSpec]] = {}
        self._work: dict[Callable[..., Any], str] = {}

    def __repr__(self) -> str:
        return f"Service({self.name!r})"

    @known_options
    def on(
        self,
        *events: type[Any],
        name: str | None = None,
        retry: Retry | None = None,
        start: Start = "earliest",
        concurrency: int = 1,
        rate: Rate | None = None,
        timeout: timedelta | None = None,
        compensates: Callable[..., Any] | None = None,
        fair_by: str | Callable[[Any], object] | None = None,
    ) -> Callable[[F], F]:
        """Bind a function to *events*, or to those that its first parameter is annotated with.

        The function's other parameters are given by annotation: Transaction, SyncTransaction (in a plain
        def), Delivery, Effects, SQLAlchemy's AsyncSession. Its return annotation names all that it may
        publish. *compensates* is the handler or route of this service whose work it undoes. *fair_by*, the
        name of a field or a function of the event, tells tenants apart: when many events wait, they share the
        handler's time, so that a flood of one does not delay the others. The function itself is returned
        unchanged. Raises DeclarationError for what cannot work.
        """
        where = place(caller())
        types = tuple(_event_type(cls, where) for cls in events)
        undone = None if compensates is None else self._work_of(compensates, where)
        options = _Options(retry, start, concurrency, rate, timeout, undone, fair_by)
        _check_options(options, where)

        def declare(fn: F) -> F:
            self._declare_handler(fn, name, types, options)
            return fn

        return declare

    @known_options
    def every(self, interval: timedelta, *, name: str | None = None, retry: Retry | None = None) -> Callable[[F], F]:
        """Call a function again and again, *interval* apart; it publishes what it returns."""
        if not isinstance(interval, timedelta):
            raise DeclarationError(f"every({interval!r}) is not a timedelta", where=place(caller()))
        return self._scheduled(name, retry, every=interval)

    @known_options
    def cron(
        self, expression: str, *, zone: str = "UTC", name: str | None = None, retry: Retry | None = None
    ) -> Callable[[F], F]:
        """Call a function whenever the cron *expression* is due in the time *zone* (an IANA name)."""
        return self._scheduled(name, retry, cron=expression, zone=zone)

    @known_options
    def workflow(
        self,
        *,
        starts: type[Any] | tuple[type[Any], ...] = (),
        key: str | Callable[[Any], Any] | None = None,
        awaits: tuple[type[Any], ...] = (),
        publishes: tuple[type[Any], ...] = (),
        version: int = 1,
        retry: Retry | None = None,
        concurrency: int = CONCURRENCY,
        name: str | None = None,
    ) -> Callable[[Callable[..., Any]], WorkflowHandle]:
        """Make a durable function of ``async def f(event, wf: Workflow)``: it goes on after any crash.

        An event of *starts* (none: of its first parameter's annotation) begins a run of the *key* that a field or
        a function of it gives (None: the event's own); a key has one live run. It may wait for the events in *awaits*,
        and publish what its return annotation and *publishes* name. *retry* is that of its steps. Several functions of
        one name differ in *version*: new runs begin with the highest, those begun earlier keep theirs.
        Raises DeclarationError for what cannot work.
        """
        where = place(caller())
        given = starts if isinstance(starts, tuple) else (starts,)
        types = tuple(_event_type(cls, where) for cls in given)
        options = WorkflowOptions(
            key,
            tuple(_event_type(cls, where) for cls in awaits),
            tuple(_event_type(cls, where) for cls in publishes),
            version,
            retry,
            concurrency,
        )
        _check_options(_Options(retry=retry, concurrency=concurrency), where)

        def declare(fn: Callable[..., Any]) -> WorkflowHandle:
            local = _function_name(fn, name)
            spec = workflow_spec(fn, self.name, local, types, options, _names_around(fn))
            return self._add_workflow(local, spec, WorkflowHandle, concurrency)

        return declare

    def add(self, machine: StateMachine) -> MachineHandle:
        """Let the service carry a state machine (`Workflow.from_asl`) as a workflow of its own.

        Raises DeclarationError for a name that is taken.
        """
        where = place(caller())
        check_name(machine.name, "a state machine", where)
        _check_options(_Options(concurrency=machine.concurrency), where)
        spec = machine_spec(machine, self.name, where)
        return self._add_workflow(machine.name, spec, MachineHandle, machine.concurrency)

    def _add_workflow(self, local: str, spec: WorkflowSpec, kind: type[H], concurrency: int) -> H:
        """Add a workflow, or another version of one."""
        handle = self.workflows.get(local)
        if local in self._handlers or not isinstance(handle, kind | None):
            raise DeclarationError(f"service {self.name!r} has a handler {local!r} already", where=spec.source)
        if handle is None:
            handle = self.workflows[local] = kind(spec)
        elif spec.version in handle.versions:
            raise DeclarationError(
                f"service {self.name!r} has version {spec.version} of workflow {local!r} already", where=spec.source
            )
        handle.engine.add(spec)
        handle.concurrency = concurrency
        return handle

    @known_options
    def replicated(
        self, event: type[T], *, merge: Callable[[T, T], T] | None = None, name: str | None = None
    ) -> Replica[T]:
        """State by the key of *event*, which several regions write (`App.channel` with *replicate*), and which is the
        same in all of them when all events have come. The last writer wins, or *merge* says what becomes of two
        states. A handler of this service, ``keep_<name>``, keeps it. Raises DeclarationError for an event without key.
        """
        event_type = _event_type(event, place(caller()))
        local = re.sub(r"[^a-z0-9_]", "_", (name or event_type.name).lower())
        replica: Replica[T] = Replica(f"{self.name}.{local}", event_type, merge)
        self._declare_handler(replica.handler(), f"keep_{local}", (event_type,), _Options())
        if REPLICAS not in self.tables:
            self.tables = REPLICAS + self.tables
            self.dialects = {dialect: REPLICAS + sql for dialect, sql in self.dialects.items()}
        return replica

    def get(self, path: str, **options: Any) -> Callable[[F], F]:
        """Answer GET *path*; *options* are those of FastAPI's own decorator."""
        return self._route("GET", path, options)

    def post(self, path: str, **options: Any) -> Callable[[F], F]:
        """Answer POST *path*; *options* are those of FastAPI's own decorator."""
        return self._route("POST", path, options)

    def put(self, path: str, **options: Any) -> Callable[[F], F]:
        """Answer PUT *path*; *options* are those of FastAPI's own decorator."""
        return self._route("PUT", path, options)

    def patch(self, path: str, **options: Any) -> Callable[[F], F]:
        """Answer PATCH *path*; *options* are those of FastAPI's own decorator."""
        return self._route("PATCH", path, options)

    def delete(self, path: str, **options: Any) -> Callable[[F], F]:
        """Answer DELETE *path*; *options* are those of FastAPI's own decorator."""
        return self._route("DELETE", path, options)

    @property
    def spec(self) -> ServiceSpec:
        """All that is declared so far. Raises DeclarationError for an annotation that stays unresolved."""
        return ServiceSpec(
            name=self.name,
            tables=self.tables,
            dialects=self.dialects,
            handlers=(
                *(lazy.value for lazy in self._handlers.values()),
                *(handler for each in self.workflows.values() for handler in each.handlers()),
            ),
            schedules=tuple(lazy.value for lazy in self._schedules),
            routes=tuple(lazy.value for lazy in self._routes.values()),
        )

    def _work_of(self, fn: Callable[..., Any], where: str) -> str:
        """The name of the handler or route that *fn* is. Raises DeclarationError."""
        if fn in self._work:
            return self._work[fn]
        raise DeclarationError(
            f"compensates={getattr(fn, '__name__', fn)!r} is no handler or route of service {self.name!r}",
            where=where,
            mend="Name a function that is declared above; what a service did, it undoes itself",
        )

    def _declare_handler(
        self, fn: Callable[..., Any], name: str | None, types: tuple[EventType, ...], options: _Options
    ) -> _Lazy[HandlerSpec]:
        local = _function_name(fn, name)
        where = place_of(fn)
        if local in self._handlers or local in self.workflows:
            raise DeclarationError(
                f"service {self.name!r} has a handler {local!r} already",
                where=where,
                mend="Rename the function, or say name=...",
            )
        if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
            raise DeclarationError(
                f"handler {local!r} yields, which it cannot", where=where, mend="Return a list of events"
            )
        names = _names_around(fn)
        handler = _Lazy(lambda: _handler_spec(fn, self.name, local, types, options, names))
        self._handlers[local] = handler
        self._work[fn] = f"{self.name}.{local}"
        return handler

    def _scheduled(
        self,
        name: str | None,
        retry: Retry | None,
        *,
        every: timedelta | None = None,
        cron: str | None = None,
        zone: str = "UTC",
    ) -> Callable[[F], F]:
        where = place(caller())
        options = _Options(retry)
        _check_options(options, where)
        try:
            check_schedule(every=every, cron=cron, zone=zone)
        except DeclarationError as error:
            error.where = where
            raise

        def declare(fn: F) -> F:
            local = _function_name(fn, name)
            full = f"{self.name}.{local}"
            tick = EventType(Tick, "struct", key=None, version=1, name=f"antiphon.tick.{full}", domain=True)
            handler = self._declare_handler(fn, name, (tick,), options)
            self._schedules.append(_Lazy(lambda: ScheduleSpec(full, handler.value, every, cron, zone)))
            return fn

        return declare

    def _route(self, method: str, path: str, options: Mapping[str, Any]) -> Callable[[F], F]:
        where = place(caller())
        if not path.startswith("/"):
            raise DeclarationError(f"path {path!r} does not start with /", where=where)
        if (method, path) in self._routes:
            raise DeclarationError(f"service {self.name!r} answers {method} {path} already", where=where)

        def declare(fn: F) -> F:
            source = place_of(fn)
            names = _names_around(fn)
            if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
                raise DeclarationError(
                    f"route {fn.__name__!r} yields, which it cannot", where=source, mend="Return a StreamingResponse"
                )

            def build() -> RouteSpec:
                hints = signatures.resolve(fn, names, source, extras=True)
                publishes = signatures.events_in_result(signatures.resolve(fn, names, source))
                injected = signatures.injected(fn, hints, source)
                return RouteSpec(self.name, method, path, fn, publishes, source, dict(options), hints, injected)

            self._routes[method, path] = _Lazy(build)
            self._work[fn] = f"{self.name} {method} {path}"
            return fn

        return declare


@dataclass(frozen=True)
class _Options:
    """What may be said of a handler besides its events."""

    retry: Retry | None = None
    start: Start = "earliest"
    concurrency: int = 1
    rate: Rate | None = None
    timeout: timedelta | None = None
    compensates: str | None = None
    fair_by: str | Callable[[Any], object] | None = None


class _Lazy(Generic[T]):
    """A spec, built at once if its annotations can be resolved, and else when it is asked for.

    So a mistake is told where it is made, and a class may still be defined below its handler.
    """

    def __init__(self, build: Callable[[], T]) -> None:
        self._build = build
        with contextlib.suppress(signatures.UnresolvedName):
            _ = self.value

    @cached_property
    def value(self) -> T:
        """The spec. Raises DeclarationError if it cannot be built."""
        return self._build()


def _handler_spec(
    fn: Callable[..., Any],
    service: str,
    local: str,
    types: tuple[EventType, ...],
    options: _Options,
    names: Mapping[str, Any],
) -> HandlerSpec:
    where = place_of(fn)
    hints = signatures.resolve(fn, names, where)
    types = types or signatures.events_of_first_parameter(fn, hints, where)
    publishes = signatures.published(hints, where)
    signatures.check_commands(types, publishes, service, where)
    return HandlerSpec(
        name=f"{service}.{local}",
        service=service,
        fn=fn,
        types=types,
        publishes=publishes,
        parameters=signatures.parameters(fn, hints, types, where),
        is_async=inspect.iscoroutinefunction(fn),
        source=where,
        retry=options.retry or _DEFAULT_RETRY,
        has_retry=options.retry is not None,
        start=options.start,
        concurrency=options.concurrency,
        rate=options.rate,
        timeout=options.timeout,
        compensates=options.compensates,
        fair_by=_tenant_of(options.fair_by, types, where),
    )


def _tenant_of(
    fair_by: str | Callable[[Any], object] | None, types: tuple[EventType, ...], where: str
) -> Callable[[Any], object] | None:
    """The function that *fair_by* is, or of the field that it names. Raises DeclarationError."""
    if not isinstance(fair_by, str):
        return fair_by
    for event_type in types:
        if fair_by not in (names := [name for name, _ in all_fields(event_type.cls)]):
            raise DeclarationError(
                f"fair_by is {fair_by!r}, which is no field of {event_type.name}",
                where=where,
                mend=f"Its fields are {', '.join(names) or 'none'}",
            )
    return attrgetter(fair_by)


def _event_type(cls: object, where: str) -> EventType:
    """The event type of *cls*. Raises DeclarationError if it has none."""
    if not isinstance(cls, type):
        raise DeclarationError(
            f"on(...) takes event classes, not {cls!r}",
            where=where,
            mend="Write @service.on() with parentheses to take the event from the annotation",
        )
    return event_type_of(cls)


def _check_options(options: _Options, where: str) -> None:
    retry, rate, timeout, fair_by = options.retry, options.rate, options.timeout, options.fair_by
    starts = get_args(Start)
    for option, right, rule in (
        ("retry", retry is None or isinstance(retry, Retry), "a Retry(...)"),
        ("start", options.start in starts, f"one of {', '.join(starts)}"),
        ("concurrency", isinstance(options.concurrency, int) and options.concurrency >= 1, "1 or more"),
        ("rate", rate is None or isinstance(rate, Rate), "a Rate(...)"),
        ("timeout", timeout is None or _is_span(timeout), "a timedelta above zero"),
        ("fair_by", fair_by is None or isinstance(fair_by, str) or callable(fair_by), "a field's name or a function"),
    ):
        if not right:
            raise DeclarationError(f"{option} is {getattr(options, option)!r}; it must be {rule}", where=where)


def _is_span(value: object) -> bool:
    return isinstance(value, timedelta) and value > timedelta(0)


def _function_name(fn: Callable[..., Any], name: str | None) -> str:
    """The local name of the handler: *name*, or the function's."""
    local = fn.__name__ if name is None and inspect.isroutine(fn) else name
    if local is None or not local.isidentifier():
        raise DeclarationError(
            f"{fn if name is None else name!r} cannot name a handler",
            where=place(caller()),
            mend="Decorate a function; a handler's name is a Python identifier",
        )
    return local


def _names_around(fn: Callable[..., Any]) -> Mapping[str, Any]:
    """The local names that the annotations of a function inside a function may mean."""
    frame = caller()
    return dict(frame.f_locals) if frame is not None and "<locals>" in fn.__qualname__ else {}


def _read_tables(tables: str | Path) -> tuple[str, dict[str, str]]:
    """The SQL text that *tables* is or names, and what lies beside it for other databases, by their dialect."""
    if isinstance(tables, str) and " " in tables and not tables.endswith(".sql"):
        return tables, {}
    frame = caller()
    beside = Path(frame.f_globals.get("__file__", ".")).parent if frame is not None else Path()
    file = beside / tables
    others = {each: file.with_name(f"{file.stem}.{each}{file.suffix}") for each in _DIALECTS}
    try:
        found = {each: path.read_text(encoding="utf-8") for each, path in others.items() if path.is_file()}
        return file.read_text(encoding="utf-8"), found
    except OSError as error:
        raise DeclarationError(
            f"tables file {file} cannot be read: {error.strerror}",
            where=place(frame),
            mend="tables is SQL text, or names a .sql file beside the module that declares the service",
        ) from error
