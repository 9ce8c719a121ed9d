"""Every broker keeps what the port of a bus promises, as far as it declares it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from antiphon.cli.main import main
from antiphon.testing.clock import VirtualClock
from antiphon.testing.conformance import BusCheck, bus_checks
from antiphon.testing.conformance.engines import Engine, buses_of
from tests.broker.engines import BROKERS, on_each, required

pytestmark = pytest.mark.anyio


@on_each
async def test_abilities(engine: Engine, tmp_path: Path) -> None:
    """A bus declares what the suite holds it to."""
    async with buses_of(engine, await required(engine)) as make:
        assert make(tmp_path, clock=VirtualClock(), owner="none").abilities == engine.abilities


@pytest.mark.parametrize(
    ("engine", "check"),
    [
        pytest.param(engine, check, id=f"{engine.name}-{check.__name__}")
        for engine in BROKERS
        for check in bus_checks(engine.abilities)
    ],
)
async def test_broker(engine: Engine, check: BusCheck, tmp_path: Path) -> None:
    """The promise in the check's own docstring."""
    async with buses_of(engine, await required(engine)) as make:
        await check(make, tmp_path)


def test_the_command_counts_what_passes_and_what_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    """Its last line is one object: an engine, and how many checks passed, failed and were skipped."""
    assert main(["conformance", "--engine", "sqlite", "--engine", "nats=nats://127.0.0.1:9", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(found) == ["sqlite", "nats"]
    assert found["sqlite"].pop("passed") > 50
    assert found["sqlite"] == {"failed": 0, "skipped": 0}
    assert found["nats"] == {"passed": 0, "failed": 0, "skipped": len(bus_checks(frozenset({"rereads"})))}


def test_an_engine_that_nobody_knows(capsys: pytest.CaptureFixture[str]) -> None:
    """The error names those that there are."""
    assert main(["conformance", "--engine", "abacus"]) == 2
    assert "There are: sqlite, postgres, nats, redis, rabbitmq, sqs" in capsys.readouterr().err
