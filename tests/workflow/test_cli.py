"""``antiphon workflow``: what a person sees of runs, and does to them."""

import json
from pathlib import Path
from typing import Any

import pytest

from antiphon.cli.exits import Exit
from antiphon.cli.main import main
from antiphon.store.maintenance import prune
from antiphon.testing.clock import VirtualClock
from tests.runtime.kit import running
from tests.workflow.orders import OrderPlaced, Paid, shop

pytestmark = pytest.mark.anyio

MODULE = """
from antiphon import App
from tests.workflow.test_acts import worker
app = App(worker({version}), name="app")
"""


async def left_over(data: Path) -> None:
    """A store with one run that waits."""
    async with running(data, shop()) as world:
        await world.publish("orders", OrderPlaced("o1"))


def told(capsys: pytest.CaptureFixture[str], *arguments: object, code: Exit = Exit.OK) -> Any:
    """What a command says in JSON."""
    assert main(["workflow", *map(str, arguments), "--json"]) == code
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with a store that has one waiting run."""
    import asyncio

    asyncio.run(left_over(tmp_path))
    return tmp_path


def test_ls_finds_by_state_key_and_what_runs_show(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each mark narrows the list; the table shows the same."""
    for marks in ([], ["--state", "waiting"], ["--key", "o1"], ["--text", "reserved"], ["--live"]):
        found = told(capsys, "ls", "--data", data, *marks)["runs"]
        assert [run["key"] for run in found] == ["o1"]
    for marks in (["--state", "STUCK"], ["--key", "o2"], ["--text", "nothing"], ["--workflow", "orders.other"]):
        assert told(capsys, "ls", "--data", data, *marks)["runs"] == []
    assert main(["workflow", "ls", "--data", str(data)]) == Exit.OK
    assert "wait Paid" in capsys.readouterr().out
    assert main(["workflow", "ls", "--data", str(data), "--state", "SLEEPY"]) == Exit.USAGE


def test_show_tells_the_journal(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """State, what it waits for, what it shows, and every record; an unknown id is said."""
    (run,) = told(capsys, "ls", "--data", data)["runs"]
    shown = told(capsys, "show", run["id"], "--data", data)
    assert [(each["kind"], each["mark"]) for each in shown["journal"]] == [
        ("step", "DONE"),
        ("state", "DONE"),
        ("wait", "WAITING"),
    ]
    assert main(["workflow", "show", run["id"], "--data", str(data)]) == Exit.OK
    assert '{"reserved":true}' in capsys.readouterr().out
    assert main(["workflow", "show", "nobody", "--data", str(data)]) != Exit.OK


async def test_what_is_asked_is_carried_out_by_who_runs_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Cancel, while the application does not run: the next start undoes what the run had done."""
    clock = VirtualClock()
    async with running(tmp_path, shop(), clock=clock) as world:
        await world.publish("orders", OrderPlaced("o1"))
        (run_id,) = (await world.rows("SELECT id FROM antiphon_runs"))[0]
        runs = (await _desk(world)).act
        await runs(str(run_id), "cancel", reason="no longer wanted")
        await clock.rest()
        assert await world.rows("SELECT state FROM antiphon_runs") == [("CANCELLED",)]
        with pytest.raises(Exception, match="nothing to resume"):
            await runs(str(run_id), "resume")


async def test_runs_that_ended_long_ago_are_removed(tmp_path: Path) -> None:
    """With their journals and what arrived for them; a live run and what it may still take stay."""
    clock = VirtualClock()
    async with running(tmp_path, shop(), clock=clock) as world:
        await world.publish("orders", OrderPlaced("o1"), Paid("o1"), OrderPlaced("o2"), Paid("o3"))
        await clock.advance(25)
        runs = (await _desk(world)).act
        ((live,),) = await world.rows("SELECT id FROM antiphon_runs WHERE key = 'o2'")
        await runs(str(live), "pause", reason="for long")
        await clock.rest()
        await world.publish("orders", Paid("o2"))
        await prune(world.store, clock.now_ms())
        await clock.jump(1)
        await prune(world.store, clock.now_ms())
        assert await world.rows("SELECT key, state FROM antiphon_runs") == [("o2", "PAUSED")]
        assert await world.rows("SELECT key FROM antiphon_inbox") == [("o2",)]
        assert await world.rows("SELECT DISTINCT run FROM antiphon_journal") == await world.rows(
            "SELECT nr FROM antiphon_runs"
        )


async def _desk(world: Any) -> Any:
    from antiphon.store.runs import Runs

    return Runs(world.store)


@pytest.mark.parametrize(
    ("version", "fit"),
    [(1, None), (2, "needs a version branch"), (3, None), (4, "must be pinned")],
)
def test_check_says_which_runs_the_code_can_go_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], version: int, fit: str | None
) -> None:
    """The journals of live runs are answered to the code as it is now; nothing is carried out."""
    import asyncio

    from tests.workflow.test_acts import worker
    from tests.workflow.test_calls import Begun

    async def begin() -> None:
        async with running(tmp_path, worker(1)) as world:
            await world.publish("work", Begun("a"))

    asyncio.run(begin())
    module = f"checked{version}"
    (tmp_path / f"{module}.py").write_text(MODULE.format(version=version))
    monkeypatch.syspath_prepend(str(tmp_path))
    code = Exit.OK if fit is None else Exit.FINDINGS
    found = told(capsys, "check", module, "--data", tmp_path, code=code)
    assert found["runs"] == 1
    assert [each["fit"] for each in found["findings"]] == ([fit] if fit else [])
