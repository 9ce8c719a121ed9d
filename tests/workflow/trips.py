"""A workflow with everything in it: undo steps, a quorum, a child, timers, a signal, calls to the outside."""

from __future__ import annotations

from antiphon import Effects, Event, Retry, Service, Transaction, WaitTimedOut, Workflow, WorkflowCancelled, seconds
from tests.runtime.kit import World
from tests.runtime.test_effects import Bank
from tests.workflow.orders import Faults

TABLES = "CREATE TABLE IF NOT EXISTS effects (n INTEGER PRIMARY KEY, what TEXT NOT NULL);"
RETRY = Retry(attempts=3, first=seconds(2), jitter=False)
#: The steps that can fail, and those whose undo can.
STEPS = ("reserve", "vote 1", "vote 2", "vote 3", "pack", "charge", "ship")
UNDOABLE = ("reserve", "vote 1", "vote 2", "vote 3", "charge")


class Booked(Event, key="id"):
    """Begins a trip."""

    id: str


class Pack(Event, key="id"):
    """Begins the child."""

    id: str


class Over(Event, key="id"):
    """What a trip returns."""

    id: str
    how: str


def trips(faults: Faults, bank: Bank) -> Service:
    """A service `trips` with the workflow `arrange` and its child `packing`; *faults* says what fails how often."""
    made = Service("trips", tables=TABLES)

    async def note(what: str, tx: Transaction) -> None:
        await tx.execute("INSERT INTO effects (what) VALUES (?)", what)
        faults(what)

    async def take_back(what: str, tx: Transaction) -> None:
        await note(f"undo {what}", tx)

    async def charge(what: str, effects: Effects, tx: Transaction) -> int:
        receipt = await effects.once(what, bank.charge, effects.key(what), verify=bank.find)
        await note(what, tx)
        return receipt.number

    async def refund(what: str, effects: Effects, tx: Transaction) -> None:
        await effects.once(what, bank.charge, effects.key(what), verify=bank.find)
        await take_back(what, tx)

    @made.workflow(starts=Pack, retry=RETRY)
    async def packing(pack: Pack, wf: Workflow) -> None:
        await wf.step(note, "pack", undo=take_back)
        await wf.sleep(seconds(4))

    @made.workflow(starts=Booked, retry=RETRY)
    async def arrange(booked: Booked, wf: Workflow) -> Over:
        await wf.step(note, "reserve", undo=take_back)

        async def vote(number: int) -> int:
            await wf.step(note, f"vote {number}", undo=take_back)
            await wf.sleep(seconds(3 * number))
            return number

        await wf.gather(vote(1), vote(2), vote(3), need=2)
        await wf.child(packing, Pack(booked.id))
        try:
            await wf.signal("go", timeout=seconds(30))
        except WaitTimedOut:
            await wf.compensate("nobody says go")
            return Over(booked.id, "late")
        except WorkflowCancelled:
            await wf.compensate("cancelled while it waited")
            return Over(booked.id, "cancelled")
        await wf.step(charge, "charge", undo=refund)
        await wf.step(note, "ship")
        return Over(booked.id, "shipped")

    return made


async def check_end(world: World, bank: Bank, times: dict[str, int], *, skipped: bool = False) -> None:
    """The run has ended, and what is left of it is what its end says.

    Nothing took effect twice. Of a run that did not complete all is undone in reverse, but for what was skipped by a
    person after it had failed for good.
    """
    states = {str(name): str(state) for name, state in await world.rows("SELECT workflow, state FROM antiphon_runs")}
    did = [str(what) for (what,) in await world.rows("SELECT what FROM effects ORDER BY n")]
    assert len(did) == len(set(did)), "an effect is there twice"
    assert len(bank.charges) == len(set(bank.charges)), "the bank was asked twice"
    done = [what for what in did if what in UNDOABLE]
    undone = [what.removeprefix("undo ") for what in did if what.startswith("undo ")]
    mine = [what for what in undone if what != "pack"]
    if states["trips.arrange"] == "COMPLETED":
        assert "ship" in did
        assert not mine
    else:
        assert "ship" not in did
        left = [what for what in done if what not in mine]
        assert mine == [what for what in reversed(done) if what not in left], "undone in another order"
        assert not left or (skipped and all(times.get(f"undo {what}", 0) >= RETRY.attempts for what in left))
    child = states.get("trips.packing", "COMPLETED")
    assert child in ("COMPLETED", "COMPENSATED", "FAILED", "CANCELLED")
    if child != "COMPLETED" and "pack" in did:
        assert "pack" in undone or (skipped and times.get("undo pack", 0) >= RETRY.attempts)
    assert await world.rows("SELECT * FROM antiphon_dead_letters") == []
    timers = await world.rows("SELECT id FROM antiphon_timers WHERE type LIKE 'antiphon.workflow.%'")
    assert timers == []
