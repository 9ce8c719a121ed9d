"""Fixtures of the command line's tests: an application's directory, and a history in a data directory."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from antiphon.cli.main import main
from tests.cli.kit import APP, antiphon, order, running


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the application ``orders`` in it."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "orders.py").write_text(APP, encoding="utf-8")
    return folder


@pytest.fixture
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's directory, for the time of the test the current one."""
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("ANTIPHON_DATA", raising=False)
    return project


@pytest.fixture(scope="session", params=["orders:app", "orders:apart"])
def written(
    request: pytest.FixtureRequest, project: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """An application, and a data directory in which it handled, refused and gave up on an order each."""
    data = tmp_path_factory.mktemp("data")
    app = str(request.param)
    common = ("--data", str(data))
    with running(app, *common, "--no-gateway", cwd=project) as runs:
        for number, cents, lines in (("o1", 100, 2), ("o2", -1, 1), ("o3", 13, 2)):
            sent = antiphon("publish", app, "Ordered", *common, "--data-json", order(number, cents), cwd=project)
            assert sent.returncode == 0, sent.stderr
            for _ in range(lines):
                runs.line()
        assert runs.stop() == 0
    return app, data


@pytest.fixture
def history(written: tuple[str, Path], tmp_path: Path, here: Path) -> tuple[str, Path]:
    """A copy of that data directory, to be changed at will."""
    app, data = written
    shutil.copytree(data, tmp_path / "data", ignore=lambda folder, names: [n for n in names if n.endswith(".bell")])
    return app, tmp_path / "data"


@pytest.fixture
def answer(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, object, str]]:
    """Runs the command in this process with ``--json``; gives exit code, value and remarks."""

    def run(*arguments: str) -> tuple[int, object, str]:
        code = main([*arguments, "--json"])
        said = capsys.readouterr()
        return code, json.loads(said.out) if said.out else None, said.err

    return run
