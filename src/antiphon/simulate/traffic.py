"""What comes in: what the app says of it, or else what follows from its routes and handlers. And who sends it."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Callable
from random import Random  # noqa: TID251  seeded: it is the world's
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from antiphon.errors import AntiphonError, DeclarationError
from antiphon.model.events import EventType, event_type_of
from antiphon.model.handlers import RouteSpec
from antiphon.model.trials import TrafficSpec
from antiphon.simulate.values import Maker

if TYPE_CHECKING:
    from antiphon.app import App
    from antiphon.simulate.ledger import Asked
    from antiphon.simulate.world import World

#: A client gives up after so many tries, and waits so long for an answer.
_TRIES = 12
_PATIENCE_S = 10.0
_LONGEST_PAUSE_S = 5.0
#: The mean time between two that come in; a world draws one.
_PACES_S = (0.0, 0.02, 0.2, 1.0)
_AGAIN = frozenset({408, 409, 425, 429})


class Request(NamedTuple):
    """A request to the gateway, and the service that answers it."""

    method: str
    path: str
    json: Any
    service: str


class Publication(NamedTuple):
    """An event that is published from outside as *service*."""

    event: Any
    service: str


Incoming = Request | Publication


class Source(NamedTuple):
    """Makes things that come in, as often as its *weight* says."""

    name: str
    weight: float
    make: Callable[[Random], Incoming]


def sources(app: App) -> list[Source]:
    """What can come into *app*. Raises DeclarationError if that is nothing."""
    if app.traffics:
        return [Source(spec.name, spec.weight, _declared(app, spec)) for spec in app.traffics]
    found: list[Source] = []
    reasons: list[str] = []
    for make in [*_posts(app), *_unpublished(app)]:
        try:
            found.append(make())
        except AntiphonError as error:
            reasons.append(str(error))
    if not found:
        raise DeclarationError(
            "nothing is known that could come in" + "".join(f"; {reason}" for reason in reasons),
            where=f"app {app.name!r}",
            mend="Declare it: @app.traffic above a function of a random.Random",
        )
    return found


def _declared(app: App, spec: TrafficSpec) -> Callable[[Random], Incoming]:
    """What a function of the app's makes, as something that can be sent."""

    def make(random: Random) -> Incoming:
        made = spec.make(random)
        if isinstance(made, tuple):
            method, path, json = made
            return Request(method, path, json, _service_of(app, method, path, spec))
        return Publication(made, app.producer_of(event_type_of(made)))

    return make


def _service_of(app: App, method: str, path: str, spec: TrafficSpec) -> str:
    plain = path.partition("?")[0]
    for service in app.specs:
        for route in service.routes:
            template = re.escape(route.path).replace(r"\{", "{").replace(r"\}", "}")
            if route.method == method and re.fullmatch(re.sub("{[^}]*}", "[^/]+", template), plain):
                return service.name
    raise DeclarationError(f"there is no route {method} {path}", where=f"{spec.name}, {spec.source}")


def _posts(app: App) -> list[Callable[[], Source]]:
    """Routes that take a body and publish something."""
    return [
        lambda route=route: _post(route)  # type: ignore[misc]
        for service in app.specs
        for route in service.routes
        if route.method == "POST" and route.publishes and "{" not in route.path
    ]


def _post(route: RouteSpec) -> Source:
    injected = {name for name, _ in route.injected}
    bodies = [
        route.hints.get(name, parameter.annotation)
        for name, parameter in inspect.signature(route.fn).parameters.items()
        if name not in injected and parameter.default is parameter.empty
    ]
    if len(bodies) != 1:
        raise AntiphonError("its body is not one value", where=f"{route.method} {route.path}")
    maker = Maker(bodies[0], _accepted_by(bodies[0]))
    return Source(
        f"{route.method} {route.path}",
        1.0,
        lambda random: Request(route.method, route.path, maker.make(random), route.service),
    )


def _accepted_by(cls: Any) -> Callable[[Any], bool]:
    from pydantic import TypeAdapter, ValidationError

    adapter = TypeAdapter(cls)

    def accepts(value: Any) -> bool:
        try:
            adapter.validate_json(msgspec.json.encode(value))
        except ValidationError:
            return False
        return True

    return accepts


def _unpublished(app: App) -> list[Callable[[], Source]]:
    """Events that are handled, and that nothing in the app publishes."""
    publishes = [each.publishes for service in app.specs for each in service.handlers]
    publishes += [each.publishes for service in app.specs for each in service.routes]
    published = {event_type.name for types in publishes for event_type in types}
    return [
        lambda event_type=event_type: _publication(app, event_type)  # type: ignore[misc]
        for event_type in app.event_types.values()
        if event_type.name not in published and not event_type.name.startswith("antiphon.")
    ]


def _publication(app: App, event_type: EventType) -> Source:
    def decoded(value: Any) -> Any:
        return event_type.decode(msgspec.json.encode(value), event_type.version)

    def accepts(value: Any) -> bool:
        try:
            decoded(value)
        except AntiphonError:
            return False
        return True

    maker = Maker(event_type.cls, accepts)
    service = app.producer_of(event_type)
    return Source(event_type.name, 1.0, lambda random: Publication(decoded(maker.make(random)), service))


class Traffic:
    """Sends what comes into a world, each by a client of its own that is as stubborn as clients should be."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._sources = sources(world.app)
        self._weights = [source.weight for source in self._sources]
        self._abandoned: set[asyncio.Future[Any]] = set()

    async def run(self) -> None:
        """Send everything; return when the last client has its answer, or has given up."""
        world = self._world
        pace_s = world.random.choice(_PACES_S)
        clients = []
        for number in range(1, world.events + 1):
            incoming = world.random.choices(self._sources, self._weights)[0].make(world.random)
            clients.append(asyncio.ensure_future(self._client(f"request-{number}", incoming)))
            await world.sleep(world.random.expovariate(1 / pace_s) if pace_s else 0)
        await asyncio.gather(*clients)

    async def _client(self, key: str, incoming: Incoming) -> None:
        pause = 0.1
        for _ in range(_TRIES):
            over = await (
                self._request(key, incoming) if isinstance(incoming, Request) else self._publish(key, incoming)
            )
            if over:
                return
            await self._world.sleep(pause * (0.5 + self._world.random.random()))
            pause = min(2 * pause, _LONGEST_PAUSE_S)
        self._world.ledger.note("client", f"{key}: gives up")

    async def _request(self, key: str, request: Request) -> bool:
        """Send once, or as a fault has it; whether the matter is settled."""
        asked = self._world.ledger.sends(key, f"{request.method} {request.path}", request.service)
        fault = self._world.effects.point("request", key.encode())
        kind, what = (fault.kind, fault.what) if fault is not None else ("", "")
        if kind == "drop" and what == "before":
            self._world.ledger.loses(asked, "the request is lost")
            return False
        if fault is not None and kind in ("delay", "reorder"):
            await self._world.sleep(fault.seconds)
        sends = [self._send(asked, request, lost=kind == "drop") for _ in range(2 if kind == "duplicate" else 1)]
        return any(await asyncio.gather(*sends))

    async def _send(self, asked: Asked, request: Request, *, lost: bool) -> bool:
        ledger = self._world.ledger
        headers = {"idempotency-key": asked.key, "traceparent": asked.traceparent}
        try:
            answer = await self._within_patience(
                self._world.request(
                    request.method, request.path, service=request.service, json=request.json, headers=headers
                )
            )
        except ConnectionError as error:
            ledger.loses(asked, str(error) or type(error).__name__)
            return False
        if lost:
            ledger.loses(asked, "the answer is lost")
            return False
        if answer.status >= 500 or answer.status in _AGAIN:
            ledger.loses(asked, f"status {answer.status}")
            return False
        if answer.status >= 400:
            ledger.refuse(asked, f"status {answer.status}")
            return True
        told = msgspec.json.decode(answer.body) if answer.body else {}
        told = told if isinstance(told, dict) else {}
        ledger.acknowledge(asked, told.get("event_id"), told.get("correlation_id"))
        return True

    async def _publish(self, key: str, publication: Publication) -> bool:
        """Publish once; whether the matter is settled. After a crash nobody knows, and nobody repeats it."""
        name = event_type_of(publication.event).name
        asked = self._world.ledger.sends(key, f"publish {name}", publication.service, repeatable=False)
        try:
            event_id = await self._within_patience(self._world.publish(publication.event, service=publication.service))
        except (ConnectionRefusedError, AntiphonError) as error:  # nothing has been done
            self._world.ledger.loses(asked, str(error))
            return False
        except ConnectionError as error:
            self._world.ledger.loses(asked, str(error) or type(error).__name__)
            return True
        self._world.ledger.acknowledge(asked, event_id, None)
        return True

    async def _within_patience(self, answer: Any) -> Any:
        """What *answer* gives, unless it takes too long. Whoever works on it is not told that nobody waits."""
        answering = asyncio.ensure_future(answer)
        self._abandoned.add(answering)
        answering.add_done_callback(self._forget)
        await asyncio.wait([answering], timeout=_PATIENCE_S)
        if not answering.done():
            raise ConnectionError("no answer came in time")
        return answering.result()

    def _forget(self, answering: asyncio.Future[Any]) -> None:
        self._abandoned.discard(answering)
        if not answering.cancelled():
            answering.exception()
