"""``kill -9`` around calls to the outside, at each point where something has just become durable or has not."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.crash.audits import reading

CALLER = Path(__file__).with_name("caller.py")


def rows(path: Path, sql: str) -> list[tuple[object, ...]]:
    """What is committed."""
    with reading(path) as connection:
        return [tuple(row) for row in connection.execute(sql)]


def call(data: Path, point: str) -> int:
    """Run the caller until it dies at *point* or has nothing left to do; its exit code."""
    command = [sys.executable, str(CALLER), str(data), str(data / "bank.txt"), point]
    return subprocess.run(command, timeout=60, check=False).returncode


@pytest.mark.parametrize(
    ("point", "lines", "parked"),
    [
        ("intended", {"verify": 1, "repeat": 1, "park": 0}, True),
        ("called", {"verify": 1, "repeat": 2, "park": 1}, True),
        ("returned", {"verify": 1, "repeat": 2, "park": 1}, True),
        ("none", {"verify": 1, "repeat": 1, "park": 1}, False),
    ],
)
def test_a_kill_around_a_call_repeats_nothing_blindly(
    tmp_path: Path, point: str, lines: dict[str, int], parked: bool
) -> None:
    """What can be verified is made once, what is recognised may be repeated, all else is parked for a person."""
    if point != "none":
        assert call(tmp_path, point) == -9
    assert call(tmp_path, "none") == 0
    ledger = (tmp_path / "bank.txt").read_text().split()
    assert {name: ledger.count(name) for name in lines} == lines
    store = tmp_path / "caller.db"
    states = {str(handler): state for handler, state in rows(store, "SELECT handler, state FROM antiphon_effects")}
    assert states == {
        "payment.verify": "DONE",
        "payment.repeat": "DONE",
        "payment.park": "AMBIGUOUS" if parked else "DONE",
    }
    done = ["repeat", "verify"] if parked else ["park", "repeat", "verify"]
    assert rows(store, "SELECT handler, result FROM receipts ORDER BY handler") == [
        (name, f"receipt of {name}") for name in done
    ]
    dead = [("payment.park", "FAILED")] if parked else []
    assert rows(store, "SELECT HANDLER, STATUS FROM antiphon_dead_letters") == dead
