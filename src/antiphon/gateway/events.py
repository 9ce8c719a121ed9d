"""``/events/{id}``: what has become of accepted work, and a stream of what happens to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Header
from fastapi.responses import StreamingResponse
from starlette.requests import Request
from starlette.responses import Response

from antiphon.gateway.history import History
from antiphon.gateway.problems import DOCUMENTED, refusal
from antiphon.model.views import DeliveryView, LoggedView
from antiphon.runtime.signals import Waker

#: So many may follow something at once.
MAX_STREAMS = 256
_HEARTBEAT_MS = 15_000
_RETRY_AFTER_S = 5


class Streams:
    """The streams that are open."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._open: set[Waker] = set()
        self._ended = False

    async def open(self, correlation_id: str, after: str) -> Response:
        """A response that streams the process from the place *after*. Raises HTTPException 503 for one too many."""
        if self._ended or len(self._open) >= MAX_STREAMS:
            raise refusal(
                503,
                "Too many streams are open.",
                kind="too-many-streams",
                headers={"Retry-After": str(_RETRY_AFTER_S)},
            )
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(self._stream(correlation_id, after), 200, headers, "text/event-stream")

    async def _stream(self, correlation_id: str, after: str) -> AsyncIterator[bytes]:
        with self._history.watching(correlation_id) as waker:
            self._open.add(waker)
            try:
                reader = await self._history.reader(correlation_id, after)
                while not self._ended:
                    waker.clear()
                    quiet = True
                    async for place, event in reader.read():
                        quiet = False
                        yield _message(place, event)
                    if quiet:
                        yield b": still here\n\n"
                    await waker.wait(_HEARTBEAT_MS)
            finally:
                self._open.discard(waker)

    def end(self) -> None:
        """End all streams; clients come back by themselves, and go on where they were."""
        self._ended = True
        for waker in self._open:
            waker.wake()


def _message(place: str, event: LoggedView) -> bytes:
    data = msgspec.json.encode(described(event))
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (place.encode(), event.type.encode(), data)


def described(event: LoggedView) -> dict[str, Any]:
    """An event as clients see it."""
    seen = {
        "id": event.id,
        "type": event.type,
        "version": event.version,
        "service": event.service,
        "key": event.key,
        "time": _time(event.time_ms),
        "causation_id": event.causation_id,
        "data": event.data,
    }
    return seen if event.raw is None else {**seen, "raw": event.raw.base64}


def _delivery(delivery: DeliveryView) -> dict[str, Any]:
    """A delivery as clients see it: no traceback."""
    return {
        "handler": delivery.handler,
        "service": delivery.service,
        "status": delivery.status,
        "attempts": delivery.attempts,
        "updated": _time(delivery.updated_ms),
        "reason": delivery.reason,
    }


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def event_routes(history: History, streams: Streams) -> APIRouter:
    """The routes of what has become of accepted work."""
    router = APIRouter(tags=["events"], responses=DOCUMENTED)

    @router.get("/events/{correlation_id}", response_model=None)
    async def events(correlation_id: str, request: Request) -> Response:
        """All events of one process, each right below the one that caused it, and their deliveries."""
        await _known(history, correlation_id)
        trace = await history.trace(correlation_id)
        found = [
            {**described(node.event), "depth": node.depth, "deliveries": [_delivery(each) for each in node.deliveries]}
            for node in trace.nodes
        ]
        stream = f"{request.scope.get('root_path', '')}/events/{correlation_id}/stream"
        body = {"correlation_id": correlation_id, "truncated": trace.truncated, "stream": stream, "events": found}
        return Response(msgspec.json.encode(body), media_type="application/json")

    @router.get(
        "/events/{correlation_id}/stream",
        response_model=None,
        response_class=StreamingResponse,
        responses={200: {"content": {"text/event-stream": {}}, "description": "Server-sent events"}},
    )
    async def stream(correlation_id: str, last_event_id: Annotated[str, Header()] = "") -> Response:
        """The same as server-sent events, from the beginning or after `Last-Event-ID`; it does not end."""
        await _known(history, correlation_id)
        return await streams.open(correlation_id, last_event_id)

    return router


async def _known(history: History, correlation_id: str) -> None:
    if not await history.exists(correlation_id):
        raise refusal(404, f"No process {correlation_id} is known.", kind="unknown-process")
