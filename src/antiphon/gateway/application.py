"""The gateway: one ASGI application for all routes of an app, and serving it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from fastapi import FastAPI

from antiphon.app import App
from antiphon.errors import DeclarationError
from antiphon.gateway import problems
from antiphon.gateway.events import Streams, event_routes
from antiphon.gateway.health import health_routes
from antiphon.gateway.history import History
from antiphon.gateway.ingress import ingress_routes
from antiphon.gateway.limits import MAX_BODY, BodyLimit
from antiphon.gateway.metrics import Metrics, metric_routes
from antiphon.gateway.neighbours import Neighbours
from antiphon.gateway.relay import Relay
from antiphon.gateway.routes import service_routes
from antiphon.gateway.server import Address, listening
from antiphon.gateway.webhooks import webhook_routes
from antiphon.model.handlers import RouteSpec
from antiphon.runtime.runtime import Runtime
from antiphon.version import __version__

_OURS = ("/channels", "/docs", "/events", "/livez", "/metrics", "/openapi.json", "/readyz")


class Gateway(FastAPI):
    """The ASGI application. It ends by itself when its server ends its lifespan; `drain` comes before that."""

    def __init__(
        self, app: App, runtime: Runtime, *, ingress: bool, max_body: int, elsewhere: Mapping[str, str] | None
    ) -> None:
        super().__init__(
            title=app.name,
            version=__version__,
            summary=f"The services {', '.join(app.services)}",
            redoc_url=None,
            lifespan=_lifespan,
        )
        self.draining = False
        self.neighbours = Neighbours(runtime, elsewhere)
        self.relay = Relay(self.neighbours, runtime.owner)
        history = History(runtime, elsewhere=len(runtime.stores) < len(app.services) + len(app.channels))
        self.streams = Streams(history)
        self.include_router(health_routes(runtime, lambda: self.draining))
        self.include_router(metric_routes(Metrics(runtime)))
        self.include_router(event_routes(history, self.streams))
        if ingress:
            self.include_router(ingress_routes(app, runtime))
        self.include_router(webhook_routes(app, runtime, self.relay))
        self.include_router(service_routes(_routes(app), runtime, self.relay))
        problems.install(self)
        self.add_middleware(BodyLimit, max_body=max_body)
        self.add_middleware(problems.Guard)

    def drain(self) -> None:
        """Say that this process stops, and end the streams."""
        self.draining = True
        self.streams.end()


@asynccontextmanager
async def _lifespan(gateway: FastAPI) -> AsyncIterator[None]:
    assert isinstance(gateway, Gateway)
    yield
    gateway.drain()
    await gateway.relay.close()


def _routes(app: App) -> list[RouteSpec]:
    """All routes of the app. Raises DeclarationError for one at a path of the gateway's own."""
    routes = [route for spec in app.specs for route in spec.routes]
    for route in routes:
        if f"/{route.path.split('/')[1]}" in _OURS:
            raise DeclarationError(
                f"{route.method} {route.path} lies where the gateway's own routes are",
                where=route.source,
                mend=f"Name another path; its own are {', '.join(_OURS)}",
            )
    return routes


def build(
    app: App,
    runtime: Runtime,
    *,
    ingress: bool | None = None,
    max_body: int = MAX_BODY,
    elsewhere: Mapping[str, str] | None = None,
) -> Gateway:
    """The ASGI application for the routes of *app*, which *runtime* runs.

    *ingress* (None: as the app says) opens ``POST /events``; *max_body* bounds a request, in bytes. *elsewhere* says
    at which URLs other machines serve which services. Raises DeclarationError for routes that contradict each other.
    """
    ingress = app.ingress if ingress is None else ingress
    return Gateway(app, runtime, ingress=ingress, max_body=max_body, elsewhere=elsewhere)


@asynccontextmanager
async def serve(
    app: App,
    runtime: Runtime,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    ingress: bool | None = None,
    max_body: int = MAX_BODY,
    grace_s: float = 5.0,
    elsewhere: Mapping[str, str] | None = None,
    inherited: int | None = None,
) -> AsyncIterator[Address]:
    """Serve the routes of *app* for the length of the block; yields the address that was bound (``.url``).

    A *port* of 0 is any that is free; *inherited* is the descriptor of a socket that listens already. Signals are
    left to the caller. At the end streams are closed and requests have *grace_s* to end; stop the runtime after that.
    Raises AntiphonError for an address that cannot be had, DeclarationError for routes that contradict each other.
    """
    gateway = build(app, runtime, ingress=ingress, max_body=max_body, elsewhere=elsewhere)
    async with listening(gateway, host, port, draining=gateway.drain, grace_s=grace_s, inherited=inherited) as address:
        gateway.neighbours.register(address.local)
        try:
            yield address
        finally:
            gateway.neighbours.withdraw()
