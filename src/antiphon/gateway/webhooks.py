"""``POST /channels/<name>``: webhooks, taken durably before they are answered."""

from __future__ import annotations

import logging

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from starlette.requests import Request
from starlette.responses import Response

from antiphon.app import App
from antiphon.channel.mapping import Mapper
from antiphon.channel.webhook import Desk
from antiphon.errors import InvalidEvent
from antiphon.gateway.problems import DOCUMENTED, refusal
from antiphon.gateway.relay import Relay
from antiphon.model.channels import ChannelSpec
from antiphon.ports import PUBLISHED, RECEIVED
from antiphon.runtime.runtime import Runtime
from antiphon.store.quarantine import quarantine

log = logging.getLogger("antiphon.channel")


class Webhooks:
    """Takes what is sent to one channel that runs here."""

    def __init__(self, channel: ChannelSpec, runtime: Runtime) -> None:
        self._channel = channel
        self._runtime = runtime
        self._desk = Desk(channel)
        self._mapper = Mapper(channel, runtime.clock, runtime.max_payload)

    async def take(self, request: Request) -> list[str]:
        """Append what *request* holds, and return the ids; durable on return, and nothing if it was taken before.

        Raises HTTPException 401 for what is not signed, 422 for what cannot be read, which is kept as a dead letter.
        """
        body = await request.body()
        headers = {name.lower(): value for name, value in request.headers.items()}
        if not self._desk.is_signed(headers, body, self._runtime.clock.now_ms()):
            raise refusal(401, "its signature is missing, wrong or too old", kind="not-signed")
        store = self._runtime.store_of(self._channel.name)
        message = self._desk.message(headers, body)
        try:
            envelopes = self._mapper.envelopes(message)
        except InvalidEvent as error:
            log.error("channel %s sets a webhook aside: %s", self._channel.name, error)
            kept = await quarantine(store, self._channel.name, body, error)
            raise refusal(
                422,
                f"{error.field}: {error.reason}",
                kind="invalid-event",
                event=error.type_name,
                field=error.field,
                reason=error.reason,
                dead_letter=kept,
            ) from error
        origin = RECEIVED if self._runtime.bus is None else PUBLISHED
        async with store.unit() as unit:
            await unit.append([(envelope, origin) for envelope in envelopes])
        return [envelope.id for envelope in envelopes]


def webhook_routes(app: App, runtime: Runtime, relay: Relay) -> APIRouter:
    """A route for each channel of webhooks: those that run here, and those that *relay* passes on."""
    router = APIRouter(tags=["channels"], responses=DOCUMENTED)
    for channel in app.channels.values():
        if channel.url.startswith("webhook:"):
            _add(router, channel, runtime, relay)
    return router


def _add(router: APIRouter, channel: ChannelSpec, runtime: Runtime, relay: Relay) -> None:
    desk = Webhooks(channel, runtime) if channel.name in runtime.stores else None

    @router.post(f"/channels/{channel.name}", status_code=202, name=channel.name)
    async def receive(request: Request) -> Response:
        """Takes a signed webhook; 202 once it is durable."""
        if desk is None:
            return await relay.pass_on(channel.name, request)
        return JSONResponse({"accepted": await desk.take(request)}, 202)
