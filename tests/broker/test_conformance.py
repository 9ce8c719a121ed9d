"""Every broker keeps what the port of a bus promises, as far as it declares it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from antiphon.testing.clock import VirtualClock
from antiphon.testing.conformance import BusCheck, bus_checks
from tests.broker.engines import ENGINES, Engine, Made

pytestmark = pytest.mark.anyio


@pytest.fixture
async def made(engine: Engine) -> AsyncIterator[Made]:
    """A factory of buses on a broker."""
    engine.require()
    made = Made(engine)
    yield made
    await made.clean()


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
async def test_abilities(engine: Engine, made: Made, tmp_path: Path) -> None:
    """A bus declares what the suite holds it to."""
    assert made(tmp_path, clock=VirtualClock(), owner="none").abilities == engine.abilities


@pytest.mark.parametrize(
    ("engine", "check"),
    [
        pytest.param(engine, check, id=f"{engine.name}-{check.__name__}")
        for engine in ENGINES
        for check in bus_checks(engine.abilities)
    ],
)
async def test_broker(engine: Engine, check: BusCheck, made: Made, tmp_path: Path) -> None:
    """The promise in the check's own docstring."""
    await check(made, tmp_path)
