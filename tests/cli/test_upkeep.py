"""``antiphon prune``, ``backup`` and ``doctor``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from antiphon.cli.exits import Exit
from antiphon.cli.main import main
from tests.cli.kit import antiphon, order, running

Answer = Callable[..., tuple[int, Any, str]]
History = tuple[str, Path]


def test_prune_removes_what_nobody_needs(history: History, answer: Answer) -> None:
    """What is young stays; of the old, dead letters and the newest event stay."""
    _, data = history
    code, found, _ = answer("prune", "--older-than", "7d", "--data", str(data))
    assert code == Exit.OK
    assert set(found["removed"].values()) == {0}
    code, found, _ = answer("prune", "--older-than", "0s", "--data", str(data))
    assert code == Exit.OK
    assert sum(found["removed"].values()) > 0
    code, found, _ = answer("dead", "ls", "--data", str(data))
    assert len(found["dead_letters"]) == 2


def test_a_removed_handler_can_be_forgotten(
    history: History, answer: Answer, capsys: pytest.CaptureFixture[str]
) -> None:
    """--forget says what the handler leaves behind; an unknown one ends with 1, nothing to do with 2."""
    _, data = history
    code, found, remarks = answer("prune", "--forget", "billing.bill", "--data", str(data))
    assert code == Exit.OK
    assert found["forgotten"][0]["dead"] == 2
    assert "dead letters 2" in remarks
    assert main(["prune", "--forget", "billing.bill", "--data", str(data)]) == Exit.FINDINGS
    assert main(["prune", "--data", str(data)]) == Exit.USAGE
    assert "--older-than 7d" in capsys.readouterr().err


def test_a_backup_can_be_run_from(history: History, tmp_path: Path, project: Path, answer: Answer) -> None:
    """Every store is copied while the application runs, checked, and the copy works as a data directory."""
    app, data = history
    target = tmp_path / "copy"
    with running(app, "--data", str(data), "--no-gateway", cwd=project) as runs:
        code, found, _ = answer("backup", str(target), "--data", str(data))
        assert code == Exit.OK
        assert [copy["problems"] for copy in found["copies"]] == [[]] * len(list(data.glob("*.db")))
        assert runs.stop() == Exit.OK
    with running(app, "--data", str(target), "--no-gateway", cwd=project) as runs:
        sent = antiphon("publish", app, "Ordered", "--data", str(target), stdin=order("o9"), cwd=project)
        assert sent.returncode == 0, sent.stderr
        assert [runs.line(), runs.line()] == ["bill o9", "count o9"]
        assert runs.stop() == Exit.OK


def test_a_backup_overwrites_nothing(history: History, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A directory that exists is refused."""
    assert main(["backup", str(tmp_path), "--data", str(history[1])]) == Exit.REFUSED
    assert "it exists already" in capsys.readouterr().err


def test_doctor_looks_at_machine_and_directory(here: Path, tmp_path: Path, answer: Answer) -> None:
    """Versions, SQLite's race and how it is kept out, file system, limits; without a directory a warning."""
    code, found, _ = answer("doctor", "--data", str(tmp_path))
    assert (code, found["ok"]) == (Exit.OK, True)
    checks = {each["name"]: each for each in found["checks"]}
    assert {"antiphon", "python", "sqlite", "wal-reset race", "file system", "open files", "free space"} <= set(checks)
    assert checks["data directory"]["state"] == "ok"
    code, found, _ = answer("doctor", "--data", str(tmp_path / "missing"))
    assert code == Exit.OK
    assert {each["name"]: each for each in found["checks"]}["data directory"]["state"] == "warning"


def test_doctor_refuses_a_network_file_system(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the store would refuse, doctor finds, with the way out; that ends with 1."""
    monkeypatch.setattr("antiphon.store.sqlite.connection.file_system", lambda path: "nfs4")
    assert main(["doctor", "--data", str(tmp_path)]) == Exit.FINDINGS
    said = capsys.readouterr()
    assert "nfs4" in said.out
    assert "local disk" in said.err


@pytest.mark.parametrize(
    ("version", "words"), [((3, 40, 1), "this build has it"), ((3, 51, 3), "mended in this build")]
)
def test_doctor_tells_the_wal_reset_race(
    version: tuple[int, int, int], words: str, here: Path, monkeypatch: pytest.MonkeyPatch, answer: Answer
) -> None:
    """Whether SQLite's race applies follows from its version."""
    monkeypatch.setattr("antiphon.store.sqlite.connection.has_wal_reset_race", lambda: version < (3, 51, 3))
    _, found, _ = answer("doctor")
    assert words in {each["name"]: each for each in found["checks"]}["wal-reset race"]["value"]
