"""``kill -9`` at random moments, for real: nothing acknowledged is lost, nothing takes effect twice, order holds."""

import random
import sqlite3
import subprocess
import sys
from collections.abc import Set as AbstractSet
from pathlib import Path

import pytest

VICTIM = Path(__file__).with_name("victim.py")
KILLS = 12


def start(data: Path, *arguments: object) -> "subprocess.Popen[str]":
    """A victim process."""
    command = [sys.executable, str(VICTIM), str(data), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


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


def rows(path: Path, sql: str) -> list[tuple[object, ...]]:
    """Rows of a database file."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def audit(bills: Path, counts: Path, acknowledged: list[int], lost: AbstractSet[int] = frozenset()) -> None:
    """Every acknowledged order has one bill and one count; per customer both are in order."""
    for path, table in ((bills, "bills"), (counts, "counted")):
        found = [
            (str(customer), int(str(n))) for customer, n in rows(path, f"SELECT customer, n FROM {table} ORDER BY id")
        ]
        numbers = [n for _, n in found]
        assert len(numbers) == len(set(numbers)), f"twice in {table}"
        assert set(acknowledged) - set(numbers) <= lost, f"lost in {table}"
        assert not lost & set(numbers), f"took effect in {table}"
        for customer in {customer for customer, _ in found}:
            in_order = [n for name, n in found if name == customer]
            assert in_order == sorted(in_order), f"order of {customer} in {table}"
        assert rows(path, "PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize("layout", ["shared", "own"])
def test_random_kills_lose_nothing_and_repeat_nothing(tmp_path: Path, layout: str) -> None:
    """A dozen kills at random moments under load, then a run to the end, then an audit of the databases."""
    chance = random.Random(20261121)
    acknowledged: list[int] = []
    for _ in range(KILLS):
        first = max(acknowledged, default=-1) // 5 * 5 + 50
        process = start(tmp_path, layout, first)
        acknowledged += acknowledged_until_killed(process, chance.randrange(1, 400))
    assert run_to_the_end(tmp_path, layout, -1) == 0
    assert len(acknowledged) > 10 * KILLS
    if layout == "own":
        audit(tmp_path / "billing.db", tmp_path / "counter.db", acknowledged)
    else:
        audit(tmp_path / "victim.db", tmp_path / "victim.db", acknowledged)


def test_an_event_that_kills_its_process_is_found_and_set_aside(tmp_path: Path) -> None:
    """The killer ends FAILED with every crash on record; no neighbour is blamed, and the rest is handled."""
    killer = 203
    acknowledged = acknowledged_until_killed(start(tmp_path, "shared", 0, killer), 100_000)
    path = tmp_path / "victim.db"
    runs = next(run for run in range(1, 15) if run_to_the_end(tmp_path, "shared", -1, killer) == 0)
    assert 2 <= runs <= 12
    dead = rows(
        path,
        "SELECT status, crashes, reason, json_extract(data, '$.n') FROM antiphon_deliveries JOIN"
        " antiphon_log USING (seq)",
    )
    assert [(row[0], row[3]) for row in dead] == [("FAILED", killer)]
    assert "process died" in str(dead[0][2])
    audit(path, path, acknowledged, lost={killer})
