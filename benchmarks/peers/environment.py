"""The Python that the systems run with: an environment of its own, so that peers and Antiphon share no pins."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
REQUIREMENTS = HERE / "requirements.txt"
_VENV = HERE / ".venv"
_READY = _VENV / ".ready"


def variables(**more: str) -> dict[str, str]:
    """The environment variables of a process that imports from this checkout."""
    path = os.pathsep.join(filter(None, (str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": path, "PYTHONWARNINGS": "ignore"} | more


def make_ready() -> str:
    """Install the peers if that is not done, and return the Python that has them.

    Raises CalledProcessError if they cannot be installed.
    """
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()
    python = str(_VENV / "bin" / "python")
    if _READY.exists() and _READY.read_text(encoding="ascii") == wanted:
        return python
    print("installing the peers into benchmarks/peers/.venv (once)", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(_VENV)], check=True)
    install = [python, "-m", "pip", "install", "-qq", "--no-input", "--disable-pip-version-check"]
    subprocess.run([*install, "-r", str(REQUIREMENTS)], check=True)
    _READY.write_text(wanted, encoding="ascii")
    return python


def inventory(python: str) -> dict[str, Any]:
    """The libraries that this Python has, and the servers that answer."""
    done = subprocess.run(
        [python, "-m", "benchmarks.peers.inventory"],
        env=variables(),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found
