"""``antiphon status``, ``tail`` and ``trace`` on what an application left behind, and while it runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from antiphon.cli.exits import Exit
from antiphon.cli.main import main
from tests.cli.kit import ENVIRONMENT, antiphon, order, running

Answer = Callable[..., tuple[int, Any, str]]
History = tuple[str, Path]


def events(data: Path, capsys: pytest.CaptureFixture[str], *more: str) -> list[dict[str, Any]]:
    """What ``tail --json`` shows."""
    assert main(["tail", "--data", str(data), "--json", *more]) == Exit.OK
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_status_shows_every_handler(history: History, answer: Answer) -> None:
    """All stores of the directory: cursors, lag, dead letters, counters; nobody runs them now."""
    app, data = history
    code, found, _ = answer("status", "--data", str(data))
    assert code == Exit.OK
    apart = app.endswith("apart")
    assert {store["store"] for store in found["stores"]} == (
        {"shop", "billing", "counter", "bus"} if apart else {"store_app"}
    )
    handlers = {each["handler"]: each for store in found["stores"] for each in store["handlers"]}
    assert set(handlers) == {"billing.bill", "counter.count"}
    bill = handlers["billing.bill"]
    assert (bill["lag"], bill["handled"], bill["running"]) == (0, 1, False)
    assert (bill["counts"]["error"], bill["counts"]["failed"]) == (1, 1)
    assert bill["failed_invocations"] == 3


def test_status_is_a_table(history: History, capsys: pytest.CaptureFixture[str]) -> None:
    """The same for people, aligned, one line a handler."""
    app, data = history
    assert main(["status", app, "--data", str(data)]) == Exit.OK
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("HANDLER")
    place = lines[0].index("STATE")
    assert lines[1].startswith("billing.bill")
    assert lines[1][place:].startswith("stopped")


def test_status_of_another_application_is_said(
    history: History, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An application that has no store in the directory ends with 3."""
    app, data = history
    other = "orders:app" if app.endswith("apart") else "orders:apart"
    assert main(["status", other, "--data", str(data)]) == Exit.STORE
    assert "there is no store of" in capsys.readouterr().err


def test_status_shows_who_runs(project: Path, tmp_path: Path) -> None:
    """While an application runs, its handlers have an owner and run."""
    with running("orders:app", "--data", str(tmp_path), "--no-gateway", cwd=project) as runs:
        sent = antiphon("publish", "orders:app", "Ordered", "--data", str(tmp_path), stdin=order("o1"), cwd=project)
        assert sent.returncode == 0, sent.stderr
        assert runs.line() == "bill o1"
        shown = antiphon("status", "--data", str(tmp_path), "--json", cwd=project)
        assert shown.returncode == Exit.OK, shown.stderr
        handlers = json.loads(shown.stdout)["stores"][0]["handlers"]
        assert all(each["running"] for each in handlers)
        assert all(each["owner"].startswith(f"{runs.ready['pid']}-") for each in handlers)
        assert runs.stop() == Exit.OK


def test_status_is_watched_until_ctrl_c(
    history: History, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """--watch shows it again and again; Ctrl-C is its right end."""
    times = iter(range(2))

    async def sleep(clock: object, seconds: float) -> None:
        if next(times, None) is None:
            raise KeyboardInterrupt

    monkeypatch.setattr("antiphon.runtime.clock.SystemClock.sleep", sleep)
    assert main(["status", "--watch", "--data", str(history[1])]) == Exit.OK
    assert capsys.readouterr().out.count("HANDLER") == 3


def test_tail_shows_each_event_once(history: History, capsys: pytest.CaptureFixture[str]) -> None:
    """In order of time, from all stores, each as its producer logged it; --type and --limit choose."""
    _, data = history
    found = events(data, capsys)
    assert [event["type"] for event in found] == ["Ordered", "Billed", "Ordered", "Ordered"]
    assert [event["data"]["order_id"] for event in found] == ["o1", "o1", "o2", "o3"]
    assert all(event["origin"] == "published" for event in found)
    assert [event["id"] for event in events(data, capsys, "--limit", "2")] == [event["id"] for event in found[-2:]]
    assert [event["type"] for event in events(data, capsys, "--type", "Billed")] == ["Billed"]
    chain = events(data, capsys, "--correlation", found[0]["id"])
    assert [event["type"] for event in chain] == ["Ordered", "Billed"]


def test_tail_follows(project: Path, tmp_path: Path) -> None:
    """--follow goes on with what comes, published by any process, and ends with Ctrl-C."""
    common = ("--data", str(tmp_path))
    with running("orders:apart", *common, "--no-gateway", cwd=project) as runs:
        command = [sys.executable, "-m", "antiphon", "tail", *common, "--follow", "--json"]
        with subprocess.Popen(command, cwd=project, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as tail:
            assert tail.stdout is not None
            for number in ("o1", "o2"):
                sent = antiphon("publish", "orders:apart", "Ordered", *common, stdin=order(number), cwd=project)
                assert sent.returncode == 0, sent.stderr
                shown = [json.loads(tail.stdout.readline()) for _ in range(2)]
                assert [(event["type"], event["data"]["order_id"]) for event in shown] == [
                    ("Ordered", number),
                    ("Billed", number),
                ]
            tail.send_signal(2)
            assert tail.wait(timeout=60) == Exit.OK
        assert runs.stop() == Exit.OK


def test_trace_shows_what_belongs_together(
    history: History, answer: Answer, capsys: pytest.CaptureFixture[str]
) -> None:
    """From any event of it, by its id or its beginning: the tree, with handlers, attempts and reasons."""
    _, data = history
    ordered, billed, refused, failed = events(data, capsys)
    code, found, _ = answer("trace", billed["id"], "--data", str(data))
    assert code == Exit.OK
    assert found["correlation_id"] == ordered["id"]
    assert [(node["depth"], node["event"]["type"]) for node in found["nodes"]] == [(0, "Ordered"), (1, "Billed")]
    assert [[each["handler"] for each in node["deliveries"]] for node in found["nodes"]] == [
        ["billing.bill"],
        ["counter.count"],
    ]
    assert main(["trace", failed["id"][:-2], "--data", str(data)]) == Exit.OK
    text = capsys.readouterr().out
    assert "-> billing.bill FAILED: 2 attempts" in text
    assert "ValueError: unlucky amount" in text
    assert main(["trace", refused["id"], "--data", str(data)]) == Exit.OK
    assert "the amount is negative" in capsys.readouterr().out


def test_trace_of_nothing_is_one(history: History, capsys: pytest.CaptureFixture[str]) -> None:
    """An id that no store knows ends with 1; so does the beginning of several."""
    _, data = history
    assert main(["trace", "ffffffff", "--data", str(data)]) == Exit.FINDINGS
    assert main(["trace", events(data, capsys)[0]["id"][:3], "--data", str(data)]) == Exit.FINDINGS
