"""``antiphon run --workers N``: several processes of one run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from antiphon.cli.exits import Exit
from antiphon.cli.main import main
from tests.cli.kit import ENVIRONMENT, antiphon, order, running

_PATIENCE_S = 30.0
_never = threading.Event()


def until(true: Callable[[], bool], what: str) -> None:
    """Return when *true*; fail after a while."""
    end = time.monotonic() + _PATIENCE_S
    while not true():
        assert time.monotonic() < end, f"in {_PATIENCE_S:g} s it did not come to {what}"
        _never.wait(0.05)


def publish(project: Path, data: Path, number: str) -> None:
    """Publish an order from another process."""
    given = ("--data", str(data), "--data-json", order(number))
    sent = antiphon("publish", "orders:app", "Ordered", *given, cwd=project)
    assert sent.returncode == 0, sent.stderr


def lives(pid: int) -> bool:
    """Whether a process is there, and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def answers(url: str) -> bool:
    """Whether the gateway answers."""
    try:
        return httpx.get(f"{url}/ping", timeout=5).text == '{"answer":"pong"}'
    except httpx.HTTPError:
        return False


def test_they_are_ready_together_share_a_port_and_drain_together(project: Path, tmp_path: Path) -> None:
    """One JSON line when all are ready; the one address answers; a signal to the parent ends all, with 0."""
    with running("orders:app", "--data", str(tmp_path / "d"), "--port", "0", "--workers", "3", cwd=project) as runs:
        workers = runs.ready["workers"]
        assert len(set(workers)) == 3
        assert runs.ready["pid"] == runs.process.pid
        assert all(answers(runs.ready["url"]) for _ in range(9))
        sent = antiphon(
            "publish", "orders:app", "Ordered", "--data", str(tmp_path / "d"), "--data-json", order("o1"), cwd=project
        )
        assert sent.returncode == 0, sent.stderr
        assert [runs.line(), runs.line()] == ["bill o1", "count o1"]
        assert runs.stop() == Exit.OK
        assert not any(map(lives, workers))


def test_one_that_dies_is_started_again(project: Path, tmp_path: Path) -> None:
    """Killed, it has a successor soon; meanwhile the others go on, and clients wait or are answered."""
    with running("orders:app", "--data", str(tmp_path / "d"), "--port", "0", "--workers", "2", cwd=project) as runs:
        victim = runs.ready["workers"][0]
        os.kill(victim, signal.SIGKILL)
        runs.said("worker 0 has ended with SIGKILL; it is started again")
        assert answers(runs.ready["url"])
        children = Path(f"/proc/{runs.process.pid}/task/{runs.process.pid}/children")
        until(lambda: len(children.read_text().split()) == 2, "two processes again")
        assert str(victim) not in children.read_text().split()
        until(lambda: answers(runs.ready["url"]), "an answer")
        assert runs.stop() == Exit.OK


def test_without_their_parent_they_drain(project: Path, tmp_path: Path) -> None:
    """When the parent is killed nobody stays behind."""
    with running("orders:app", "--data", str(tmp_path / "d"), "--no-gateway", "--workers", "2", cwd=project) as runs:
        workers = runs.ready["workers"]
        runs.process.kill()
        until(lambda: not any(map(lives, workers)), "the end of all workers")


def test_what_cannot_start_ends_all(project: Path, tmp_path: Path) -> None:
    """An application that is declared wrongly is not started again and again."""
    command = [sys.executable, "-m", "antiphon", "run", "orders:nothing", "--data", str(tmp_path), "--workers", "2"]
    done = subprocess.run(
        [*command, "--port", "0"], cwd=project, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == Exit.APPLICATION
    assert "nothing" in done.stderr


@pytest.mark.parametrize("text", ["0", "65", "two", "-1"])
def test_a_senseless_number_of_workers_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """From 1 to 64."""
    assert main(["run", "orders:app", f"--workers={text}"]) == Exit.USAGE
    assert "from 1 to 64" in capsys.readouterr().err


def test_the_backlog_is_known_while_nothing_runs(project: Path, tmp_path: Path) -> None:
    """``antiphon lag`` counts what waits, for whoever scales processes."""
    with running("orders:app", "--data", str(tmp_path), "--no-gateway", cwd=project) as runs:
        assert runs.stop() == Exit.OK
    for number in ("o1", "o2"):
        publish(project, tmp_path, number)
    found = antiphon("lag", "orders:app", "--data", str(tmp_path), "--json", cwd=project)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout) == {"waiting": 2, "services": {"billing": 2, "counter": 0, "shop": 0}}
    shown = antiphon("lag", "--data", str(tmp_path), "--services", "billing", cwd=project)
    assert shown.stdout.split() == ["SERVICE", "WAITING", "billing", "2"]
