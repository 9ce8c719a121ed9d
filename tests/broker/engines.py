"""The brokers that the tests use: engines that carry events and keep none of their own tables."""

from __future__ import annotations

import pytest

from antiphon.testing.conformance.engines import ENGINES, Engine
from tests.servers import url_of

BROKERS = [engine for engine in ENGINES if engine.stores is None]
KAFKA = next(engine for engine in BROKERS if engine.name == "kafka")
on_each = pytest.mark.parametrize("engine", BROKERS, ids=lambda engine: engine.name)


async def required(engine: Engine) -> str:
    """The URL of *engine*. Skips the test where it does not run; fails where everything must be there."""
    return await url_of(engine)
