"""Who publishes what to whom, known from the declarations alone; and what is wrong with it."""

from __future__ import annotations

import inspect
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from antiphon.model.commands import OUTCOMES
from antiphon.model.events import EventType
from antiphon.model.handlers import HandlerSpec, RouteSpec, ScheduleSpec, ServiceSpec
from antiphon.model.retry import milliseconds
from antiphon.policy import uncompensated
from antiphon.policy.bodies import Body, read_body
from antiphon.policy.signatures import may_publish_nothing
from antiphon.policy.words import span

NodeKind = Literal["event", "handler", "route", "schedule"]
Severity = Literal["error", "warning"]
Code = Literal[
    "never-handled",
    "never-fed",
    "endless-cycle",
    "outside-without-retry",
    "outside-annotation",
    "uncompensated",
    "never-triggered",
]

_OUTCOMES = frozenset(event_type.name for event_type in OUTCOMES)
#: Who takes one of these may have done something that has to be undone.
_KEEPING = frozenset({"transaction", "sync_transaction", "session", "effects"})
_FAILURE = re.compile(r"(Failed|Failure|Unavailable|Rejected|Declined|Refused|Denied|Expired|TimedOut|Aborted)$")


@dataclass(frozen=True)
class Node:
    """An event type, or what publishes or handles events. *service* is empty for an integration event."""

    id: str
    kind: NodeKind
    label: str
    service: str = ""
    source: str = ""


@dataclass(frozen=True)
class Graph:
    """The choreography: edges lead from a publisher to an event, from an event to a handler."""

    services: tuple[str, ...]
    nodes: tuple[Node, ...]
    edges: tuple[tuple[str, str], ...]

    def node(self, node_id: str) -> Node:
        """The node of that id. Raises KeyError."""
        for node in self.nodes:
            if node.id == node_id:
                return node
        raise KeyError(node_id)


@dataclass(frozen=True)
class Finding:
    """Something that ``check`` found. *where* is ``file:line``."""

    severity: Severity
    code: Code
    where: str
    what: str
    why: str
    mend: str


@dataclass(frozen=True)
class _Part:
    """A handler, route or schedule, with what it takes and publishes as node ids of events."""

    node: Node
    spec: HandlerSpec | None
    body: Body
    takes: tuple[str, ...]
    publishes: tuple[str, ...]


def is_failure(type_name: str) -> bool:
    """Whether the name of an event type says that something did not succeed."""
    return _FAILURE.search(type_name) is not None


def graph(specs: Iterable[ServiceSpec]) -> Graph:
    """The choreography of these services, in the order of their declarations."""
    specs = tuple(specs)
    parts, events = _parts(specs)
    edges = [(event, part.node.id) for part in parts for event in part.takes]
    edges += [(part.node.id, event) for part in parts for event in part.publishes]
    nodes = (*(part.node for part in parts), *events.values())
    return Graph(tuple(spec.name for spec in specs), nodes, tuple(dict.fromkeys(edges)))


def check(specs: Iterable[ServiceSpec]) -> list[Finding]:
    """What is wrong with the choreography of these services, or looks like it; errors first."""
    parts, events = _parts(tuple(specs))
    findings = [
        *_outside_annotation(parts),
        *_never_handled(parts, events),
        *_endless_cycles(parts),
        *_never_fed(parts, events),
        *_outside_without_retry(parts),
        *_uncompensated(parts, events),
        *_never_triggered(parts),
    ]
    return sorted(findings, key=lambda finding: finding.severity != "error")


def _parts(specs: tuple[ServiceSpec, ...]) -> tuple[list[_Part], dict[str, Node]]:
    parts: list[_Part] = []
    events: dict[str, Node] = {}

    def ids(types: Iterable[EventType], service: str) -> tuple[str, ...]:
        found = dict.fromkeys(_event_node(event_type, service) for event_type in types)
        events.update({node.id: node for node in found})
        return tuple(node.id for node in found)

    for spec in specs:
        for route in spec.routes:
            body = read_body(route.fn)
            # A route's return annotation is its response: what it publishes is said by its body too.
            types = [*route.publishes, *(publication.event_type for publication in body.publications)]
            if types:  # one that only reads takes no part
                parts.append(_Part(_route_node(route), None, body, (), ids(types, spec.name)))
        schedules = {schedule.handler.name: schedule for schedule in spec.schedules}
        for handler in spec.handlers:
            schedule = schedules.get(handler.name)
            node = _handler_node(handler) if schedule is None else _schedule_node(schedule)
            workflow = handler.workflow
            if workflow is not None and handler.code is None:
                continue  # its inbox: what it takes is the workflow's
            taken = handler.types if workflow is None else (*workflow.starts, *workflow.awaits)
            takes = () if schedule is not None else ids(taken, spec.name)  # ticks are not drawn
            parts.append(_Part(node, handler, _body(handler), takes, ids(handler.publishes, spec.name)))
    return parts, events


def _body(handler: HandlerSpec) -> Body:
    if handler.code is not None:
        return read_body(handler.code, frozenset(inspect.signature(handler.code).parameters))
    return read_body(handler.fn, frozenset(name for name, _ in handler.parameters))


def _event_node(event_type: EventType, service: str) -> Node:
    owner = service if event_type.domain else ""
    return Node(f"event:{owner}:{event_type.name}", "event", event_type.name, owner)


def _handler_node(handler: HandlerSpec) -> Node:
    label = handler.name.removeprefix(f"{handler.service}.")
    return Node(f"handler:{handler.name}", "handler", label, handler.service, handler.source)


def _route_node(route: RouteSpec) -> Node:
    label = f"{route.method} {route.path}"
    return Node(f"route:{route.service}:{label}", "route", label, route.service, route.source)


def _schedule_node(schedule: ScheduleSpec) -> Node:
    service = schedule.handler.service
    when = f"every {span(milliseconds(schedule.every))}" if schedule.every is not None else f"cron {schedule.cron}"
    label = f"{schedule.name.removeprefix(f'{service}.')}, {when}"
    return Node(f"schedule:{schedule.name}", "schedule", label, service, schedule.handler.source)


def _never_handled(parts: list[_Part], events: Mapping[str, Node]) -> Iterator[Finding]:
    handled = {event for part in parts for event in part.takes}
    publishers = _by(parts, "publishes")
    for event, node in events.items():
        if event in handled or event not in publishers:
            continue
        failure = is_failure(node.label)
        inside = f" in service {node.service}, which it stays inside," if node.service else ""
        by = _listed(part.node for part in publishers[event])
        yield Finding(
            severity="error" if failure else "warning",
            code="never-handled",
            where=publishers[event][0].node.source,
            what=f"{node.label} is published by {by} and nothing{inside} handles it",
            why="what was done before the failure is never undone" if failure else "it has no effect",
            mend=f"Handle it with @service.on({node.label}), or do not publish it",
        )


def _never_fed(parts: list[_Part], events: Mapping[str, Node]) -> Iterator[Finding]:
    published = {event for part in parts for event in part.publishes}
    for part in parts:
        # A request is answered so by the runtime, if by nobody else.
        if unfed := [
            events[event].label
            for event in part.takes
            if event not in published and events[event].label not in _OUTCOMES
        ]:
            yield Finding(
                severity="warning",
                code="never-fed",
                where=part.node.source,
                what=f"nothing publishes {', '.join(unfed)}, which {_full(part.node)} handles",
                why="unless it is published from outside these services, this handler never runs for it",
                mend="Name it in the return annotation of the handler or route that publishes it",
            )


def _endless_cycles(parts: list[_Part]) -> Iterator[Finding]:
    """Handlers that feed each other whatever they decide."""
    takers = _by(parts, "takes")
    endless = {part.node.id: part for part in parts if part.takes and not _may_end(part)}
    while True:
        # One that can publish an event which none of the others takes up lets the cycle end there.
        leaving = [
            name
            for name, part in endless.items()
            if not all(any(to.node.id in endless for to in takers[event]) for event in part.publishes)
        ]
        if not leaving:
            break
        for name in leaving:
            del endless[name]
    follows = {
        name: [to.node.id for event in part.publishes for to in takers[event] if to.node.id in endless]
        for name, part in endless.items()
    }
    for cycle in _cycles(follows):
        nodes = [endless[name].node for name in cycle]
        yield Finding(
            severity="error",
            code="endless-cycle",
            where=nodes[0].source,
            what=f"{_listed(nodes)} {'feed each other' if len(nodes) > 1 else 'feeds itself'} without an end",
            why="every path through them publishes an event that is handled by one of them again",
            mend="Let one of them return None, or an event that leads out",
        )


def _may_end(part: _Part) -> bool:
    return part.spec is None or not part.publishes or may_publish_nothing(part.spec.code or part.spec.fn)


def _outside_without_retry(parts: list[_Part]) -> Iterator[Finding]:
    for part in parts:
        if part.spec is None or part.spec.has_retry or not part.body.outside_calls:
            continue
        calls = dict.fromkeys(call.text for call in part.body.outside_calls)
        yield Finding(
            severity="warning",
            code="outside-without-retry",
            where=part.body.outside_calls[0].where,
            what=f"{_full(part.node)} calls {', '.join(calls)} and says no retry policy",
            why="what is outside fails for longer and costs more per attempt than the default expects",
            mend="Say how often and how long: retry=Retry(attempts=..., max_age=...)",
        )


def _uncompensated(parts: list[_Part], events: Mapping[str, Node]) -> Iterator[Finding]:
    failures = [event for event, node in events.items() if is_failure(node.label)]
    for failure, failing, step in uncompensated.left_done(_steps(parts), failures):
        label, place = events[failure].label, next(part.node.source for part in parts if _name(part) == failing.name)
        yield Finding(
            severity="warning",
            code="uncompensated",
            where=place,
            what=f"{label}, which {failing.name} publishes, leaves what {step.name} did",
            why="nothing that follows from it is declared to undo that",
            mend=f"Declare the handler that does: @service.on({label}, compensates=...)",
        )


def _never_triggered(parts: list[_Part]) -> Iterator[Finding]:
    sources = {_name(part): part.node.source for part in parts}
    for step in uncompensated.never_triggered(_steps(parts)):
        yield Finding(
            severity="warning",
            code="never-triggered",
            where=sources[step.name],
            what=f"{step.name} compensates {step.undoes}, from which none of its events follows",
            why="what it undoes is never undone",
            mend="Bind it to an event that comes after that, or publish one when something fails there",
        )


def _steps(parts: list[_Part]) -> list[uncompensated.Step]:
    def outcomes(part: _Part) -> tuple[str, ...]:
        """What a command's handler leads to besides what it publishes: it may be refused, or answer too late."""
        takes_command = part.spec is not None and any(each.target is not None for each in part.spec.types)
        return tuple(_OUTCOMES) if takes_command else ()

    def plain(events: tuple[str, ...]) -> tuple[str, ...]:
        """The ids, but for outcomes: those are the same for every service."""
        return tuple(name if (name := event.rpartition(":")[2]) in _OUTCOMES else event for event in events)

    return [
        uncompensated.Step(
            _name(part),
            plain(part.takes),
            (*plain(part.publishes), *outcomes(part)),
            part.spec is not None and any(kind in _KEEPING for _, kind in part.spec.parameters),
            None if part.spec is None else part.spec.compensates,
            part.spec is not None and part.spec.workflow is not None,
        )
        for part in parts
    ]


def _name(part: _Part) -> str:
    """What a compensation calls it by."""
    node = part.node
    return f"{node.service} {node.label}" if part.spec is None else part.spec.name


def _outside_annotation(parts: list[_Part]) -> Iterator[Finding]:
    for part in parts:
        if part.spec is None:
            continue
        named = {event_type.name for event_type in part.spec.publishes}
        for publication in part.body.publications:
            name = publication.event_type.name
            if name not in named:
                contract = f"names {', '.join(sorted(named))} only" if named else "names no event"
                yield Finding(
                    severity="error",
                    code="outside-annotation",
                    where=publication.where,
                    what=f"{_full(part.node)} publishes {name}, and its return annotation {contract}",
                    why="the publication will be refused when the handler runs",
                    mend=f"Add {name} to the return annotation",
                )


def _cycles(follows: Mapping[str, list[str]]) -> Iterator[list[str]]:
    """The strongly connected groups that contain an edge, in the order of their first members."""
    reach = {name: _reachable(name, follows) for name in follows}
    seen: set[str] = set()
    for name in follows:
        if name not in seen and name in reach[name]:
            group = [other for other in follows if other in reach[name] and name in reach[other]]
            seen.update(group)
            yield group


def _reachable(start: str, follows: Mapping[str, list[str]]) -> set[str]:
    """What can be reached from *start* by one edge or more."""
    found: set[str] = set()
    stack = [start]
    while stack:
        for name in follows[stack.pop()]:
            if name not in found:
                found.add(name)
                stack.append(name)
    return found


def _by(parts: list[_Part], side: Literal["takes", "publishes"]) -> Mapping[str, list[_Part]]:
    """Event -> the parts that take or publish it."""
    found: dict[str, list[_Part]] = defaultdict(list)
    for part in parts:
        for event in part.takes if side == "takes" else part.publishes:
            found[event].append(part)
    return found


def _full(node: Node) -> str:
    return f"{node.service}.{node.label}" if node.kind == "handler" else f"{node.label} ({node.service})"


def _listed(nodes: Iterable[Node]) -> str:
    return ", ".join(_full(node) for node in nodes)
