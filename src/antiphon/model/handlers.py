"""Declarations as plain values: what a service handles, schedules, routes and keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

from antiphon.model.channels import ChannelSpec
from antiphon.model.events import EventType
from antiphon.model.retry import Rate, Retry
from antiphon.model.workflows import WorkflowSpec

ParameterKind = Literal["event", "transaction", "sync_transaction", "session", "delivery", "effects"]
Start = Literal["earliest", "now"]


@dataclass(frozen=True)
class HandlerSpec:
    """One handler: a service's function bound to event types. ``name`` is ``service.function``.

    ``compensates`` names the handler, or the route (``service METHOD /path``), whose work it undoes.
    ``fair_by`` gives the tenant of an event, among whom its time is shared; None: first come, first served.
    """

    name: str
    service: str
    fn: Callable[..., Any]
    types: tuple[EventType, ...]
    publishes: tuple[EventType, ...]
    parameters: tuple[tuple[str, ParameterKind], ...]
    is_async: bool
    source: str
    retry: Retry = Retry()
    has_retry: bool = False
    start: Start = "earliest"
    concurrency: int = 1
    rate: Rate | None = None
    timeout: timedelta | None = None
    #: Of a workflow's handlers: the author's function, which says what is published, and what they belong to.
    code: Callable[..., Any] | None = None
    workflow: WorkflowSpec | None = None
    compensates: str | None = None
    fair_by: Callable[[Any], object] | None = None
    #: Of a channel's two handlers: what they move. One takes what it is bound to out, the other has no types.
    channel: ChannelSpec | None = None

    @property
    def has_effects(self) -> bool:
        """Whether it makes recorded calls to the outside."""
        return any(kind == "effects" for _, kind in self.parameters)

    @property
    def type_names(self) -> tuple[str, ...]:
        """The names of the event types it is bound to."""
        return tuple(event_type.name for event_type in self.types)


@dataclass(frozen=True)
class ScheduleSpec:
    """A recurring tick and the handler that it feeds: ``every`` or ``cron`` in ``zone``."""

    name: str
    handler: HandlerSpec
    every: timedelta | None = None
    cron: str | None = None
    zone: str = "UTC"


@dataclass(frozen=True)
class RouteSpec:
    """One HTTP route; *options* go to FastAPI as they are.

    *hints* are its resolved annotations; *injected* names the parameters that the runtime gives.
    """

    service: str
    method: str
    path: str
    fn: Callable[..., Any]
    publishes: tuple[EventType, ...]
    source: str
    options: dict[str, Any] = field(default_factory=dict)
    hints: dict[str, Any] = field(default_factory=dict)
    injected: tuple[tuple[str, ParameterKind], ...] = ()


@dataclass(frozen=True)
class ServiceSpec:
    """All that a service declares. *tables* is SQL text, run once when its store is made; *dialects* are the same for
    databases that say it otherwise, by their name."""

    name: str
    tables: str
    handlers: tuple[HandlerSpec, ...]
    schedules: tuple[ScheduleSpec, ...]
    routes: tuple[RouteSpec, ...]
    dialects: dict[str, str] = field(default_factory=dict)

    @property
    def commands(self) -> tuple[EventType, ...]:
        """The commands that it handles."""
        return tuple(each for handler in self.handlers for each in handler.types if each.target is not None)
