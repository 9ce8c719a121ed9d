"""The HTTP server: uvicorn inside the runtime's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import uvicorn
from starlette.types import ASGIApp

from antiphon.errors import AntiphonError

_LOOPBACK = "127.0.0.1"
_KEEP_ALIVE_S = 15
_HEADER_BYTES = 32 * 1024
_CONNECTIONS = 1024
_BACKLOG = 512


@dataclass(frozen=True)
class Address:
    """Where the gateway listens. *local* is its URL for other processes of this machine."""

    host: str
    port: int
    local: str

    @property
    def url(self) -> str:
        """The URL to open."""
        return _url(_LOOPBACK if self.host in ("0.0.0.0", "::") else self.host, self.port)  # noqa: S104


class _Server(uvicorn.Server):
    """Leaves signals to the process, and tells when it is ready."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


@asynccontextmanager
async def listening(
    app: ASGIApp, host: str, port: int, *, draining: Callable[[], None], grace_s: float, inherited: int | None = None
) -> AsyncIterator[Address]:
    """Serve *app* for the length of the block; a *port* of 0 is any that is free. *inherited* is the descriptor of a
    socket that listens already, for several processes.

    At the end no connection is taken any more, *draining* is called, and requests that run have *grace_s*
    to end. Raises AntiphonError if the address cannot be had.
    """
    sockets, address = _bind(host, listen(host, port) if inherited is None else socket.socket(fileno=inherited))
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(grace_s)),
        limit_concurrency=_CONNECTIONS,
        backlog=_BACKLOG,
        h11_max_incomplete_event_size=_HEADER_BYTES,
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets), name="gateway")
    ready = asyncio.create_task(server.ready.wait())
    try:
        await asyncio.wait([serving, ready], return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
        yield address
    finally:
        ready.cancel()
        draining()
        server.should_exit = True
        await serving


def _bind(host: str, public: socket.socket) -> tuple[list[socket.socket], Address]:
    bound: int = public.getsockname()[1]
    if host in (_LOOPBACK, "localhost", "0.0.0.0"):  # noqa: S104
        return [public], Address(host, bound, _url(_LOOPBACK, bound))
    if host in ("::1", "::"):
        return [public], Address(host, bound, _url("::1", bound))
    local = listen(_LOOPBACK, 0)  # other processes of this machine come by the loopback interface
    return [public, local], Address(host, bound, _url(_LOOPBACK, local.getsockname()[1]))


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections. Raises AntiphonError if the address cannot be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        taken = getattr(error, "errno", None) == errno.EADDRINUSE
        why = "another program listens there" if taken else str(error)
        raise AntiphonError(
            f"cannot listen: {why}", where=f"{host}:{port}", mend="Name another address, or port 0 for any free one"
        ) from error


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
