"""``antiphon dead``: dead letters found, shown, run again, mended, archived."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from antiphon.cli.exits import Exit
from antiphon.cli.main import main
from tests.cli.kit import antiphon, order, running

Answer = Callable[..., tuple[int, Any, str]]
History = tuple[str, Path]


def letters(answer: Answer, data: Path, *more: str) -> dict[str, dict[str, Any]]:
    """The dead letters, by status."""
    code, found, _ = answer("dead", "ls", "--data", str(data), *more)
    assert code == Exit.OK
    return {each["status"]: each for each in found["dead_letters"]}


def test_ls_lists_and_chooses(history: History, answer: Answer, capsys: pytest.CaptureFixture[str]) -> None:
    """Each mark narrows the list; the table shows the same."""
    _, data = history
    found = letters(answer, data)
    assert set(found) == {"ERROR", "FAILED"}
    assert found["ERROR"]["handler"] == "billing.bill"
    assert set(letters(answer, data, "--status", "FAILED")) == {"FAILED"}
    assert set(letters(answer, data, "--group", found["ERROR"]["group"])) == {"ERROR"}
    assert set(letters(answer, data, "--text", "unlucky")) == {"FAILED"}
    assert not letters(answer, data, "--handler", "counter.count")
    assert not letters(answer, data, "--type", "Billed")
    assert not letters(answer, data, "--archived")
    assert set(letters(answer, data, "--limit", "1")) == {"FAILED"}
    assert main(["dead", "ls", "--data", str(data)]) == Exit.OK
    assert "the amount is negative" in capsys.readouterr().out


def test_groups_count_by_failure(history: History, answer: Answer, capsys: pytest.CaptureFixture[str]) -> None:
    """One line a failure, with its number."""
    _, data = history
    code, found, _ = answer("dead", "groups", "--data", str(data))
    assert code == Exit.OK
    assert [group["count"] for group in found["groups"]] == [1, 1]
    assert main(["dead", "groups", "--data", str(data)]) == Exit.OK
    assert "ValueError" in capsys.readouterr().out


def test_show_tells_everything(history: History, answer: Answer, capsys: pytest.CaptureFixture[str]) -> None:
    """Event, data, error, traceback and every attempt; an unknown id ends with 1."""
    _, data = history
    failed = letters(answer, data)["FAILED"]
    assert main(["dead", "show", failed["event_id"], "--data", str(data)]) == Exit.OK
    text = capsys.readouterr().out
    assert '"order_id": "o3"' in text
    assert "raise ValueError" in text
    assert text.count("ValueError: unlucky amount") >= 3
    code, found, _ = answer("dead", "show", failed["event_id"], "--data", str(data))
    assert code == Exit.OK
    assert [attempt["number"] for attempt in found["history"]] == [1, 2]
    assert main(["dead", "show", "ffff", "--data", str(data)]) == Exit.FINDINGS


@pytest.mark.parametrize("command", ["redrive", "archive --reason x"])
def test_it_must_be_said_which_are_meant(command: str, history: History, capsys: pytest.CaptureFixture[str]) -> None:
    """No mark at all, or --all with a mark, is wrong usage; marks that match nothing end with 1."""
    common = ["dead", *command.split(), "--data", str(history[1])]
    assert main(common) == Exit.USAGE
    assert "--all alone" in capsys.readouterr().err
    assert main([*common, "--all", "--type", "Ordered"]) == Exit.USAGE
    assert main([*common, "--type", "Nothing"]) == Exit.FINDINGS
    assert "no dead letter matches" in capsys.readouterr().err


def test_a_dry_run_changes_nothing(history: History, answer: Answer) -> None:
    """--dry-run counts what would be redriven, one or many."""
    _, data = history
    code, found, _ = answer("dead", "redrive", "--all", "--dry-run", "--data", str(data))
    assert (code, found["count"]) == (Exit.OK, 2)
    failed = letters(answer, data)["FAILED"]
    code, found, _ = answer("dead", "redrive", failed["event_id"], "--dry-run", "--data", str(data))
    assert (code, found["dead_letters"]) == (Exit.OK, [failed])
    assert set(letters(answer, data)) == {"ERROR", "FAILED"}


def test_one_is_redriven_and_dies_again(history: History, project: Path, answer: Answer) -> None:
    """A running application runs it again; --wait ends with 1 when it fails again."""
    app, data = history
    failed = letters(answer, data)["FAILED"]
    with running(app, "--data", str(data), "--no-gateway", cwd=project) as runs:
        again = antiphon("dead", "redrive", failed["event_id"], "--wait", "--data", str(data), cwd=project)
        assert again.returncode == Exit.FINDINGS, again.stderr
        assert "billing.bill FAILED" in again.stdout
        assert [runs.line(), runs.line()] == ["bill o3", "bill o3"]
        assert runs.stop() == Exit.OK


def test_many_are_redriven_as_a_job(history: History, project: Path, answer: Answer) -> None:
    """A job is listed with its state; waiting ends with 1 as some fail again, and it can be looked up later."""
    app, data = history
    with running(app, "--data", str(data), "--no-gateway", cwd=project) as runs:
        done = antiphon("dead", "redrive", "--all", "--rate", "1000", "--wait", "--data", str(data), cwd=project)
        assert done.returncode == Exit.FINDINGS, done.stderr
        assert runs.stop() == Exit.OK
    code, found, _ = answer("dead", "jobs", "--data", str(data))
    assert code == Exit.OK
    assert (found["jobs"][0]["total"], found["jobs"][0]["failed"]) == (2, 2)


def test_a_job_waits_for_an_application(history: History, answer: Answer) -> None:
    """Nobody runs the handler: it is said, and the job can be cancelled; what has not gone stays dead."""
    _, data = history
    code, found, remarks = answer("dead", "redrive", "--status", "FAILED", "--data", str(data))
    assert code == Exit.OK
    assert "no process runs billing.bill" in remarks
    job = found["jobs"][0]
    code, found, _ = answer("dead", "cancel", job["id"], "--data", str(data))
    assert (code, found["jobs"][0]["state"]) == (Exit.OK, "cancelled")
    assert set(letters(answer, data)) == {"ERROR", "FAILED"}
    assert main(["dead", "cancel", "ffff", "--data", str(data)]) == Exit.FINDINGS


def test_one_takes_no_options_for_many(history: History, answer: Answer, capsys: pytest.CaptureFixture[str]) -> None:
    """--canary, --rate and --stop-at make no sense for one."""
    _, data = history
    failed = letters(answer, data)["FAILED"]
    for more in (["--canary"], ["--rate", "5"], ["--stop-at", "20%"]):
        assert main(["dead", "redrive", failed["event_id"], *more, "--data", str(data)]) == Exit.USAGE
        assert "for many" in capsys.readouterr().err


def test_an_edited_one_is_handled(history: History, project: Path, answer: Answer) -> None:
    """Corrected data is checked, published for the handler alone, and handled; the original is archived."""
    app, data = history
    failed = letters(answer, data)["FAILED"]
    edit = ("dead", "edit", app, failed["event_id"], "--data", str(data), "--data-json")
    code, _, remarks = answer(*edit, '{"order_id": "o3", "customer": "ann", "cents": "many"}')
    assert code == Exit.FINDINGS
    assert "$.cents" in remarks
    code, event, _ = answer(*edit, order("o3", 7))
    assert code == Exit.OK
    assert event["only_for"] == "billing.bill"
    assert set(letters(answer, data)) == {"ERROR"}
    with running(app, "--data", str(data), "--no-gateway", cwd=project) as runs:
        assert [runs.line(), runs.line()] == ["bill o3", "count o3"]
        assert runs.stop() == Exit.OK


def test_archived_ones_are_out_of_the_way(history: History, answer: Answer, capsys: pytest.CaptureFixture[str]) -> None:
    """One by its id, the rest by a mark, each with the reason; they are listed with --archived only."""
    _, data = history
    failed = letters(answer, data)["FAILED"]
    assert main(["dead", "archive", failed["event_id"], "--reason", " ", "--data", str(data)]) == Exit.USAGE
    capsys.readouterr()
    code, found, _ = answer("dead", "archive", failed["event_id"], "--reason", "paid by hand", "--data", str(data))
    assert (code, found) == (Exit.OK, {"archived": 1})
    code, found, _ = answer("dead", "archive", "--all", "--reason", "test orders", "--data", str(data))
    assert (code, found) == (Exit.OK, {"archived": 1})
    assert not letters(answer, data)
    assert letters(answer, data, "--archived")["FAILED"]["archived"] == "paid by hand"
