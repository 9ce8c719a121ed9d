"""What a workflow's function can call: several at once, children, signals, recorded values, its state."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from antiphon import (
    Command,
    Delivery,
    Event,
    Retry,
    Service,
    StepFailed,
    Transaction,
    WaitTimedOut,
    Workflow,
    minutes,
    seconds,
)
from antiphon.errors import ChildFailed
from antiphon.runtime.workflow.gathering import UNFINISHED
from tests.runtime.kit import World, running
from tests.workflow.orders import TABLES

pytestmark = pytest.mark.anyio


class Begun(Event, key="id"):
    id: str
    parts: int = 3


class Arrived(Event, key="id"):
    id: str
    n: int


class Over(Event, key="id"):
    id: str
    said: list[Any]


async def note(what: str, tx: Transaction) -> str:
    """An effect; returns what it is."""
    if what.startswith("bad"):
        raise ValueError(what)
    await tx.execute("INSERT INTO effects (what, order_id) VALUES (?, '')", what)
    return what


def service() -> Service:
    return Service("work", tables=TABLES)


async def said(world: World) -> list[Any]:
    """What the runs said at their end."""
    import json

    return [json.loads(data)["said"] for (data,) in await world.rows("SELECT data FROM antiphon_log WHERE type='Over'")]


async def test_a_gather_waits_for_all_of_its_calls(tmp_path: Path) -> None:
    """Waits and steps of several branches go on side by side; the results are in the order of the calls."""
    work = service()

    @work.workflow(awaits=(Arrived,))
    async def collect(begun: Begun, wf: Workflow) -> Over:
        async def part(n: int) -> str:
            arrived = await wf.wait_for(Arrived, where=lambda event: event.n == n)
            await wf.sleep(seconds(n))
            return await wf.step(note, f"part {arrived.n}")

        return Over(begun.id, await wf.gather(*(part(n) for n in range(begun.parts))))

    async with running(tmp_path, work) as world:
        await world.publish("work", Begun("a"))
        for n in (2, 0, 1):
            await world.publish("work", Arrived("a", n))
        await world.clock.advance(5)
        assert await said(world) == [["part 0", "part 1", "part 2"]]
        assert len(await world.rows("SELECT * FROM effects")) == 3


async def test_a_quorum_is_enough_and_its_choice_is_kept(tmp_path: Path) -> None:
    """With need=2 the slow third call is not waited for, in this turn and in every later one."""
    work = service()

    @work.workflow()
    async def vote(begun: Begun, wf: Workflow) -> Over:
        async def ask(n: int) -> str:
            await wf.sleep(seconds(10 * n))
            return await wf.step(note, f"vote {n}")

        votes = await wf.gather(ask(0), ask(1), ask(2), need=2)
        await wf.sleep(minutes(2))
        return Over(begun.id, ["late" if each is UNFINISHED else each for each in votes])

    async with running(tmp_path, work) as world:
        await world.publish("work", Begun("a"))
        await world.clock.advance(140)
        assert await said(world) == [["vote 0", "vote 1", "late"]]
        assert await world.rows("SELECT state FROM antiphon_runs") == [("COMPLETED",)]


async def test_best_effort_keeps_errors_in_their_places(tmp_path: Path) -> None:
    """A call that fails does not undo the others; without best effort its error is raised."""
    work = service()
    once = Retry(attempts=1)

    @work.workflow(retry=once)
    async def attempt(begun: Begun, wf: Workflow) -> Over:
        got = await wf.gather(wf.step(note, "a"), wf.step(note, "bad b"), best_effort=True)
        heard = [each if isinstance(each, str) else type(each).__name__ for each in got]
        try:
            await wf.gather(wf.step(note, "c"), wf.step(note, "bad d"))
        except StepFailed as error:
            heard.append(error.message)
        return Over(begun.id, heard)

    async with running(tmp_path, work) as world:
        await world.publish("work", Begun("a"))
        assert await said(world) == [["a", "StepFailed", "bad d"]]


async def test_a_child_returns_its_event_or_fails(tmp_path: Path) -> None:
    """The parent waits for its child, gets what it returned, and is told when it failed."""
    work = service()

    class Packed(Event, key="id"):
        id: str

    class Pack(Event, key="id"):
        id: str

    @work.workflow(starts=Pack, retry=Retry(attempts=1))
    async def pack(order: Pack, wf: Workflow) -> Packed:
        await wf.sleep(seconds(5))
        await wf.step(note, f"pack {order.id}" if order.id == "p1" else "bad")
        return Packed(order.id)

    @work.workflow()
    async def parent(begun: Begun, wf: Workflow) -> Over:
        packed = await wf.child(pack, Pack("p1"))
        try:
            await wf.child(pack, Pack("p2"))
        except ChildFailed as error:
            return Over(begun.id, [packed.id, "FAILED" in str(error)])
        return Over(begun.id, [])

    async with running(tmp_path, work) as world:
        await world.publish("work", Begun("a"))
        await world.clock.advance(12)
        assert await said(world) == [["p1", True]]
        assert await world.rows("SELECT workflow, state FROM antiphon_runs ORDER BY nr") == [
            ("work.parent", "COMPLETED"),
            ("work.pack", "COMPLETED"),
            ("work.pack", "FAILED"),
        ]


async def test_a_request_is_answered_by_what_it_caused(tmp_path: Path) -> None:
    """Of several answers in one correlation each request takes its own; one that nobody answers times out."""
    work = service()

    class Ask(Event, key="id"):
        id: str
        n: int

    class Answer(Event, key="id"):
        id: str
        n: int

    @work.on(Ask)
    async def answer(ask: Ask) -> Answer | None:
        return Answer(ask.id, 10 * ask.n) if ask.n else None

    @work.workflow(awaits=(Answer,), publishes=(Ask,))
    async def process(begun: Begun, wf: Workflow) -> Over:
        both = await wf.gather(wf.request(Ask(begun.id, 1), Answer), wf.request(Ask(begun.id, 2), Answer))
        heard: list[Any] = [each.n for each in both]
        try:
            await wf.request(Ask(begun.id, 0), Answer, timeout=seconds(5))
        except WaitTimedOut:
            heard.append("late")
        return Over(begun.id, heard)

    async with running(tmp_path, work) as world:
        await world.publish("work", Begun("a"))
        await world.clock.advance(6)
        assert await said(world) == [[10, 20, "late"]]


async def test_recorded_values_are_the_same_in_every_turn(tmp_path: Path) -> None:
    """Time, randomness and ids do not change when the function is called again."""
    work = service()
    passages: list[tuple[Any, ...]] = []

    @work.workflow()
    async def draw(begun: Begun, wf: Workflow) -> Over:
        drawn = (wf.now(), wf.random(), wf.uuid())
        passages.append(drawn)
        await wf.sleep(seconds(1))
        await wf.sleep(seconds(1))
        return Over(begun.id, [drawn[2]])

    async with running(tmp_path, work) as world:
        await world.publish("work", Begun("a"))
        await world.clock.advance(5)
    assert len(passages) == 3
    assert len(set(passages)) == 1


async def test_a_signal_is_taken_once_and_the_state_is_shown(tmp_path: Path) -> None:
    """A signal wakes the run; what the function keeps in wf.state is in its row."""
    work = service()

    @work.workflow()
    async def approve(begun: Begun, wf: Workflow) -> Over:
        wf.state = "asked"
        first = await wf.signal("approve", dict[str, int])
        wf.state = first
        try:
            await wf.signal("approve", timeout=seconds(3))
        except WaitTimedOut:
            return Over(begun.id, [first["by"], wf.state])
        return Over(begun.id, ["twice"])

    async with running(tmp_path, work) as world:
        await world.publish("work", Begun("a"))
        assert await world.rows("SELECT user_state FROM antiphon_runs") == [(b'"asked"',)]
        async with world.runtime.transaction("work") as tx:
            assert await approve.signal(tx, "approve", {"by": 7}, key="a")
        await world.clock.advance(5)
        assert await said(world) == [[7, {"by": 7}]]


async def test_a_request_takes_the_reply_to_it_whoever_caused_that(tmp_path: Path) -> None:
    """A service that answers two requests when the second is there: each call has its own answer."""

    class Weighed(Event, key="id"):
        id: str
        n: int

    class Weigh(Command[Weighed], key="id", to="scales"):
        id: str
        n: int

    scales, work = Service("scales"), service()
    kept: list[tuple[str, int]] = []

    @scales.on(Weigh)
    async def weigh(asked: Weigh, tx: Transaction, delivery: Delivery) -> Weighed | None:
        kept.append((delivery.envelope.id, asked.n))
        if len(kept) == 2:
            for request_id, n in kept:
                await tx.reply(request_id, Weighed(asked.id, n))
        return None

    @work.workflow(awaits=(Weighed,), publishes=(Weigh,))
    async def process(begun: Begun, wf: Workflow) -> Over:
        both = await wf.gather(wf.request(Weigh(begun.id, 1), Weighed), wf.request(Weigh(begun.id, 2), Weighed))
        return Over(begun.id, [each.n for each in both])

    async with running(tmp_path, work, scales, own_stores=True) as world:
        await world.publish("work", Begun("a"))
        await world.clock.advance(2)
        assert await said(world) == [[1, 2]]


@pytest.mark.parametrize("outside", [False, True])
async def test_no_more_calls_than_the_limit_are_under_way(tmp_path: Path, outside: bool) -> None:
    """They begin in their order, the next one when one has ended, in every passage; so many errors are tolerated."""
    work = service()
    busy = most = 0

    async def meet(n: int, tx: Transaction) -> int:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        if outside:
            await asyncio.sleep(0)
        busy -= 1
        await note(f"{'bad' if n in (1, 4) else 'part'} {n}", tx)
        return n

    @work.workflow(retry=Retry(attempts=1))
    async def collect(begun: Begun, wf: Workflow) -> Over:
        async def part(n: int) -> int:
            await wf.sleep(seconds(10 - n), name=f"rest {n}")
            return await wf.step(meet, n)

        calls = (part(n) for n in range(begun.parts))
        got = await wf.gather(*calls, limit=2, tolerate=2, name="parts")
        return Over(begun.id, [each if isinstance(each, int) else type(each).__name__ for each in got])

    async with running(tmp_path, work) as world:
        await world.publish("work", Begun("a", parts=6))
        assert await world.rows("SELECT waiting FROM antiphon_runs") == [("sleep rest 0, sleep rest 1",)]
        await world.clock.advance(9.5)
        assert await world.rows("SELECT waiting FROM antiphon_runs") == [("sleep rest 0, sleep rest 2",)]
        await world.clock.advance(60)
        assert await said(world) == [[0, "StepFailed", 2, 3, "StepFailed", 5]]
        assert most <= 2
        assert await world.rows("SELECT name FROM antiphon_journal WHERE kind = 'gather'") == [("parts",)]


async def test_more_errors_than_are_tolerated_end_a_gather(tmp_path: Path) -> None:
    """With the first of them; calls that have not begun do not begin any more."""
    work = service()

    @work.workflow(retry=Retry(attempts=1))
    async def collect(begun: Begun, wf: Workflow) -> Over:
        names = ["bad a", "b", "bad c", "d"]
        try:
            await wf.gather(*(wf.step(note, each) for each in names), limit=1, tolerate=1)
        except StepFailed as error:
            await wf.sleep(seconds(5))
            return Over(begun.id, [error.message])
        return Over(begun.id, [])

    async with running(tmp_path, work) as world:
        await world.publish("work", Begun("a"))
        await world.clock.advance(6)
        assert await said(world) == [["bad a"]]
        assert await world.rows("SELECT what FROM effects") == [("b",)]
