"""The chain over a broker, beside a loop by hand: that it is measured. How fast is no test's business."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from antiphon.testing.conformance.engines import ENGINES
from benchmarks.engines.lines import LINES
from tests.conftest import require


@pytest.mark.anyio
@pytest.mark.parametrize("name", sorted(LINES))
async def test_both_go_through_the_whole_chain(name: str) -> None:
    """Antiphon and the loop each bring all orders to their end, over the broker's own client."""
    (engine,) = [each for each in ENGINES if each.name == name]
    async with engine.reached() as url:
        require(name, url is not None)
    command = [sys.executable, "-m", "benchmarks.engines", "--engine", name, "--events", "512", "--rounds", "1"]
    done = subprocess.run(
        [*command, "--no-peers", "--json"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found["events_per_second"]) == {"hand", "ours"}
    assert all(found["events_per_second"].values())
    assert found["of_by_hand"] > 0
