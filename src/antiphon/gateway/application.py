"""The gateway: one ASGI application for all routes of an app, and its server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from antiphon.app import App
from antiphon.gateway.limits import MAX_BODY
from antiphon.gateway.server import Address
from antiphon.runtime.runtime import Runtime


def build(app: App, runtime: Runtime, *, ingress: bool | None = None, max_body: int = MAX_BODY) -> FastAPI: ...


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
) -> AsyncIterator[Address]:
    """Serve the app's routes for the length of the block; yields the address bound (``.url``, ``.host``, ``.port``).

    ``async with app.run_in(data) as runtime, serve(app, runtime, port=0) as address: ...``
    """
    ...
    yield Address(host, port)
