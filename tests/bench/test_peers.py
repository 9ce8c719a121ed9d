"""The benchmark beside the peers: its driver with what every checkout has, and the page that is made of its results."""

import json
import re
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers import __main__ as command
from benchmarks.peers import page, processes, run
from benchmarks.peers.catalogue import CATALOGUE
from benchmarks.peers.environment import HERE, REQUIREMENTS
from benchmarks.peers.ledger import Audit, Ledger

STEADY = {
    "events": 1000,
    "missing": 0,
    "rate": 1000.0,
    "cpu_us": 50.0,
    "server_cpu_us": 0.0,
    "memory_mib": 40.0,
    "server_memory_mib": 0.0,
    "latency_rate": 100.0,
    "p50_ms": 2.0,
    "p99_ms": 8.0,
}
KILL = {"kills": 5, "published": 1000, "lost": 0, "doubled": 0, "counted": 0}


def results_of(**systems: dict[str, Any]) -> dict[str, Any]:
    """Results as a run keeps them, with these systems."""
    return {
        "date": "2026-01-02",
        "machine": {"cores": 2, "system": "Linux", "python": "3.11.7", "sqlite": "3.40.1", "load": 0.1},
        "plan": run.FULL,
        "libraries": {"celery": "5.6.3"},
        "servers": {"redis": "7.0.15"},
        "systems": systems,
        "absent": {},
    }


def started_for(folder: Path) -> Iterator[int]:
    """The processes that have been told to work in *folder*."""
    for each in processes.processes():
        with suppress(OSError):  # it has just ended
            if bytes(folder) in Path("/proc", str(each.pid), "environ").read_bytes():
                yield each.pid


def test_the_page_is_what_the_kept_results_say() -> None:
    """Page and chart are written from results.json, byte for byte: ``python -m benchmarks.peers --page``."""
    results = json.loads(command.RESULTS.read_text(encoding="utf-8"))
    assert command.PAGE.read_text(encoding="utf-8") == page.markdown(results)
    assert command.CHART.read_text(encoding="utf-8") == page.chart(results)


def test_the_driver_measures_and_kills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Antiphon and the limit run anywhere: rate, latency, CPU, memory; a killed worker loses and doubles nothing."""
    monkeypatch.chdir(tmp_path)
    results = run.run(["antiphon_sqlite", "limit"], {"seconds": 0.2, "rate": 200.0, "kills": 1}, sys.executable)
    ours = results["systems"]["antiphon_sqlite"]
    assert ours["steady"]["missing"] == 0
    assert ours["steady"]["rate"] > 0
    assert 0 < ours["steady"]["p50_ms"] <= ours["steady"]["p99_ms"]
    assert ours["steady"]["cpu_us"] > 0
    assert ours["steady"]["memory_mib"] > 1
    assert ours["kill"]["kills"] == 1
    assert ours["kill"]["published"] >= 200
    assert (ours["kill"]["lost"], ours["kill"]["doubled"], ours["kill"]["counted"]) == (0, 0, 0)
    assert results["systems"]["limit"]["loop"]["rate"] > 0
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_here_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system without its libraries, or without its server, is absent in results, table and page, with the reason."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "benchmarks.peers.environment.inventory",
        lambda python: {"libraries": {"celery": "5.6.3", "redis": "8.1.0"}, "servers": {}},
    )
    results = run.run(["celery_redis", "dbos_sqlite"], run.QUICK, sys.executable)
    assert results["absent"] == {
        "celery_redis": "Redis does not answer",
        "dbos_sqlite": "not installed: dbos, sqlalchemy",
    }
    for shown in (page.text(results), page.markdown(results)):
        assert "Celery, Redis: absent, Redis does not answer." in shown
        assert "DBOS, SQLite: absent, not installed: dbos, sqlalchemy." in shown


def test_a_system_that_breaks_is_shown_with_its_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A phase that fails ends that system, says why, and leaves the others alone."""
    monkeypatch.chdir(tmp_path)
    results = run.run(["limit"], {"kills": 1, "rate": 1.0}, sys.executable)
    assert results["systems"]["limit"]["failed"] == "loop: KeyError: 'seconds'"
    assert "Hand-written limit, SQLite: loop: KeyError: 'seconds'" in page.text(results)


def test_a_system_that_takes_too_long_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is shown as failed, and nothing of it is left: neither its process, nor its worker, nor its files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(run._WITHIN_S, "kill", 3)
    results = run.run(["antiphon_processes"], {"seconds": 0.1, "rate": 10.0, "kills": 10_000}, sys.executable)
    assert "timed out after 3 seconds" in results["systems"]["antiphon_processes"]["failed"]
    assert list(tmp_path.iterdir()) == []
    assert not list(started_for(tmp_path))


def test_lost_and_doubled_orders_are_found(tmp_path: Path) -> None:
    """The audit counts each order's row, and what was added to it more than once; warm-up orders are no part of it."""
    path = str(tmp_path / "effects.db")
    ledger = Ledger(path)
    ledger.prepare()
    with sqlite3.connect(path) as connection:
        rows = [("kill-00001", 1, 5), ("kill-00002", 3, 15), ("warm-00001", 2, 10)]
        connection.executemany("INSERT INTO accounts VALUES (?, ?, ?)", rows)
        connection.execute("UPDATE totals SET billed = 7")
    connection.close()
    assert ledger.audit() == Audit(billed=2, doubled=2, counted=7)
    ledger.close()


def test_the_page_says_where_others_are_better_and_what_kills_cost() -> None:
    """A faster, leaner or quicker peer is named for that figure; lost and doubled orders are shown and coloured."""
    results = results_of(
        antiphon_sqlite={"fsync_ms": 0.3, "steady": STEADY, "kill": KILL},
        celery_redis={
            "fsync_ms": 0.5,
            "steady": STEADY | {"rate": 2000.0, "p50_ms": 1.0, "cpu_us": 90.0, "memory_mib": 90.0},
            "kill": KILL | {"lost": 3, "counted": -3},
        },
        dramatiq_redis={"fsync_ms": 0.5, "steady": STEADY | {"rate": 500.0}, "kill": KILL | {"doubled": 4}},
    )
    shown = page.markdown(results)
    assert "- Events/s: Celery, Redis (2,000); Antiphon 1,000." in shown
    assert "- Latency p50, ms: Celery, Redis (1.00); Antiphon 2.00." in shown
    assert "- Memory, MiB: nobody that was measured here; Antiphon 40." in shown
    assert "3 lost, 0 doubled of 1,000" in shown
    assert "(celery 5.6.3, Redis 7.0.15)" in shown
    assert shown.index("| Celery, Redis |") < shown.index("| **Antiphon, SQLite** |") < shown.index("| dramatiq")
    colours = re.findall(r'height="16" fill="(#\w+)"', page.chart(results))
    assert colours == ["#b3392f", "#2a7f62", "#c98a1b"]


def test_every_system_has_a_file_and_pinned_libraries() -> None:
    """The catalogue, the files and the pins agree; no index host is named in the pins."""
    pins = REQUIREMENTS.read_text(encoding="utf-8")
    assert "://" not in pins
    assert "--index" not in pins
    for name, entry in CATALOGUE.items():
        assert (HERE / "systems" / f"{name}.py").is_file()
        for library in entry.libraries:
            assert library == "antiphon" or re.search(rf"^{library}==", pins, re.MULTILINE), library


def test_a_part_of_a_run_is_not_kept(capsys: pytest.CaptureFixture[str]) -> None:
    """--save with --only, and a system that there is not, are usage errors."""
    for arguments in (["--save", "--only", "limit"], ["--only", "kafka"]):
        with pytest.raises(SystemExit) as exit_:
            command.main(arguments)
        assert exit_.value.code == 2
    assert "there are antiphon_sqlite" in capsys.readouterr().err
