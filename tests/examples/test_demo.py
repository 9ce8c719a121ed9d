"""``antiphon demo``, as a program: it feeds, drains, and audits its databases."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from antiphon.demo import member
from antiphon.demo.audit import audit, questions
from antiphon.demo.subject import subject_of

ENVIRONMENT = {**os.environ, "PYTHONUNBUFFERED": "1"}
BOOKINGS = subject_of("flight_booking")


def command(*arguments: str) -> list[str]:
    """The command line of a demo on any free port."""
    return [sys.executable, "-m", "antiphon", "demo", "--port", "0", *arguments]


def played(*arguments: str, cwd: Path) -> dict[str, Any]:
    """Run the demo to its end; its JSON."""
    ended = subprocess.run(
        command("--json", *arguments),
        cwd=cwd,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    (line,) = ended.stdout.splitlines()
    facts: dict[str, Any] = json.loads(line)
    return facts


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The databases of a demo in which a fifth of all attempts failed, and what it said."""
    data = tmp_path_factory.mktemp("demo")
    return data, played("--for", "3", "--fail", "0.2", "--seed", "7", "--data", str(data), cwd=data)


def test_it_runs_from_anywhere_and_loses_nothing(tmp_path: Path) -> None:
    """Everything accepted is ticketed or cancelled, some are refunded, none is lost or twice; no trace is left."""
    before = set(Path(tmp_path.anchor, "tmp").glob("antiphon-demo-*"))
    facts = played("--for", "3", cwd=tmp_path)
    assert facts["audit_ok"] is True
    assert facts["accepted"] > 30
    assert facts["accepted"] == facts["ticketed"] + facts["cancelled"]
    assert facts["emails"] == facts["ticketed"]
    assert 0 < facts["refunded"] < facts["cancelled"]
    assert facts["requests_sent_twice"] > 0
    assert (facts["lost"], facts["duplicated"], facts["retries"], facts["dead_letters"]) == (0, 0, 0, 0)
    assert facts["events_per_second"] == pytest.approx(facts["events"] / facts["seconds"], rel=0.01)
    assert set(Path(tmp_path.anchor, "tmp").glob("antiphon-demo-*")) <= before


def test_faults_are_retried_and_change_nothing(kept: tuple[Path, dict[str, Any]]) -> None:
    """With a fifth of all attempts failing, before or after their work, the audit still passes."""
    _, facts = kept
    assert facts["audit_ok"] is True
    assert facts["drained"] is True
    assert facts["accepted"] == facts["ticketed"] + facts["cancelled"] > 30
    assert facts["retries"] > 30
    assert (facts["lost"], facts["duplicated"], facts["dead_letters"]) == (0, 0, 0)


def test_processes_that_are_killed_lose_nothing(tmp_path: Path) -> None:
    """In several processes, of which one or all are killed now and then, everything accepted comes to its end once."""
    facts = played("--for", "6", "--kill", "1.5", cwd=tmp_path)
    assert facts["audit_ok"] is True
    assert facts["drained"] is True
    assert facts["processes_killed"] > 0
    assert facts["accepted"] == facts["ticketed"] + facts["cancelled"] > 30
    assert (facts["lost"], facts["duplicated"], facts["dead_letters"]) == (0, 0, 0)


def test_a_process_ends_with_the_demo_that_started_it(tmp_path: Path) -> None:
    """When the other end of its standard input is closed, as by the demo's death, it drains and ends."""
    run = [sys.executable, "-m", "antiphon", "run", f"{member.__name__}:app", "--data", str(tmp_path), "--port", "0"]
    told = {**ENVIRONMENT, **member.environment_of("flight_booking", fail=0, seed=1)}
    with subprocess.Popen([*run, "--json"], env=told, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["ready"] is True
        process.stdin.close()
        assert process.wait(timeout=60) == 0


def test_a_second_run_goes_on_with_the_data_of_the_first(tmp_path: Path) -> None:
    """The same directory may be used again; the audit is then of both runs."""
    first = played("--for", "1", "--data", "here", cwd=tmp_path)
    second = played("--for", "1", "--data", "here", cwd=tmp_path)
    assert second["events"] > first["events"]
    with closing(sqlite3.connect(tmp_path / "here" / "booking.db")) as connection:
        kept = connection.execute("SELECT count(*) FROM bookings").fetchone()[0]
    assert kept == first["accepted"] + second["accepted"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_feeding_and_drains(tmp_path: Path, number: signal.Signals) -> None:
    """Without --for it runs until Ctrl-C or SIGTERM; then it drains, says what came of it, and ends with 0."""
    with subprocess.Popen(
        command(), cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        introduction = [line for line, _ in zip(lines, range(7), strict=False)]
        assert any("/docs" in line for line in introduction)
        assert sum(line.startswith(("  1. ", "  2. ", "  3. ")) for line in introduction) == 3
        assert "accepted" in next(lines)
        process.send_signal(number)
        summary, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "0 lost, 0 duplicated" in summary
    assert summary.rstrip().endswith("Audit passed.")


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    """It ends with an error that names the port, not with a traceback."""
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ended = subprocess.run(
            command("--port", port, "--for", "1"), cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
    assert ended.returncode != 0
    assert port in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    "arguments",
    [["--rate", "0"], ["--fail", "0.9"], ["--for", "-1"], ["--seed", "x"], ["--fail", "much"], ["--kill", "-1"]],
)
def test_wrong_arguments_are_refused(tmp_path: Path, arguments: list[str]) -> None:
    """What makes no sense is said, with the usage."""
    ended = subprocess.run(command(*arguments), cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert f"argument {arguments[0]}" in ended.stderr


@pytest.mark.parametrize(
    ("service", "damage", "finding"),
    [
        ("booking", "DELETE FROM bookings WHERE booking_id = ?", "lost: accepted and not kept"),
        (
            "booking",
            "UPDATE bookings SET status = 'PAID' WHERE booking_id = ?",
            "lost: neither ticketed nor cancelled",
        ),
        (
            "payment",
            "DELETE FROM charges WHERE booking_id = ?",
            "lost: ticketed without a charge that stands, a seat or a ticket of that booking",
        ),
        (
            "seat",
            "DELETE FROM seats WHERE booking_id = ?",
            "lost: ticketed without a charge that stands, a seat or a ticket of that booking",
        ),
        (
            "booking",
            "UPDATE bookings SET status = 'CANCELLED' WHERE booking_id = ?",
            "lost: cancelled with a payment that was not given back",
        ),
        (
            "booking",
            "UPDATE bookings SET status = 'CANCELLED' WHERE booking_id = ?",
            "lost: cancelled with a seat or a ticket",
        ),
        ("notification", "DELETE FROM emails WHERE booking_id = ?", "lost: ticketed without an e-mail that arrived"),
        (
            "payment",
            "CREATE TABLE twice AS SELECT * FROM charges UNION ALL SELECT * FROM charges WHERE booking_id = ?; "
            "DROP TABLE charges; ALTER TABLE twice RENAME TO charges",
            "duplicated: charged twice",
        ),
        (
            "seat",
            "CREATE TABLE twice AS SELECT * FROM seats UNION ALL SELECT flight, seat, 'other' FROM seats "
            "WHERE booking_id = ?; DROP TABLE seats; ALTER TABLE twice RENAME TO seats",
            "duplicated: a seat sold twice",
        ),
        (
            "notification",
            "CREATE TABLE twice AS SELECT * FROM emails UNION ALL SELECT * FROM emails WHERE booking_id = ?; "
            "DROP TABLE emails; ALTER TABLE twice RENAME TO emails",
            "duplicated: a ticket announced in two e-mails",
        ),
        (
            "ticket",
            "UPDATE antiphon_log SET type = 'SeatAssigned', origin = 0 WHERE key = ? AND type = 'TicketIssued'",
            "duplicated: an event published twice",
        ),
    ],
)
def test_the_audit_finds_what_is_wrong(
    kept: tuple[Path, dict[str, Any]], tmp_path: Path, service: str, damage: str, finding: str
) -> None:
    """Each way to lose a booking or to do something twice is found in databases that were damaged so."""
    data, facts = kept
    accepted, received = copied(data, tmp_path)
    assert len(accepted) == facts["accepted"]
    assert audit(BOOKINGS, tmp_path, accepted, received).findings == {}

    with closing(sqlite3.connect(tmp_path / f"{service}.db")) as connection, connection:
        ticketed = ticketed_booking(tmp_path)
        for statement in damage.split("; "):
            connection.execute(statement, (ticketed,) * statement.count("?"))
    found = audit(BOOKINGS, tmp_path, accepted, received)
    assert not found.ok
    assert found.findings[finding] == 1
    assert found.total(finding.partition(":")[0]) >= 1
    assert finding in questions(BOOKINGS)


def copied(source: Path, target: Path) -> tuple[list[str], dict[str, int]]:
    """Copy the databases through SQLite; the bookings in them, and the e-mails."""
    for database in source.glob("*.db"):
        with (
            closing(sqlite3.connect(database)) as there,
            closing(sqlite3.connect(target / database.name)) as here,
        ):
            there.backup(here)
    with closing(sqlite3.connect(target / "booking.db")) as connection:
        accepted = [row[0] for row in connection.execute("SELECT booking_id FROM bookings")]
    with closing(sqlite3.connect(target / "notification.db")) as connection:
        received = {row[0]: 1 for row in connection.execute("SELECT message_id FROM emails")}
    return accepted, received


def ticketed_booking(data: Path) -> str:
    """A booking that is ticketed."""
    with closing(sqlite3.connect(data / "booking.db")) as connection:
        return str(connection.execute("SELECT min(booking_id) FROM bookings WHERE status = 'TICKETED'").fetchone()[0])
