"""Turns the routes that services declare into FastAPI's."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from antiphon.errors import DeclarationError
from antiphon.gateway.calls import Caller, CurrentCall
from antiphon.gateway.idempotency import HEADER, LONGEST_KEY, Idempotency
from antiphon.gateway.problems import DOCUMENTED
from antiphon.gateway.relay import Relay
from antiphon.model.handlers import RouteSpec
from antiphon.runtime.runtime import Runtime
from antiphon.store.base import SqlStore

Run = Callable[[Request], Awaitable[Response]]

_CALL = "antiphon_call"
_ACCEPTED = {
    "description": "Accepted: published, durable, and on its way. `events` tells what has become of it, "
    "`stream` (server-sent events) what happens next.",
    "headers": {"Location": {"description": "The same as `events`", "schema": {"type": "string"}}},
    "content": {
        "application/json": {
            "schema": {
                "title": "Accepted",
                "type": "object",
                "required": ["event_id", "correlation_id", "events", "stream"],
                "properties": {name: {"type": "string"} for name in ("event_id", "correlation_id", "events", "stream")},
                "additionalProperties": True,
            }
        }
    },
}
_KEY_PARAMETER = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "description": "The same key with the same request takes effect once and is answered the same.",
    "schema": {"type": "string", "minLength": 1, "maxLength": LONGEST_KEY},
}


def service_routes(specs: list[RouteSpec], runtime: Runtime, relay: Relay) -> APIRouter:
    """A router with all of *specs*: those of services that run here, and those that *relay* passes on.

    Raises DeclarationError if two services answer the same method and path.
    """
    router = APIRouter()
    caller, idempotency = Caller(runtime), Idempotency()
    taken: dict[tuple[str, str], RouteSpec] = {}
    for spec in specs:
        other = taken.setdefault((spec.method, spec.path), spec)
        if other is not spec:
            raise DeclarationError(
                f"{spec.method} {spec.path} is answered by service {other.service!r} too",
                where=spec.source,
                mend=f"Give one of them another path; the other is declared at {other.source}",
            )
        if spec.service in runtime.stores:
            route_class = _local(spec, runtime.store_of(spec.service), caller, idempotency)
        else:
            route_class = _remote(spec, relay)
        router.add_api_route(
            spec.path, _endpoint(spec), methods=[spec.method], route_class_override=route_class, **_options(spec)
        )
    return router


def _endpoint(spec: RouteSpec) -> Callable[..., Awaitable[Any]]:
    """The route's function as FastAPI calls it: what the runtime gives is taken out of its signature."""

    async def endpoint(**given: Any) -> Any:
        call = given.pop(_CALL)
        return await call.run(given)

    injected = {name for name, _ in spec.injected}
    plain = inspect.signature(spec.fn)
    parameters = [
        parameter.replace(annotation=spec.hints.get(name, parameter.annotation))
        for name, parameter in plain.parameters.items()
        if name not in injected
    ]
    parameters.append(inspect.Parameter(_CALL, inspect.Parameter.KEYWORD_ONLY, annotation=CurrentCall))
    returned = spec.hints.get("return", plain.return_annotation)
    endpoint.__name__ = getattr(spec.fn, "__name__", "route")
    endpoint.__doc__ = spec.fn.__doc__
    endpoint.__signature__ = plain.replace(  # type: ignore[attr-defined]
        parameters=parameters, return_annotation=None if returned is type(None) else returned
    )
    return endpoint


def _options(spec: RouteSpec) -> dict[str, Any]:
    """What FastAPI is told of the route: what its declaration says, and what we know."""
    options: dict[str, Any] = {"tags": [spec.service], **spec.options}
    responses = {**DOCUMENTED, **options.get("responses", {})}
    if spec.publishes:
        status = options.setdefault("status_code", 202)
        options.setdefault("response_model", None)
        responses = {status: _ACCEPTED, **responses}
    options["responses"] = responses
    if spec.method != "GET":
        extra = options.get("openapi_extra") or {}
        options["openapi_extra"] = {**extra, "parameters": [*extra.get("parameters", []), _KEY_PARAMETER]}
    return options


def _local(spec: RouteSpec, store: SqlStore, caller: Caller, idempotency: Idempotency) -> type[APIRoute]:
    """Routes that run the function here."""
    name = f"{spec.service} {spec.method} {spec.path}"

    async def answer(request: Request, run: Run) -> Response:
        return await idempotency.answer(store, name, request, lambda keep: caller.perform(spec, request, run, keep))

    return _answered_by(answer)


def _remote(spec: RouteSpec, relay: Relay) -> type[APIRoute]:
    """Routes of a service that runs in another process."""

    async def answer(request: Request, run: Run) -> Response:
        return await relay.pass_on(spec.service, request)

    return _answered_by(answer)


def _answered_by(answer: Callable[[Request, Run], Awaitable[Response]]) -> type[APIRoute]:
    class Route(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Any]:
            run = super().get_route_handler()

            async def handle(request: Request) -> Response:
                return await answer(request, run)

            return handle

    return Route
