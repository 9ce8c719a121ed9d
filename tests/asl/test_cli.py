"""What a person sees of a state machine's runs, and whether new definitions fit them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from antiphon import App
from antiphon.cli.exits import Exit
from antiphon.cli.main import main
from antiphon.policy.choreography import check, graph
from tests.asl.kit import Begun, carrying, states
from tests.asl.test_services import Depot, orders
from tests.runtime.kit import running

MACHINE = states(
    "Greet",
    states={
        "Greet": {"Type": "Task", "Resource": "note", "Next": "Both"},
        "Both": {
            "Type": "Parallel",
            "Branches": [
                {"StartAt": "Rest", "States": {"Rest": {"Type": "Wait", "Seconds": 60, "End": True}}},
                {"StartAt": "Skip", "States": {"Skip": {"Type": "Pass", "End": True}}},
            ],
            "Next": "Bye",
        },
        "Bye": {"Type": "Task", "Resource": "note", "End": True},
    },
)

MODULE = """
from antiphon import App
from tests.asl.test_cli import MACHINE
from tests.asl.kit import carrying
from copy import deepcopy
MACHINE = deepcopy(MACHINE)
MACHINE["States"]{change}
app = App(carrying(MACHINE), name="app")
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with a store that has one waiting run."""

    async def leave() -> None:
        async with running(tmp_path, carrying(MACHINE)) as world:
            await world.publish("work", Begun(input="hello"))

    asyncio.run(leave())
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], *arguments: object, code: Exit = Exit.OK) -> Any:
    """What ``antiphon workflow`` says in JSON."""
    assert main(["workflow", *map(str, arguments), "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_runs_are_shown_by_the_names_of_states(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where it is, what it waits for, and what it has done; a run is found by the state that it is in."""
    (run,) = told(capsys, "ls", "--data", data, "--text", "Both")["runs"]
    assert (run["state"], run["waiting"], run["shows"]) == ("WAITING", "sleep Rest", {"state": "Both"})
    assert told(capsys, "ls", "--data", data, "--text", "Bye")["runs"] == []
    shown = told(capsys, "show", run["id"], "--data", data)
    assert [(each["kind"], each["name"], each["mark"]) for each in shown["journal"]] == [
        ("step", "Greet", "DONE"),
        ("sleep", "Rest", "WAITING"),
    ]
    assert main(["workflow", "show", run["id"], "--data", str(data)]) == Exit.OK
    assert "Greet" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "fit"),
    [
        ('["Bye"]["ResultPath"] = None', None),
        ('.update(Greet={"Type": "Pass", "Next": "Both"})', "must be pinned"),
        ('["Both"]["Branches"][0]["States"].update(Rest={"Type": "Pass", "End": True})', "must be pinned"),
        (
            '.update(Greet={**MACHINE["States"]["Greet"], "Next": "New"},'
            ' New={"Type": "Wait", "Seconds": 1, "Next": "Both"})',
            "must be pinned",
        ),
    ],
)
def test_check_says_which_runs_a_new_definition_fits(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], change: str, fit: str | None
) -> None:
    """As for any workflow: a state that was passed differently is found before it is deployed."""
    module = f"machine_{len(change)}"
    (data / f"{module}.py").write_text(MODULE.format(change=change))
    monkeypatch.syspath_prepend(str(data))
    code = Exit.OK if fit is None else Exit.FINDINGS
    found = told(capsys, "check", module, "--data", data, code=code)
    assert found["runs"] == 1
    assert [each["fit"] for each in found["findings"]] == ([fit] if fit else [])
    assert all("Keep the old definition beside the new one" in each["mend"] for each in found["findings"])


def test_the_choreography_knows_what_a_machine_asks_and_publishes() -> None:
    """Commands, their answers and events are in the graph; nothing is reported that is right."""
    app = App(orders(), Depot().service, name="shop")
    specs = [service.spec for service in app.services.values()]
    edges = {(one.rpartition(":")[2], other.rpartition(":")[2]) for one, other in graph(specs).edges}
    assert {("OrderPlaced", "orders.fulfil"), ("orders.fulfil", "Reserve"), ("Reserved", "orders.fulfil")} <= edges
    assert ("orders.fulfil", "OrderShipped") in edges
    assert [finding.code for finding in check(specs) if finding.severity == "error"] == []
