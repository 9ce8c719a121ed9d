"""Passes requests on to the process that runs the service, so that one address serves all of them."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import anyio
import httpx
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from antiphon.gateway.neighbours import Neighbour, Neighbours
from antiphon.gateway.problems import refusal

log = logging.getLogger("antiphon.gateway")

#: Marks a request that has been passed on: it is not passed on again.
HOP = "antiphon-hop"
_RETRY_AFTER_S = 1
_CONNECT_S = 2.0
_CONNECTIONS = 512
# An answer of up to so many bytes is taken in whole before it is passed on.
_WHOLE = 64 << 10
# RFC 9110, 7.6.1, and what is the connection's in practice. Date is added by our own server.
_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_Headers = list[tuple[bytes, bytes]]


class Relay:
    """A reverse proxy to neighbours. Bodies stream both ways, short answers excepted."""

    def __init__(self, neighbours: Neighbours, owner: str) -> None:
        self._neighbours = neighbours
        self._owner = owner
        self._client: httpx.AsyncClient | None = None

    async def pass_on(self, service: str, request: Request) -> Response:
        """The answer of a process that runs *service*.

        Raises HTTPException 503 if none does, 502 if the one that was asked broke off.
        """
        if HOP not in request.headers:
            for neighbour in await self._neighbours.serving(service):
                try:
                    return await _answer_of(await self._send(neighbour, request))
                except httpx.ConnectError:
                    log.warning("%s does not answer at %s", service, neighbour.url)
                except httpx.TransportError as error:
                    log.warning("%s broke off at %s: %s", service, neighbour.url, error)
                    raise refusal(502, f"Service {service} broke off.", kind="service-broke-off", service=service)  # noqa: B904
        raise refusal(
            503,
            f"Service {service} does not run at the moment.",
            kind="service-not-running",
            headers={"Retry-After": str(_RETRY_AFTER_S)},
            service=service,
        )

    async def _send(self, neighbour: Neighbour, request: Request) -> httpx.Response:
        path, query = request.scope["raw_path"].partition(b"?")[0].decode("ascii"), request.url.query
        headers = _end_to_end(request.headers.raw)
        has_body = "content-length" in request.headers or "transfer-encoding" in request.headers
        passed = httpx.Request(
            request.method,
            neighbour.url + path + (f"?{query}" if query else ""),
            headers=[*headers, (HOP.encode(), self._owner.encode())],
            content=request.stream() if has_body else None,
        )
        return await self._connected().send(passed, stream=True)

    def _connected(self) -> httpx.AsyncClient:
        if self._client is None:
            self._client = httpx.AsyncClient(
                trust_env=False,
                # How long an answer may take is the client's to say, and a stream has no end.
                timeout=httpx.Timeout(None, connect=_CONNECT_S, pool=_CONNECT_S),
                limits=httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=32),
            )
        return self._client

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None


async def _answer_of(upstream: httpx.Response) -> Response:
    """The answer to pass on. Of a short one all has to have come: if it breaks off, the client can still be told so.

    Raises httpx.TransportError.
    """
    size = upstream.headers.get("content-length", "")
    if not size.isdigit() or int(size) > _WHOLE:
        return _Relayed(upstream)
    try:
        whole = Response(b"".join([part async for part in upstream.aiter_raw()]), upstream.status_code)
    finally:
        with anyio.CancelScope(shield=True):
            await upstream.aclose()
    whole.raw_headers = _headers_of(upstream)
    return whole


class _Relayed(StreamingResponse):
    """Another process's long or endless answer, as it comes."""

    def __init__(self, upstream: httpx.Response) -> None:
        super().__init__(upstream.aiter_raw(), upstream.status_code)
        self.raw_headers = _headers_of(upstream)
        self._upstream = upstream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            with anyio.CancelScope(shield=True):
                await self._upstream.aclose()


def _headers_of(upstream: httpx.Response) -> _Headers:
    return [pair for pair in _end_to_end(upstream.headers.raw) if pair[0].lower() != b"date"]


def _end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> _Headers:
    """*headers* without those that are the connection's own."""
    raw = list(headers)
    named = {
        name.strip().lower() for header, value in raw if header.lower() == b"connection" for name in value.split(b",")
    }
    return [(name, value) for name, value in raw if name.lower() not in _HOP_BY_HOP | named]
