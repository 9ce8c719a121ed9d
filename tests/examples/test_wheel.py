"""The wheel: built from the checkout and installed elsewhere, it runs the demo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.examples.kit import CHECKOUT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this checkout."""
    target = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(target), str(CHECKOUT)]
    subprocess.run(build, check=True, capture_output=True)
    (built,) = target.glob("*.whl")
    return built


def test_it_holds_the_library_and_the_examples(wheel: Path) -> None:
    """The examples come along under a name that nobody else has, with their SQL; tests do not."""
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "antiphon/demo/audit.sql" in names
    assert "antiphon_examples/flight_booking/booking.sql" in names
    assert "antiphon_examples/flight_booking/audit.sql" in names
    assert "antiphon_examples/enrollment/shared/events.py" in names
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {"antiphon", "antiphon_examples"}


def test_it_runs_the_demo_and_the_examples(wheel: Path, tmp_path: Path) -> None:
    """In a fresh environment, with the checkout out of sight, `antiphon demo` and `antiphon check` work."""
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    binaries = environment / "bin"
    install = [sys.executable, "-m", "pip", "--python", str(binaries / "python"), "install", "--no-deps", "-qq"]
    subprocess.run([*install, "--no-index", str(wheel)], check=True, capture_output=True)
    # The libraries are those of this environment. Its .pth files, the checkout among them, do not count on this path.
    variables = {**os.environ, "PYTHONPATH": sysconfig.get_path("purelib")}

    def said(*command: str) -> str:
        return subprocess.run(
            command, cwd=tmp_path, env=variables, check=True, capture_output=True, text=True, timeout=100
        ).stdout

    where = said(str(binaries / "python"), "-c", "import antiphon; print(antiphon.__file__)")
    assert where.startswith(str(environment))
    facts = json.loads(said(str(binaries / "antiphon"), "demo", "--for", "2", "--json", "--port", "0"))
    assert facts["audit_ok"] is True
    assert facts["accepted"] > 20
    for example in ("flight_booking", "enrollment"):
        said(str(binaries / "antiphon"), "check", f"antiphon_examples.{example}:app")
