"""The same commands on stores in PostgreSQL or MariaDB: run, publish, status, tail, trace, dead, prune, doctor."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from antiphon.cli.exits import Exit
from antiphon.cli.main import main
from tests.cli.kit import antiphon, order, running
from tests.store.mariadb import databases
from tests.store.postgres import database

Answer = Callable[..., tuple[int, Any, str]]

#: App -> its stores.
APPS = {"orders:app": ["store_app"], "orders:apart": ["billing", "counter", "shop", "bus"]}


#: Server -> what `doctor` looks at there.
CHECKS = {"postgres": "synchronous_commit", "mariadb": "innodb_flush_log_at_trx_commit"}


@pytest.fixture(scope="module", params=CHECKS)
def server(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """What kind of server it is, and its URL, with places of the tests' own in it."""
    kind = str(request.param)
    with database() if kind == "postgres" else databases() as url:
        yield kind, url


@pytest.fixture(scope="module", params=APPS)
def at(
    request: pytest.FixtureRequest, server: tuple[str, str], project: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    """An application and its stores, in which it handled, refused and gave up on an order each."""
    app, (kind, url) = str(request.param), server
    own = app.partition(":")[2]
    place = f"{url}?schema={own}_" if kind == "postgres" else f"{url}_{own}"
    common = ("--data", str(tmp_path_factory.mktemp("data")), "--store", place)
    with running(app, *common, "--no-gateway", cwd=project) as runs:
        for number, cents, lines in (("o1", 100, 2), ("o2", -1, 1), ("o3", 13, 2)):
            sent = antiphon("publish", app, "Ordered", *common, "--data-json", order(number, cents), cwd=project)
            assert sent.returncode == 0, sent.stderr
            for _ in range(lines):
                runs.line()
        assert runs.stop() == 0
    return [app, *common[2:]]


def test_status_and_doctor_find_the_stores(server: tuple[str, str], at: list[str], answer: Answer, here: Path) -> None:
    """Each store with its handlers, the bus last, by its name without a prefix; the server is fit."""
    app, *place = at
    for more in ((), (app,)):
        code, found, _ = answer("status", *more, *place)
        assert code == Exit.OK
        assert [store["store"] for store in found["stores"]] == APPS[app]
    handlers = {each["handler"]: each for store in found["stores"] for each in store["handlers"]}
    bill = handlers["billing.bill"]
    assert (bill["handled"], bill["lag"], bill["counts"]["error"], bill["counts"]["failed"]) == (1, 0, 1, 1)
    code, found, _ = answer("doctor", *place)
    assert code == Exit.OK
    assert {"stores", "server", CHECKS[server[0]]} <= {check["name"] for check in found["checks"]}


def test_what_waits_is_found(at: list[str], answer: Answer, here: Path) -> None:
    """For the services of the app; one that it lacks is no reason to say that nothing waits."""
    app, *place = at
    code, found, _ = answer("lag", app, *place)
    assert (code, sorted(found["services"])) == (Exit.OK, ["billing", "counter", "shop"])
    code, _, said = answer("lag", app, *place, "--services", "shop,nix")
    assert code == Exit.FINDINGS
    assert "no service nix" in said


def test_events_are_found_and_traced(
    at: list[str], answer: Answer, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The newest events, and from one of them all that belongs to it."""
    _, *place = at
    assert main(["tail", "-n", "50", *place, "--json"]) == Exit.OK
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    ordered = [each for each in events if each["type"] == "Ordered"]
    assert {each["key"] for each in ordered} == {"ann"}
    code, found, _ = answer("trace", ordered[0]["id"], *place)
    assert code == Exit.OK
    assert [(node["depth"], node["event"]["type"]) for node in found["nodes"]] == [(0, "Ordered"), (1, "Billed")]
    assert [[each["status"] for each in node["deliveries"]] for node in found["nodes"]] == [["COMPLETED"]] * 2


def test_dead_letters_are_found_shown_redriven_and_archived(at: list[str], answer: Answer, here: Path) -> None:
    """By status, group and text; one runs again, one is set aside, and the dry run says how many there would be."""
    _, *place = at
    code, found, _ = answer("dead", "ls", *place)
    letters = {each["status"]: each for each in found["dead_letters"]}
    assert (code, set(letters)) == (Exit.OK, {"ERROR", "FAILED"})
    code, found, _ = answer("dead", "ls", "--text", "UNLUCKY", *place)
    assert [each["status"] for each in found["dead_letters"]] == ["FAILED"]
    code, found, _ = answer("dead", "groups", *place)
    assert [group["count"] for group in found["groups"]] == [1, 1]
    code, found, _ = answer("dead", "show", letters["FAILED"]["event_id"][:24], *place)
    assert code == Exit.OK
    assert len(found["history"]) == 2
    assert "unlucky" in found["traceback"]
    code, _, _ = answer("dead", "archive", letters["ERROR"]["event_id"], "--reason", "a test", *place)
    assert code == Exit.OK
    code, _, _ = answer("dead", "redrive", letters["FAILED"]["event_id"], *place)
    assert code == Exit.OK
    code, found, _ = answer("dead", "ls", *place)
    assert found["dead_letters"] == []


def test_prune_removes_what_nobody_needs(at: list[str], answer: Answer, here: Path) -> None:
    """What is handled goes; the newest event, and what is owed or not known to be sent, stay. What had come by when is
    known from the second time on."""
    app, *place = at
    removed = 0
    for _ in range(2):
        code, found, _ = answer("prune", "--older-than", "0s", *place)
        assert code == Exit.OK
        assert len(found["removed"]) == len(APPS[app])
        removed += sum(found["removed"].values())
    assert app == "orders:apart" or removed > 0
