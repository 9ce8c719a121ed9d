"""``antiphon run`` and ``antiphon dev`` in processes of their own."""

from __future__ import annotations

import builtins
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from antiphon.cli.exits import Exit
from antiphon.cli.main import main
from tests.cli.kit import APP, ENVIRONMENT, antiphon, order, running


def publish(app: str, data: Path, cwd: Path, number: str, cents: int = 100) -> None:
    """Publish an order from another process."""
    sent = antiphon("publish", app, "Ordered", "--data", str(data), "--data-json", order(number, cents), cwd=cwd)
    assert sent.returncode == 0, sent.stderr


def test_it_says_what_runs_and_drains_at_a_signal(project: Path, tmp_path: Path) -> None:
    """Ready is one JSON object; SIGTERM and SIGINT drain, and the exit code is 0."""
    for number in (signal.SIGTERM, signal.SIGINT):
        with running("orders:app", "--data", str(tmp_path / "d"), "--no-gateway", cwd=project) as runs:
            assert runs.ready["ready"] is True
            assert runs.ready["app"] == "store_app"
            assert runs.ready["services"] == ["shop", "billing", "counter"]
            assert runs.ready["data"] == str(tmp_path / "d")
            assert runs.ready["url"] is None
            runs.signal(number)
            _, remarks = runs.process.communicate(timeout=60)
            assert runs.process.returncode == Exit.OK
            assert "ready" in remarks
            assert remarks.endswith("draining\nstopped\n")


def test_publishing_from_another_process_wakes_it(project: Path, tmp_path: Path) -> None:
    """An event that another process appends is handled, and so is what follows from it."""
    with running("orders:app", "--data", str(tmp_path), "--no-gateway", cwd=project) as runs:
        for number in ("o1", "o2"):
            publish("orders:app", tmp_path, project, number)
            assert [runs.line(), runs.line()] == [f"bill {number}", f"count {number}"]
        assert runs.stop() == Exit.OK


def test_what_waits_is_handled_at_the_next_start(project: Path, tmp_path: Path) -> None:
    """Publishing needs no running application: the event waits in the log."""
    publish("orders:app", tmp_path, project, "early")
    with running("orders:app", "--data", str(tmp_path), "--no-gateway", cwd=project) as runs:
        assert [runs.line(), runs.line()] == ["bill early", "count early"]
        assert runs.stop() == Exit.OK


def test_a_process_per_service_gives_the_same(project: Path, tmp_path: Path) -> None:
    """--services runs some of them; events reach those of another process over the bus."""
    common = ("orders:apart", "--data", str(tmp_path), "--no-gateway")
    with (
        running(*common, "--services", "billing", cwd=project) as billing,
        running(*common, "--services", "shop,counter", cwd=project) as others,
    ):
        assert billing.ready["services"] == ["billing"]
        publish("orders:apart", tmp_path, project, "o1")
        assert billing.line() == "bill o1"
        assert others.line() == "count o1"
        assert others.stop() == Exit.OK
        assert billing.stop() == Exit.OK


def test_the_gateway_answers(project: Path, tmp_path: Path) -> None:
    """The address that is said answers the services' routes; it is gone after the drain."""
    with running("orders:app", "--data", str(tmp_path), "--port", "0", cwd=project) as runs:
        assert httpx.get(f"{runs.ready['url']}/ping").json() == {"answer": "pong"}
        assert runs.stop() == Exit.OK
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{runs.ready['url']}/ping")


@pytest.mark.parametrize("app", ["orders:app", "orders:apart"])
def test_a_gateway_alone_leads_to_other_processes(app: str, project: Path, tmp_path: Path) -> None:
    """``--services gateway`` runs no service; a service's process is found without naming a port."""
    common = (app, "--data", str(tmp_path))
    with (
        running(*common, "--services", "shop,billing", cwd=project) as services,
        running(*common, "--services", "gateway", "--port", "0", cwd=project) as gateway,
    ):
        assert gateway.ready["services"] == []
        assert services.ready["url"] != gateway.ready["url"]
        assert httpx.get(f"{gateway.ready['url']}/ping").json() == {"answer": "pong"}
        assert gateway.stop() == Exit.OK
        assert services.stop() == Exit.OK


def test_a_taken_port_is_five(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A port that another program has ends with 5 and names it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["run", "orders:app", "--data", str(tmp_path), "--port", port]) == Exit.REFUSED
    assert port in capsys.readouterr().err


def test_a_second_signal_ends_at_once(project: Path, tmp_path: Path) -> None:
    """Draining waits for a handler up to the grace; who does not want to wait sends the signal again."""
    with running("orders:app", "--data", str(tmp_path), "--no-gateway", "--grace", "10m", cwd=project) as runs:
        publish("orders:app", tmp_path, project, "stuck", cents=404)
        assert runs.line() == "bill stuck"
        runs.signal()
        runs.said("draining")
        runs.signal()
        runs.process.communicate(timeout=60)
        assert runs.process.returncode == Exit.TERMINATED


def test_the_grace_bounds_the_drain(project: Path, tmp_path: Path) -> None:
    """A handler that does not end is released when the grace is over, and the exit is clean."""
    with running("orders:app", "--data", str(tmp_path), "--no-gateway", "--grace", "100ms", cwd=project) as runs:
        publish("orders:app", tmp_path, project, "stuck", cents=404)
        assert runs.line() == "bill stuck"
        assert runs.stop() == Exit.OK


def test_an_unknown_service_is_said(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--services with a name that the application lacks ends with 2 and names those that it has."""
    assert main(["run", "orders:app", "--data", str(tmp_path), "--services", "shop,nix"]) == Exit.USAGE
    said = capsys.readouterr().err
    assert "nix" in said
    assert "shop, billing, counter" in said


def test_a_damaged_store_is_three(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is no database ends with 3, naming it."""
    (tmp_path / "store_app.db").write_bytes(b"no database at all" * 100)
    assert main(["run", "orders:app", "--data", str(tmp_path), "--no-gateway"]) == Exit.STORE
    assert str(tmp_path / "store_app.db") in capsys.readouterr().err


def test_dev_runs_again_at_a_change(tmp_path: Path) -> None:
    """A change of a .py file restarts the child with the new code; SIGTERM drains it."""
    pytest.importorskip("watchfiles")
    (tmp_path / "changing.py").write_text(APP, encoding="utf-8")
    command = [sys.executable, "-m", "antiphon", "dev", "changing", "--data", str(tmp_path / "d"), "--no-gateway"]
    with subprocess.Popen(
        [*command, "--json", "--watch", str(tmp_path)],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            assert '"app":"store_app"' in process.stdout.readline()
            (tmp_path / "changing.py").write_text(APP.replace('"store_app"', '"new_app"'), encoding="utf-8")
            assert '"app":"new_app"' in process.stdout.readline()
        finally:
            process.terminate()
            _, remarks = process.communicate(timeout=60)
    assert process.returncode == Exit.OK
    assert remarks.count("stopped") == 2
    assert "changing.py" in remarks


def test_dev_names_the_extra_that_it_needs(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without watchfiles it ends with 5 and says what to install."""
    real = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name == "watchfiles":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    assert main(["dev", "orders:app"]) == Exit.REFUSED
    assert "antiphon[reload]" in capsys.readouterr().err
