"""``antiphon bench`` measures and says so in one object. How fast is no test's business."""

import json
import subprocess
import sys
from pathlib import Path

from antiphon.bench.latency import quantile


def test_a_quick_run_has_every_figure(tmp_path: Path) -> None:
    """All parts run from any directory; the last line is one JSON object with the chain's rate, limit and ratio."""
    command = [sys.executable, "-m", "antiphon", "bench", "--quick", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    chain = figures["chain"]
    assert chain["events_per_second"] > 0
    assert chain["limit_events_per_second"] > 0
    assert 0 < chain["ratio"] < 5
    assert 0 < chain["file_per_service"]["ratio"] < 5
    assert figures["latency"]["p50_in_fsyncs"] <= figures["latency"]["p99_in_fsyncs"]
    assert 0 < figures["workflows"]["ratio"] < 5
    parts = {"chain", "latency", "publishing", "idle", "backlog", "workflows", "sleeping"}
    assert set(figures) == {"machine", *parts}
    assert list(tmp_path.iterdir()) == []


def test_a_backlog_takes_no_memory(tmp_path: Path) -> None:
    """Two handlers that have 50,000 events before them (some 50 MiB of objects) grow by a few of these at a time."""
    command = [
        sys.executable,
        "-m",
        "antiphon",
        "bench",
        "--quick",
        "--only",
        "backlog",
        "--backlog",
        "50000",
        "--json",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])["backlog"]
    assert found["depth"] == 50_000
    assert found["memory_growth_mib"] < 16


def test_sleeping_workflows_take_rows_and_no_memory(tmp_path: Path) -> None:
    """10,000 runs that sleep through a restart; the process grows by less than their starts alone would take."""
    command = [sys.executable, "-m", "antiphon", "bench", "--only", "sleeping", "--sleepers", "10000", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])["sleeping"]
    assert found["sleeping"] == 10_000
    assert found["memory_growth_mib"] < 16
    assert 0 <= found["late_p50_ms"] <= found["late_max_ms"]
    assert 0 <= found["within_50_ms"] <= 1


def test_an_unknown_part_is_a_usage_error(tmp_path: Path) -> None:
    """The parts that there are are named, and the exit code is that of usage errors."""
    command = [sys.executable, "-m", "antiphon", "bench", "--only", "speed"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "there are chain" in done.stderr


def test_quantiles() -> None:
    """The median of a hundred values is the fifty-first, the 0.99 quantile the last."""
    values = [float(n) for n in range(100)]
    assert quantile(values, 0.5) == 50.0
    assert quantile(values, 0.99) == 99.0
