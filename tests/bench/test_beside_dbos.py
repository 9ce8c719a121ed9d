"""The benchmark beside DBOS: its driver. What DBOS itself does is no test's business."""

from pathlib import Path

import pytest

from benchmarks.dbos import __main__ as beside


def test_what_is_absent_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an environment for DBOS the others are measured, and the table says why it is not there."""

    def no_environment(absent: dict[str, str]) -> None:
        absent["environment"] = "no network"

    monkeypatch.setattr(beside, "_environment", no_environment)
    monkeypatch.chdir(tmp_path)
    found = beside.measure("postgresql://nobody@127.0.0.1:1/none", rounds=1, quick=True)
    assert list(found["measured"]) == ["Antiphon, SQLite", "by hand, SQLite, the same rows"]
    assert found["absent"] == {setting.title: "no network" for setting in beside.SETTINGS}
    lines = beside.table(found).splitlines()
    assert "| 1.00 times |" in lines[2]
    assert lines[-1].endswith("| absent: no network | | |")
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_does_not_answer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a job says last on its way down is the reason."""
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho tried >&2\necho connection refused >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(beside, "_environment", lambda absent: broken)
    monkeypatch.chdir(tmp_path)
    found = beside.measure("postgresql://nobody@127.0.0.1:1/none", rounds=1, quick=True)
    assert found["absent"] == {setting.title: "connection refused" for setting in beside.SETTINGS}
