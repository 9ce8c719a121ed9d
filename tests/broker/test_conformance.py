"""Every broker keeps what the port of a bus promises, as far as it declares it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from antiphon.cli.main import main
from antiphon.testing.clock import VirtualClock
from antiphon.testing.conformance.engines import ENGINES, Engine, buses_of
from antiphon.testing.conformance.lines import BUS_LINE_CHECKS
from antiphon.testing.emulators import MiniStack
from tests.broker.engines import BROKERS, on_each, required
from tests.conformance.kit import check_called, promises
from tests.servers import engine_called

pytestmark = pytest.mark.anyio
BY_LINE = {check.__name__ for check in BUS_LINE_CHECKS}
SHORT = ("--backlog", "1000", "--json")


def make_impatient(monkeypatch: pytest.MonkeyPatch, engine: Engine) -> None:
    """A broker that says nothing is given up sooner than in life; what SQS gave to a line that broke comes sooner."""
    if engine.server is MiniStack:
        monkeypatch.setattr("antiphon.broker.queues._VISIBLE_S", 4)
        monkeypatch.setattr("antiphon.broker.queues._EXTEND_EVERY_S", 1)
    for name, module in list(sys.modules.items()):
        if name.startswith("antiphon.broker.") and hasattr(module, "PATIENCE_S"):
            monkeypatch.setattr(module, "PATIENCE_S", 2.0)


@on_each
async def test_abilities(engine: Engine, tmp_path: Path) -> None:
    """A bus declares what the suite holds it to."""
    async with buses_of(engine, await required(engine)) as make:
        assert make(tmp_path, clock=VirtualClock(), owner="none").abilities == engine.abilities


@pytest.mark.parametrize(("engine", "name"), promises(BROKERS))
async def test_broker(engine: Engine, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The promise in the check's own docstring."""
    if name in BY_LINE:
        make_impatient(monkeypatch, engine)
    await check_called(name, engine, await required(engine))(tmp_path)


def test_the_command_counts_what_passes_and_what_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    """Its last line is one object: an engine, and how many checks passed, failed and were skipped."""
    assert main(["conformance", "--engine", "sqlite", "--engine", "nats=nats://127.0.0.1:9", *SHORT]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(found) == ["sqlite", "nats"]
    assert found["sqlite"].pop("passed") > 50
    assert found["sqlite"] == {"failed": 0, "skipped": 0}
    assert found["nats"] == {"passed": 0, "failed": 0, "skipped": len(engine_called("nats").checks("", 1))}


def test_an_engine_that_nobody_knows(capsys: pytest.CaptureFixture[str]) -> None:
    """The error names those that there are."""
    assert main(["conformance", "--engine", "abacus"]) == 2
    told = capsys.readouterr().err
    assert f"There are: {', '.join(engine.name for engine in ENGINES)}" in told
