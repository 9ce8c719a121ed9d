"""Deployments written by the command, and read again by another library than the one that wrote them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from antiphon.cli.main import main

PASSWORD = "nobody-may-see-this"
POSTGRES = f"postgresql://user:{PASSWORD}@db.example.com/shop"


def written(command: str, app: str, out: Path, *options: str) -> Path:
    """The directory that ``antiphon deploy`` has written."""
    assert main(["deploy", command, app, "--out", str(out), *options]) == 0
    return out


def compose_of(out: Path) -> dict[str, Any]:
    """The compose file in a directory."""
    found: dict[str, Any] = yaml.safe_load((out / "compose.yaml").read_text(encoding="utf-8"))
    return found


def manifests_of(out: Path) -> list[dict[str, Any]]:
    """All manifests in a directory, the secret's template included."""
    files = sorted([*out.glob("k8s/**/*.yaml"), *out.glob("k8s/*.example")])
    return [found for path in files for found in yaml.safe_load_all(path.read_text(encoding="utf-8"))]
