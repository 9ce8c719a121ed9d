"""Calls to the outside from a workflow's steps: each takes effect once, or the run says that nobody knows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from antiphon import Effects, Event, Retry, Service, Transaction, Workflow, days, seconds
from antiphon.cli.exits import Exit
from antiphon.cli.main import main
from antiphon.model.effects import Effect
from antiphon.store.desk import Desk
from antiphon.store.effects import EffectDesk
from antiphon.store.maintenance import prune
from antiphon.testing.clock import VirtualClock
from tests.runtime.kit import World, running
from tests.runtime.test_effects import Bank, Receipt, effects_of
from tests.workflow.crashes import after, moments

pytestmark = pytest.mark.anyio

TABLES = "CREATE TABLE IF NOT EXISTS effects (n INTEGER PRIMARY KEY, what TEXT NOT NULL);"


class Ordered(Event, key="id"):
    """Begins a run."""

    id: str


class Done(Event, key="id"):
    """What it returns."""

    id: str
    receipts: list[int]


def shop(bank: Bank, *, refuse: bool = False, **how: Any) -> Service:
    """A service whose workflow reserves, charges twice by an effect, and at *refuse* refunds by another."""
    made = Service("shop", tables=TABLES)

    async def reserve(tx: Transaction) -> None:
        await tx.execute("INSERT INTO effects (what) VALUES ('reserve')")

    async def charge(n: int, effects: Effects, tx: Transaction) -> int:
        receipt: Receipt = await effects.once("charge", bank.charge, effects.key("charge"), **how)
        await tx.execute("INSERT INTO effects (what) VALUES (?)", f"charge {n}")
        return receipt.number

    async def refund(n: int, result: int, effects: Effects, tx: Transaction) -> None:
        await effects.once("refund", bank.charge, effects.key("refund"), **how)
        await tx.execute("INSERT INTO effects (what) VALUES (?)", f"refund {n} of {result}")

    @made.workflow(starts=Ordered, retry=Retry(attempts=3, first=seconds(1), jitter=False))
    async def process(ordered: Ordered, wf: Workflow) -> Done:
        await wf.step(reserve)
        receipts = await wf.gather(wf.step(charge, 1, undo=refund), wf.step(charge, 2, undo=refund))
        await wf.sleep(seconds(5))
        if refuse:
            await wf.compensate("refused")
        return Done(ordered.id, receipts)

    return made


async def end_of(world: World) -> tuple[str, list[str]]:
    """The state of the run, and what took effect inside."""
    ((state,),) = await world.rows("SELECT state FROM antiphon_runs")
    return str(state), sorted(str(what) for (what,) in await world.rows("SELECT what FROM effects"))


async def play(world: World) -> None:
    """One order to its end."""
    await world.publish("shop", Ordered("o1"))
    await world.clock.advance(20)


async def test_each_step_s_call_has_a_key_of_its_own(tmp_path: Path) -> None:
    """Two steps of one function, and their undo steps: four calls, each with its result on record."""
    bank = Bank()
    async with running(tmp_path, shop(bank, refuse=True)) as world:
        await play(world)
        inside = ["charge 1", "charge 2", "refund 1 of 1", "refund 2 of 2", "reserve"]
        assert await end_of(world) == ("COMPENSATED", inside)
        assert len(set(bank.charges)) == len(bank.charges) == 4
        found = await effects_of(world)
        assert {effect.state for effect in found} == {"DONE"}
        assert {effect.key for effect in found} == set(bank.charges)


@pytest.mark.parametrize(("failure", "charges"), [("before", 2), ("after", 2)])
async def test_an_unknown_outcome_is_verified(tmp_path: Path, failure: str, charges: int) -> None:
    """The next attempt of the step asks the other side; what took effect is not repeated."""
    bank = Bank(failure)
    async with running(tmp_path, shop(bank, verify=bank.find)) as world:
        await play(world)
        assert await end_of(world) == ("COMPLETED", ["charge 1", "charge 2", "reserve"])
        assert len(set(bank.charges)) == len(bank.charges) == charges


async def test_an_outcome_that_nobody_can_verify_leaves_the_run_stuck(tmp_path: Path) -> None:
    """The run says which call it is; a person says what became of it, the run is resumed and goes on by that."""
    bank = Bank("after")
    async with running(tmp_path, shop(bank)) as world:
        (event_id,) = await world.publish("shop", Ordered("o1"))
        await world.clock.advance(60)
        ((state, waiting),) = await world.rows("SELECT state, waiting FROM antiphon_runs")
        assert state == "STUCK"
        assert "not known" in str(waiting)
        assert "antiphon effect resolve" in str(waiting)
        assert await world.rows("SELECT * FROM antiphon_dead_letters") == []
        (open_one,) = [effect for effect in await effects_of(world) if effect.state == "AMBIGUOUS"]
        assert open_one.event_id == event_id
        result = msgspec.json.encode(Receipt(1, open_one.key))
        await EffectDesk(world.store).resolve(open_one, done=True, result=result, reason="seen in the portal")
        await Desk(world.store).runs.act(event_id, "resume")
        await world.clock.advance(20)
        assert await end_of(world) == ("COMPLETED", ["charge 1", "charge 2", "reserve"])
        assert len(set(bank.charges)) == len(bank.charges) == 2


def test_a_person_s_word_lets_the_run_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``antiphon effect resolve`` says what became of the call, and resumes the run that is stuck because of it."""
    bank, clock = Bank("before"), VirtualClock()

    async def begin() -> None:
        async with running(tmp_path, shop(bank), clock=clock) as world:
            await world.publish("shop", Ordered("o1"))

    async def go_on() -> tuple[str, list[str]]:
        async with running(tmp_path, shop(bank), clock=clock) as world:
            await world.clock.advance(20)
            return await end_of(world)

    asyncio.run(begin())
    assert main(["effect", "ls", "--data", str(tmp_path), "--json"]) == Exit.OK
    (effect,) = json.loads(capsys.readouterr().out)["effects"]
    said = ["--not-done", "--reason", "the bank has no such charge"]
    assert main(["effect", "resolve", effect["key"], *said, "--data", str(tmp_path)]) == Exit.OK
    assert "resumed: the run" in capsys.readouterr().err
    assert asyncio.run(go_on()) == ("COMPLETED", ["charge 1", "charge 2", "reserve"])
    assert len(set(bank.charges)) == len(bank.charges) == 2


@pytest.mark.parametrize("refuse", [False, True])
async def test_a_crash_at_any_moment_calls_nothing_twice(tmp_path: Path, refuse: bool) -> None:
    """Whatever was committed when the process died: the other side is asked, and each call has taken effect once."""
    first = Bank()

    def make(bank: Bank) -> Callable[[], Service]:
        return lambda: shop(bank, refuse=refuse, verify=bank.find)

    found = await moments(tmp_path, make(first), play, outside=lambda: list(first.charges))
    assert len(found) > 8
    for number, moment in enumerate(found):
        bank = Bank()
        bank.charges += moment.outside
        async with after(moment, make(bank)) as world:
            await world.clock.advance(30)
            state, inside = await end_of(world)
            assert state == ("COMPENSATED" if refuse else "COMPLETED"), f"after commit {number}"
            assert len(inside) == len(set(inside)) == (5 if refuse else 3), f"after commit {number}"
            assert len(set(bank.charges)) == len(bank.charges) == (4 if refuse else 2), f"after commit {number}"
            assert await world.rows("SELECT * FROM antiphon_dead_letters") == []


async def test_a_live_run_keeps_the_record_of_its_calls(tmp_path: Path) -> None:
    """Retention removes the event that began it, and not what is known of its calls; with the run they go."""
    bank = Bank("after")
    async with running(tmp_path, shop(bank), clock=VirtualClock()) as world:
        await world.publish("shop", Ordered("o1"))
        later = world.clock.now_ms() + round(days(9).total_seconds() * 1000)
        await prune(world.store, later)
        assert [effect.state for effect in await effects_of(world)] == ["AMBIGUOUS"]
        ((run_id,),) = await world.rows("SELECT id FROM antiphon_runs")
        await Desk(world.store).runs.act(str(run_id), "skip", reason="settled by hand")
        await world.clock.rest()
        await prune(world.store, later)
        await prune(world.store, later)
        left: list[Effect] = await effects_of(world)
        assert left == []
