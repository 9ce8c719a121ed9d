"""What a run asks of other services is taken back by asking them again, and by nobody's forgetting."""

from __future__ import annotations

from pathlib import Path

import pytest

from antiphon import (
    App,
    Command,
    Delivery,
    Event,
    Refused,
    Reject,
    Service,
    Transaction,
    WaitTimedOut,
    Workflow,
    WorkflowCancelled,
    seconds,
)
from antiphon.errors import DeclarationError
from antiphon.runtime.workflow.undoing import replies_to
from antiphon.testing.clock import VirtualClock
from tests.runtime.kit import World, running

pytestmark = pytest.mark.anyio


class Wanted(Event, key="id"):
    id: str
    wait_s: int = 0


class Kept(Event):
    id: str


class GivenBack(Event):
    id: str


class Failed(Event, key="id"):
    id: str
    reason: str


class Keep(Command[Kept], key="id", to="depot"):
    id: str
    what: str


class GiveBack(Command[GivenBack], key="id", to="depot"):
    id: str
    what: str


class Depot:
    """The service that is asked. *refusing* says how many requests to give something back it refuses."""

    def __init__(self) -> None:
        self.refusing = 0
        self.done: list[str] = []
        self.service = Service("depot")
        self.service.on(Keep, GiveBack, name="serve")(self.serve)

    async def serve(self, asked: Keep | GiveBack) -> Kept | GivenBack:
        """Keep, or give back."""
        if isinstance(asked, Keep):
            if asked.what == "nothing":
                raise Reject("there is none")
            self.done.append(f"keep {asked.what}")
            return Kept(asked.id)
        if self.refusing:
            self.refusing -= 1
            raise Reject("it is locked")
        self.done.append(f"give back {asked.what}")
        return GivenBack(asked.id)


def desk() -> Service:
    """The service whose workflow keeps two things, and then always fails."""
    made = Service("desk", tables="CREATE TABLE IF NOT EXISTS notes (what TEXT)")

    async def note(what: str, tx: Transaction) -> None:
        await tx.execute("INSERT INTO notes VALUES (?)", what)

    async def unnote(what: str, tx: Transaction) -> None:
        await tx.execute("INSERT INTO notes VALUES ('not ' || ?)", what)

    @made.workflow(awaits=(Kept, GivenBack, Refused), publishes=(Keep, GiveBack))
    async def process(wanted: Wanted, wf: Workflow) -> Failed:
        reason = "all is over"
        try:
            await wf.request(Keep(wanted.id, "hat"), Kept, undo=GiveBack(wanted.id, "hat"))
            await wf.step(note, "hat", undo=unnote)
            await wf.request(Keep(wanted.id, "coat"), Kept, undo=GiveBack(wanted.id, "coat"))
            await wf.request(Keep(wanted.id, "nothing"), Kept, Refused)
            await wf.sleep(seconds(wanted.wait_s))
        except WorkflowCancelled as error:
            reason = str(error)
        await wf.compensate(reason)
        return Failed(wanted.id, reason)

    return made


async def standing(world: World) -> tuple[str, str | None]:
    """The state of the one run, and what it waits for."""
    ((state, waiting),) = await world.rows("SELECT state, waiting FROM antiphon_runs")
    return str(state), waiting


ALL = ["keep hat", "keep coat", "give back coat", "give back hat"]


@pytest.mark.parametrize("own_stores", [True, False])
async def test_what_was_asked_is_taken_back_in_reverse(tmp_path: Path, own_stores: bool) -> None:
    """Requests and steps are undone together, the last first, and each answer is awaited before the next."""
    depot = Depot()
    async with running(tmp_path, desk(), depot.service, own_stores=own_stores) as world:
        await world.publish("desk", Wanted("a"))
        await world.clock.advance(2)
        assert await standing(world) == ("COMPENSATED", None)
        assert depot.done == ALL
        assert await world.rows("SELECT what FROM notes") == [("hat",), ("not hat",)]
        undone = await world.rows("SELECT name, attempts FROM antiphon_journal WHERE kind = 'undo' ORDER BY nr")
        assert undone == [("GiveBack", 1), ("unnote", 1), ("GiveBack", 1)]


@pytest.mark.parametrize("act", ["resume", "skip"])
async def test_a_refused_undo_leaves_the_run_stuck(tmp_path: Path, act: str) -> None:
    """It says who refused and why; asked again it goes on, and with a reason it goes on without."""
    depot, service = Depot(), desk()
    depot.refusing = 1
    async with running(tmp_path, service, depot.service, own_stores=True) as world:
        await world.publish("desk", Wanted("a"))
        await world.clock.advance(2)
        state, why = await standing(world)
        assert state == "STUCK"
        assert "undo GiveBack of Kept failed: ERROR" in str(why)
        assert "it is locked" in str(why)
        assert depot.done == ALL[:2]
        process = service.workflows["process"]
        async with world.runtime.transaction("desk") as tx:
            if act == "skip":
                await process.skip(tx, "given back by hand", key="a")
            else:
                await process.resume(tx, key="a")
        await world.clock.advance(2)
        assert await standing(world) == ("COMPENSATED", None)
        assert depot.done == (ALL if act == "resume" else [*ALL[:2], "give back hat"])


async def test_a_run_that_is_cancelled_while_it_waits_for_an_answer_takes_the_question_back(tmp_path: Path) -> None:
    """Nobody knows what the service that is away will do; it is told to undo it, after what it was asked before."""
    depot, service = Depot(), desk()
    async with running(tmp_path, service, own_stores=True, only=["desk"]) as world:
        await world.publish("desk", Wanted("a"))
        assert await standing(world) == ("WAITING", "wait Kept")
        async with world.runtime.transaction("desk") as tx:
            await service.workflows["process"].cancel(tx, "enough", key="a")
        await world.clock.advance(1)
        assert await standing(world) == ("COMPENSATING", "undo GiveBack")
        clock = world.clock
    async with running(tmp_path, service, depot.service, own_stores=True, clock=clock) as world:
        await world.clock.advance(3)
        assert await standing(world) == ("CANCELLED", None)
        assert depot.done == ["keep hat", "give back hat"]


async def test_a_cancellation_does_not_disturb_the_undoing(tmp_path: Path) -> None:
    """It waits for the answer to the undo, as before; what is undone is undone once."""
    depot, service = Depot(), desk()
    depot.refusing = 1
    async with running(tmp_path, service, depot.service, own_stores=True) as world:
        await world.publish("desk", Wanted("a"))
        await world.clock.advance(2)
        async with world.runtime.transaction("desk") as tx:
            await service.workflows["process"].cancel(tx, "enough", key="a")
        await world.clock.advance(2)
        assert (await standing(world))[0] == "STUCK"


def test_an_event_undoes_nothing() -> None:
    """What nobody answers cannot be awaited; it is said where the request is made."""
    with pytest.raises(DeclarationError, match="GivenBack is no command"):
        replies_to(GivenBack("a"))


@pytest.mark.parametrize("own_stores", [True, False])
async def test_a_request_that_is_answered_too_late_is_told_so(tmp_path: Path, own_stores: bool) -> None:
    """Its time-out stands in the request table, the reply that comes later is there and marked; nobody takes it."""
    slow = Service("depot")
    asker = Service("desk")
    heard: list[str] = []

    @slow.on(Keep, GiveBack)
    async def serve(asked: Keep | GiveBack, delivery: Delivery) -> Kept | GivenBack | None:
        heard.append(delivery.envelope.id)
        return None

    @slow.on(Failed)
    async def answer(late: Failed, tx: Transaction) -> Kept:
        await tx.reply(heard[0], Kept(late.id))
        return Kept(late.id)

    @asker.workflow(awaits=(Kept,), publishes=(Keep,))
    async def process(wanted: Wanted, wf: Workflow) -> Failed:
        try:
            await wf.request(Keep(wanted.id, "hat"), Kept, timeout=seconds(5))
        except WaitTimedOut as error:
            return Failed(wanted.id, str(error))
        return Failed(wanted.id, "none")

    async with running(tmp_path, asker, slow, own_stores=own_stores) as world:
        await world.publish("desk", Wanted("a"))
        await world.clock.advance(4)
        requests = "SELECT STATUS, DEADLINE_DTTM IS NOT NULL FROM antiphon_requests"
        assert await world.rows(requests) == [("WAITING", 1)]
        await world.clock.advance(20)
        assert await world.rows(requests) == [("TIMED_OUT", 1)]
        responses = await world.rows("SELECT MESSAGE_TYPE, STATUS, LATE FROM antiphon_responses ORDER BY CREATED_DTTM")
        assert responses == [("antiphon.timed-out", "TIMED_OUT", 0), ("Kept", "ANSWERED", 1)]
        assert await world.rows("SELECT state FROM antiphon_runs") == [("COMPLETED",)]


async def test_a_request_past_its_time_is_not_started(tmp_path: Path) -> None:
    """The time-out of a workflow's request is the deadline of the command, as that of any request is."""
    asker, depot = Service("desk"), Depot()

    @asker.workflow(awaits=(Kept,), publishes=(Keep,))
    async def process(wanted: Wanted, wf: Workflow) -> Failed:
        try:
            await wf.request(Keep(wanted.id, "hat"), Kept, timeout=seconds(5))
        except WaitTimedOut:
            return Failed(wanted.id, "late")
        return Failed(wanted.id, "none")

    clock = VirtualClock()
    async with running(tmp_path, asker, depot.service, own_stores=True, clock=clock, only=["desk"]) as world:
        await world.publish("desk", Wanted("a"))
        await clock.advance(6)
    async with running(tmp_path, asker, depot.service, own_stores=True, clock=clock) as world:
        await clock.advance(6)
        assert depot.done == []
        assert await world.rows("SELECT STATUS FROM antiphon_requests") == [("TIMED_OUT",)]


class Told(Event, key="id"):
    id: str


class Answered(Event, key="other"):
    other: str


class Ask(Command[Answered], key="other", to="depot"):
    other: str


async def test_what_a_run_asks_after_an_event_of_another_process_belongs_to_the_run(tmp_path: Path) -> None:
    """The event was found by the run's key; the answer to the next request, of another key, finds its way back."""
    made, depot = Service("desk"), Service("depot")

    @depot.on(Ask)
    async def answer(asked: Ask) -> Answered:
        return Answered(asked.other)

    @made.workflow(awaits=(Told, Answered), publishes=(Ask,))
    async def process(wanted: Wanted, wf: Workflow) -> Failed:
        await wf.wait_for(Told)
        return Failed(wanted.id, (await wf.request(Ask("b"), Answered)).other)

    async with running(tmp_path, made, depot) as world:
        (begun,) = await world.publish("desk", Wanted("a"))
        await world.publish("desk", Told("a"))
        assert (await standing(world))[0] == "COMPLETED"
        assert await world.rows("SELECT correlation_id FROM antiphon_log WHERE type = 'Answered'") == [(begun,)]


async def test_a_route_may_act_on_several_runs(tmp_path: Path) -> None:
    """Each act belongs to the process of its run: what the run then asks for is answered to it."""
    depot, service = Depot(), desk()

    @service.post("/cancel")
    async def cancel(tx: Transaction) -> dict[str, str]:
        for key in ("a", "b"):
            await service.workflows["process"].cancel(tx, "enough", key=key)
        return {}

    app = App(service, depot.service, name="wardrobe", own_stores=True)
    async with app.test(data=tmp_path) as world:
        for key in ("a", "b"):
            await world.publish(Wanted(key, wait_s=60), service="desk")
        await world.settle()
        assert (await world.request("POST", "/cancel")).status_code == 200
        await world.advance(seconds(5))
        assert world.rows("desk", "SELECT state FROM antiphon_runs") == [("CANCELLED",)] * 2
