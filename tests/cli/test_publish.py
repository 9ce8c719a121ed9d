"""``antiphon publish``: what is taken, what is refused, where it goes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from antiphon.cli.exits import Exit
from antiphon.cli.main import main
from tests.cli.kit import order

Answer = Callable[..., tuple[int, Any, str]]


def test_it_prints_the_id_of_the_durable_event(here: Path, tmp_path: Path, answer: Answer) -> None:
    """The id that is printed is the event's, in the log of the service that declares to publish the type."""
    code, sent, remarks = answer("publish", "orders:app", "Billed", "--data", str(tmp_path), "--data-json", BILLED)
    assert code == Exit.OK
    assert sent["type"] == "Billed"
    assert sent["key"] == "ann"
    assert sent["service"] == "billing"
    assert "store_app.db is made now" in remarks
    assert main(["tail", "--data", str(tmp_path)]) == Exit.OK


BILLED = json.dumps({"order_id": "o1", "customer": "ann"})


def test_with_a_store_each_it_goes_to_its_service(here: Path, tmp_path: Path, answer: Answer) -> None:
    """--service says who publishes; with own stores the event lies in that service's file."""
    arguments = ("publish", "orders:apart", "Ordered", "--data", str(tmp_path), "--data-json", order("o1"))
    code, sent, _ = answer(*arguments, "--service", "shop")
    assert code == Exit.OK
    assert sent["service"] == "shop"
    assert (tmp_path / "shop.db").exists()
    code, _, remarks = answer(*arguments, "--service", "nix")
    assert code == Exit.USAGE
    assert "shop, billing, counter" in remarks


def test_the_data_comes_from_text_file_or_stdin(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three ways to give the JSON; a file that is not there is wrong usage."""
    common = ["publish", "orders:app", "Ordered", "--data", str(tmp_path)]
    (tmp_path / "order.json").write_text(order("from-file"), encoding="utf-8")
    assert main([*common, "--file", str(tmp_path / "order.json")]) == Exit.OK
    stdin = SimpleNamespace(buffer=io.BytesIO(order("from-stdin").encode()), isatty=lambda: True)
    monkeypatch.setattr("sys.stdin", stdin)
    assert main(common) == Exit.OK
    said = capsys.readouterr()
    assert len(said.out.split()) == 2
    assert "Ctrl-D" in said.err
    assert main([*common, "--file", str(tmp_path / "missing.json")]) == Exit.USAGE
    assert "missing.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ('{"order_id": "o", "customer": "ann", "cents": 1.5}', "$.cents"),
        ('{"order_id": "o", "customer": "ann"}', "$.cents"),
        ('{"order_id": "o", "customer": "ann", "cents": 1, "cents": 2}', "$.cents: this key occurs twice"),
        ('{"order_id": "o", "customer": "ann", "cents": NaN}', "$.cents: NaN"),
        ('{"order_id": "o", "customer": "ann", "cents": 9007199254740993}', "$.cents"),
        ("{", "not JSON"),
        ("", "not JSON"),
    ],
)
def test_what_breaks_the_contract_is_refused(
    data: str, reason: str, here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bad data ends with 1 and the exact field; nothing is stored, not even a file is made."""
    arguments = ["publish", "orders:app", "Ordered", "--data", str(tmp_path), "--data-json", data]
    assert main(arguments) == Exit.FINDINGS
    said = capsys.readouterr()
    assert reason in said.err
    assert not said.out
    assert not list(tmp_path.glob("*.db"))


def test_an_unknown_type_is_refused(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A type that no service knows ends with 1 and the types that there are."""
    assert main(["publish", "orders:app", "Orderd", "--data", str(tmp_path), "--data-json", "{}"]) == Exit.FINDINGS
    assert "Billed, Ordered" in capsys.readouterr().err
