"""``kill -9`` at random moments, for real: nothing acknowledged is lost, nothing takes effect twice, order holds."""

import random
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import pytest

from tests.crash.audits import DEAD_LETTERS, findings, reading
from tests.crash.shop import EFFECTS, KEYS, effects_of
from tests.examples.kit import CHECKOUT

KILLS = 12


def start(data: Path, *arguments: object) -> "subprocess.Popen[str]":
    """A victim process."""
    command = [sys.executable, "-m", "tests.crash.victim", str(data), *map(str, arguments)]
    return subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True)


def acknowledged_until_killed(process: "subprocess.Popen[str]", lines: int) -> list[int]:
    """The numbers that the victim acknowledged; it is killed after so many *lines*."""
    acknowledged = []
    with process:
        assert process.stdout is not None
        for count, line in enumerate(process.stdout):
            if count == lines:
                process.kill()
            if line.endswith("\n") and line.strip() != "ready":
                acknowledged.append(int(line))
    return acknowledged


def run_to_the_end(data: Path, *arguments: object) -> int:
    """Run a victim that only handles what is left; its exit code."""
    with start(data, *arguments) as process:
        process.communicate(timeout=60)
        return process.returncode


def audit(data: Path, acknowledged: Collection[int]) -> None:
    """Each order that was acknowledged took each effect once, and each customer's in order."""
    for service, table in EFFECTS.items():
        shared = data / "shop.db"
        path = data / f"{service}.db"
        with reading(path if path.exists() else shared) as connection:
            found = connection.execute(f"SELECT customer, n FROM {table} ORDER BY id").fetchall()
        assert not effects_of(table, found)
        assert set(acknowledged) <= {n for _, n in found}, f"lost in {table}"


@pytest.mark.parametrize("layout", ["shared", "own"])
def test_random_kills_lose_nothing_and_repeat_nothing(tmp_path: Path, layout: str) -> None:
    """A dozen kills at random moments under load, then a run to the end, then an audit of the databases."""
    chance = random.Random(20261121)
    acknowledged: list[int] = []
    for _ in range(KILLS):
        first = max(acknowledged, default=-1) // KEYS * KEYS + 10 * KEYS
        process = start(tmp_path, layout, first)
        acknowledged += acknowledged_until_killed(process, chance.randrange(1, 400))
    assert run_to_the_end(tmp_path, layout, -1) == 0
    assert len(acknowledged) > 10 * KILLS
    assert not findings(tmp_path)
    audit(tmp_path, acknowledged)


def test_an_event_that_kills_its_process_is_found_and_set_aside(tmp_path: Path) -> None:
    """The killer ends FAILED with every crash on record; no neighbour is blamed, and the rest is handled."""
    killer = 203
    acknowledged = acknowledged_until_killed(start(tmp_path, "shared", 0, killer), 100_000)
    runs = next(run for run in range(1, 15) if run_to_the_end(tmp_path, "shared", -1, killer) == 0)
    assert 2 <= runs <= 12
    dead = (
        "SELECT status, reason, json_extract(data, '$.n'), fingerprint"
        " FROM antiphon_deliveries JOIN antiphon_log USING (seq)"
    )
    with reading(tmp_path / "shop.db") as connection:
        ((status, reason, number, fingerprint),) = connection.execute(dead).fetchall()
        outcomes = {outcome for (outcome,) in connection.execute("SELECT outcome FROM antiphon_attempts")}
    assert (status, number) == ("FAILED", killer)
    assert "process died" in reason
    assert "ProcessDied" in fingerprint
    assert outcomes <= {"crashed", "completed"}
    assert findings(tmp_path) == {DEAD_LETTERS: 1}
    audit(tmp_path, set(acknowledged) - {killer})
