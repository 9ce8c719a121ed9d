"""The servers that the tests use: those on their standard ports of this machine, otherwise one of each kind that the
tests start for themselves, and end when they do."""

from __future__ import annotations

import atexit

from antiphon.testing.conformance.engines import ENGINES, Engine
from antiphon.testing.servers import Server, listens_at
from tests.conftest import require

_started: dict[str, Server] = {}


def engine_called(name: str) -> Engine:
    """The engine of this name."""
    return next(engine for engine in ENGINES if engine.name == name)


async def url_of(engine: Engine) -> str:
    """The URL of *engine*. Skips the test where there is none; fails where everything must be there."""
    if engine.url is None:
        return ""
    if engine.name not in _started:
        if await listens_at(engine.url):
            return engine.url
        is_there = engine.server is not None and engine.server.is_there()
        require(f"{engine.name} at {engine.url.rpartition('@')[2]}", is_there)
        assert engine.server is not None
        server = engine.server()
        atexit.register(server.close)
        await server.start()
        _started[engine.name] = server
    return _started[engine.name].url
