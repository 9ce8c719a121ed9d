"""A request to a gateway without a socket: ASGI, called directly."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.types import ASGIApp

_JSON = b"application/json"


class Answer(msgspec.Struct, frozen=True):
    """What a gateway answered. *headers* have lower-case names."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, decoded."""
        return msgspec.json.decode(self.body)


async def ask(
    gateway: ASGIApp, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> Answer:
    """The answer of *gateway* to a request. *path* may have a query; a *body* is JSON unless a header says what."""
    route, _, query = path.partition("?")
    sent = {name.lower(): value for name, value in (headers or {}).items()}
    raw = [
        (b"host", b"simulated"),
        *((name.encode("latin-1"), value.encode("latin-1")) for name, value in sent.items()),
    ]
    if body is not None:
        raw += [(b"content-length", str(len(body)).encode())]
        if "content-type" not in sent:
            raw.append((b"content-type", _JSON))
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": route,
        "raw_path": route.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": raw,
        "client": ("127.0.0.1", 1),
        "server": ("simulated", 80),
        "state": {},
    }
    given = [{"type": "http.request", "body": body or b"", "more_body": False}]
    status, found, parts = 500, {}, []

    async def receive() -> Any:
        if given:
            return given.pop()
        await asyncio.get_running_loop().create_future()  # the client stays until it has its answer

    async def send(message: Any) -> None:
        nonlocal status, found
        if message["type"] == "http.response.start":
            status = message["status"]
            found = {name.decode("latin-1"): value.decode("latin-1") for name, value in message.get("headers", ())}
        elif message["type"] == "http.response.body":
            parts.append(message.get("body", b""))

    await gateway(scope, receive, send)
    return Answer(status, {name.lower(): value for name, value in found.items()}, b"".join(parts))
