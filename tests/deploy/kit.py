"""Deployments written by the command, and read again by another library than the one that wrote them."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from antiphon.cli.main import main
from tests.conftest import require

PASSWORD = "nobody-may-see-this"
SCHEMAS = json.loads((Path(__file__).parent / "keda.json").read_text(encoding="utf-8"))["kinds"]
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


def tool(name: str) -> str:
    """A program that came with the libraries of the tests."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    require(name, found is not None)
    return str(found)


def assert_compose(out: Path) -> None:
    """The compose file in a directory holds to the schema of the Compose specification."""
    checked = subprocess.run(
        [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(out / "compose.yaml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout


def assert_manifests(found: Iterable[dict[str, Any]]) -> None:
    """Each is valid, strictly, for an old and a new version of Kubernetes, or by KEDA's own definition."""
    for manifest in found:
        if manifest["apiVersion"].startswith("keda.sh/"):
            jsonschema.validate(manifest, strict(SCHEMAS[manifest["kind"]]))
        else:
            for version in ("1.29", "1.37"):
                kubernetes_validate.validate(manifest, version, strict=True)


def strict(schema: Any) -> Any:
    """*schema*, refusing what it does not name, as the server does under strict validation."""
    if isinstance(schema, dict):
        tight = {name: strict(each) for name, each in schema.items()}
        is_object = isinstance(schema.get("properties"), dict) and schema.get("type") == "object"
        return {**tight, "additionalProperties": False} if is_object and "additionalProperties" not in schema else tight
    return [strict(each) for each in schema] if isinstance(schema, list) else schema


@contextmanager
def queues(monkeypatch: pytest.MonkeyPatch, told: Mapping[str, str]) -> Iterator[str]:
    """The payments between queues, loaded in an environment that tells them so; what names the app."""
    module = "examples.payments_stp.queues"
    kept = sys.modules.pop(module, None)
    try:
        with monkeypatch.context() as environment:
            for name in ("PAYMENTS_UPSTREAM", "PAYMENTS_DOWNSTREAM", "PAYMENTS_PREFIX"):
                environment.delenv(name, raising=False)
            for name, value in told.items():
                environment.setenv(name, value)
            importlib.import_module(module)
            yield f"{module}:app"
    finally:
        sys.modules.pop(module, None)
        if kept is not None:
            sys.modules[module] = kept
