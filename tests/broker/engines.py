"""The brokers that the tests use: those on their standard ports of this machine."""

from __future__ import annotations

import pytest

from antiphon.testing.conformance.engines import ENGINES, Engine
from tests.conftest import require

BROKERS = [engine for engine in ENGINES if engine.url is not None]
on_each = pytest.mark.parametrize("engine", BROKERS, ids=lambda engine: engine.name)


async def required(engine: Engine) -> str:
    """The URL of *engine*. Skips the test where it does not run; fails where everything must be there."""
    assert engine.url is not None
    require(f"{engine.name} at {engine.url.rpartition('@')[2]}", await engine.listens())
    return engine.url
