"""``POST /events``: CloudEvents from outside. What cannot be read is refused, and kept with its bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from starlette.requests import Request

from antiphon.app import App
from antiphon.errors import InvalidEvent, PayloadTooLarge, Undecodable
from antiphon.gateway.problems import DOCUMENTED, refusal
from antiphon.model.envelope import Envelope
from antiphon.ports import PUBLISHED, RECEIVED
from antiphon.runtime.runtime import GATEWAY, Runtime
from antiphon.store.bus import LogBus
from antiphon.store.quarantine import quarantine
from antiphon.wire import BATCH, STRUCTURED, from_http

_CLOUD_EVENT = {
    "title": "CloudEvent",
    "type": "object",
    "required": ["specversion", "id", "source", "type"],
    "properties": {name: {"type": "string"} for name in ("specversion", "id", "source", "type", "subject", "time")},
}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            STRUCTURED: {"schema": _CLOUD_EVENT},
            BATCH: {"schema": {"type": "array", "items": _CLOUD_EVENT}},
            "application/json": {"schema": {"description": "The data; the attributes are headers, ce-..."}},
        },
    }
}


class Ingress:
    """Takes events of the types that the app knows. An id that was taken before does nothing."""

    def __init__(self, app: App, runtime: Runtime) -> None:
        self._app = app
        self._runtime = runtime
        self._sending = asyncio.Lock()

    async def take(self, request: Request) -> list[Envelope]:
        """Append the events of *request*, all or none; durable on return.

        Raises HTTPException 400 for what is no CloudEvent, 422 for an unknown type and for broken data;
        what cannot be read is kept as a dead letter.
        """
        body = await request.body()
        now_ms = self._runtime.clock.now_ms()
        try:
            envelopes = from_http(request.headers, body, received_ms=now_ms, limit=self._runtime.max_payload)
            for number, envelope in enumerate(envelopes):
                self._check(envelope, f"$[{number}]" if len(envelopes) > 1 else "$")
        except PayloadTooLarge:
            raise
        except InvalidEvent as error:
            kept = await quarantine(self._runtime.logs[0], "gateway", body, error)
            status, kind = (400, "undecodable") if isinstance(error, Undecodable) else (422, "invalid-event")
            raise refusal(
                status,
                f"{error.field}: {error.reason}",
                kind=kind,
                event=error.type_name,
                field=error.field,
                reason=error.reason,
                dead_letter=kept,
            ) from error
        await self._append(envelopes)
        return envelopes

    def _check(self, envelope: Envelope, path: str) -> None:
        event_type = self._app.event_types.get(envelope.type)
        if event_type is None:
            reason = f"nothing here knows events of type {envelope.type!r:.100}"
            raise refusal(422, reason, kind="unknown-type", field=f"{path}.type", reason=reason)
        if self._runtime.bus is not None and envelope.service in self._app.services:
            reason = f"{envelope.service!r} is a service of this app, which publishes its events itself"
            raise refusal(422, reason, kind="own-source", field=f"{path}.source", reason=reason)
        event_type.decode(envelope.data, envelope.version)

    async def _append(self, envelopes: Sequence[Envelope]) -> None:
        bus = self._runtime.bus
        if isinstance(bus, LogBus):
            async with self._sending:
                await _send(bus, envelopes)
            return
        # Beside another bus the gateway has a log, and an outlet that sends what is published in it.
        origin = RECEIVED if bus is None else PUBLISHED
        async with self._runtime.logs[-1].unit() as unit:
            await unit.append([(envelope, origin) for envelope in envelopes])


async def _send(bus: LogBus, envelopes: Sequence[Envelope]) -> None:
    """Send through the bus: a gateway may have no store. Its position only counts the batches."""
    while True:
        position = await bus.position(GATEWAY)
        if await bus.send(GATEWAY, position, position + 1, envelopes) == position + 1:
            return


def ingress_routes(app: App, runtime: Runtime) -> APIRouter:
    """The route that takes events from outside."""
    router = APIRouter(tags=["events"], responses=DOCUMENTED)
    ingress = Ingress(app, runtime)

    @router.post("/events", status_code=202, openapi_extra=_BODY)
    async def receive(request: Request) -> JSONResponse:
        """Takes CloudEvents, structured, batched or binary, in JSON; 202 once they are durable."""
        envelopes = await ingress.take(request)
        taken = [{"event_id": each.id, "correlation_id": each.correlation_id} for each in envelopes]
        return JSONResponse({"accepted": taken}, 202)

    return router
