"""``antiphon check`` and ``antiphon graph``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from antiphon.cli.exits import Exit
from antiphon.cli.main import main

Answer = Callable[..., tuple[int, Any, str]]

FLAWED = """
from antiphon import App, Event, Service

class PaymentFailed(Event):
    id: str

shop = Service("shop")

@shop.every(__import__("datetime").timedelta(hours=1))
async def tick() -> PaymentFailed: ...

app = App(shop)
"""


def test_warnings_alone_are_no_failure(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Warnings end with 0, with --strict with 1; each finding has its file and line."""
    assert main(["check", "orders:app"]) == Exit.OK
    said = capsys.readouterr()
    assert said.out.startswith("orders.py:")
    assert "warning: nothing publishes Ordered" in said.out
    assert "warnings 1" in said.err
    assert main(["check", "orders:app", "--strict"]) == Exit.FINDINGS


def test_errors_are_a_failure(tmp_path: Path, here: Path, monkeypatch: pytest.MonkeyPatch, answer: Answer) -> None:
    """An error ends with 1; --json gives the findings whole."""
    (tmp_path / "flawed.py").write_text(FLAWED, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    code, found, _ = answer("check", "flawed")
    assert code == Exit.FINDINGS
    assert (found["app"], found["errors"], found["warnings"]) == ("flawed", 1, 0)
    assert set(found["findings"][0]) == {"severity", "code", "where", "what", "why", "mend"}
    assert found["findings"][0]["code"] == "never-handled"


def test_the_graph_is_mermaid_by_default(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Mermaid goes to stdout and nothing to stderr, so that it can be piped into a document."""
    assert main(["graph", "orders:app"]) == Exit.OK
    said = capsys.readouterr()
    assert said.out.startswith("flowchart")
    assert not said.err
    assert main(["graph", "orders:app", "--mermaid"]) == Exit.OK
    assert capsys.readouterr().out == said.out


def test_the_graph_as_a_picture(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--svg FILE writes a well-formed picture, --svg - prints the same; a bad path is said."""
    assert main(["graph", "orders:app", "--svg", str(tmp_path / "graph.svg")]) == Exit.OK
    text = (tmp_path / "graph.svg").read_text(encoding="utf-8")
    assert ElementTree.fromstring(text).tag.endswith("svg")
    capsys.readouterr()
    assert main(["graph", "orders:app", "--svg", "-"]) == Exit.OK
    assert capsys.readouterr().out == text
    assert main(["graph", "orders:app", "--svg", str(tmp_path / "no" / "graph.svg")]) == Exit.REFUSED
    assert "cannot be written" in capsys.readouterr().err


def test_the_graph_for_programs(here: Path, answer: Answer) -> None:
    """--json gives services, nodes and edges."""
    code, found, _ = answer("graph", "orders:app")
    assert code == Exit.OK
    assert found["services"] == ["shop", "billing", "counter"]
    assert {node["kind"] for node in found["nodes"]} == {"event", "handler"}
    assert len(found["edges"]) == 3
