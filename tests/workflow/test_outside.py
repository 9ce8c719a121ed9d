"""Steps that await what is outside, run in threads, or use a session; and functions that await by themselves."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from antiphon import Event, Retry, Service, SyncTransaction, Transaction, Workflow
from antiphon.errors import DeclarationError
from antiphon.store import workflows as rows
from tests.runtime.kit import running
from tests.workflow.orders import TABLES
from tests.workflow.test_calls import Arrived, Begun, Over, note, said

pytestmark = pytest.mark.anyio


class Meeting:
    """Calls that go on only when so many wait at the same time."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._there = 0
        self._all = asyncio.Event()

    async def __call__(self, n: int, tx: Transaction) -> int:
        """Wait for the others, then write."""
        self._there += 1
        if self._there >= self._size:
            self._all.set()
        await self._all.wait()
        await tx.execute("INSERT INTO effects (what, order_id) VALUES (?, '')", f"met {n}")
        return n


async def test_steps_of_a_gather_await_the_outside_together(tmp_path: Path) -> None:
    """Once outside the batch, the branches' steps run side by side, each with a transaction of its own."""
    work = Service("work", tables=TABLES)
    meeting = Meeting(3)

    async def first(tx: Transaction) -> None:
        await asyncio.sleep(0)
        await note("first", tx)

    async def meet(n: int, tx: Transaction) -> int:
        return await meeting(n, tx)

    @work.workflow()
    async def process(begun: Begun, wf: Workflow) -> Over:
        await wf.step(first)
        return Over(begun.id, await wf.gather(*(wf.step(meet, n) for n in range(3))))

    async with running(tmp_path, work) as world:
        await world.publish("work", Begun("a"))
        assert await said(world) == [[0, 1, 2]]
        assert len(await world.rows("SELECT * FROM effects")) == 4


async def test_runs_await_the_outside_beside_each_other(tmp_path: Path) -> None:
    """One run that waits for the outside holds up no other."""
    work = Service("work", tables=TABLES)
    meeting = Meeting(2)

    async def meet(n: int, tx: Transaction) -> int:
        return await meeting(n, tx)

    @work.workflow()
    async def process(begun: Begun, wf: Workflow) -> Over:
        if begun.parts == 0:
            await wf.step(asyncio.sleep, 0, name="outside")
            return Over(begun.id, [])
        return Over(begun.id, [await wf.step(meet, begun.parts)])

    async with running(tmp_path, work) as world:
        await world.publish("work", Begun("warm", 0))
        await world.publish("work", Begun("a", 1), Begun("b", 2))
        assert sorted(await said(world)) == [[], [1], [2]]


async def test_a_plain_def_runs_in_a_thread(tmp_path: Path) -> None:
    """It may block, and writes through a SyncTransaction; the loop goes on meanwhile."""
    work = Service("work", tables=TABLES)

    def block(what: str, tx: SyncTransaction) -> str:
        tx.execute("INSERT INTO effects (what, order_id) VALUES (?, '')", what)
        return what

    @work.workflow()
    async def process(begun: Begun, wf: Workflow) -> Over:
        await wf.step(note, "inside")
        return Over(begun.id, [await wf.step(block, "blocked")])

    async with running(tmp_path, work) as world:
        await world.publish("work", Begun("a"))
        assert await said(world) == [["blocked"]]


async def test_a_step_may_use_a_session(tmp_path: Path) -> None:
    """SQLAlchemy on the step's own transaction: a step that fails leaves nothing of it."""
    work = Service("work", tables=TABLES)
    attempts: list[int] = []

    async def save(what: str, session: AsyncSession) -> str:
        await session.execute(text("INSERT INTO effects (what, order_id) VALUES (:what, '')"), {"what": what})
        attempts.append(1)
        if len(attempts) == 1:
            raise RuntimeError("once")
        return what

    @work.workflow(retry=Retry(attempts=2, first=Retry().first, jitter=False))
    async def process(begun: Begun, wf: Workflow) -> Over:
        return Over(begun.id, [await wf.step(save, "saved")])

    async with running(tmp_path, work) as world:
        await world.publish("work", Begun("a"))
        await world.clock.advance(3)
        assert await said(world) == [["saved"]]
        assert await world.rows("SELECT what FROM effects") == [("saved",)]


async def test_a_function_that_awaits_by_itself_is_set_aside(tmp_path: Path) -> None:
    """The run is STUCK with the line; what its steps did is kept, and nothing is undone for it."""
    work = Service("work", tables=TABLES)

    @work.workflow()
    async def process(begun: Begun, wf: Workflow) -> Over:
        await wf.step(note, "done", undo=note)
        await asyncio.Event().wait()
        return Over(begun.id, [])

    async with running(tmp_path, work) as world:
        await world.publish("work", Begun("a"))
        ((state, waiting),) = await world.rows("SELECT state, waiting FROM antiphon_runs")
        assert state == "STUCK"
        assert "test_outside.py:" in str(waiting)
        assert await world.rows("SELECT what FROM effects") == [("done",)]


async def test_a_step_that_calls_the_workflow_is_refused(tmp_path: Path) -> None:
    """A step has no journal of its own; the error says what to do instead."""
    work = Service("work", tables=TABLES)

    @work.workflow(retry=Retry(attempts=1))
    async def process(begun: Begun, wf: Workflow) -> Over:
        async def nested() -> None:
            await wf.step(note, "inner")

        await wf.step(nested)
        return Over(begun.id, [])

    async with running(tmp_path, work) as world:
        await world.publish("work", Begun("a"))
        ((error,),) = await world.rows("SELECT error FROM antiphon_journal")
        assert "calls the workflow" in str(error)
        assert await world.rows("SELECT what FROM effects") == []


class Keyless(Event):
    n: int


async def test_an_event_without_a_key_begins_a_run_too(tmp_path: Path) -> None:
    """Its run's deliveries are ordered by the run's own id."""
    work = Service("work", tables=TABLES)

    @work.workflow()
    async def process(begun: Keyless, wf: Workflow) -> Over:
        return Over(wf.key, [await wf.step(note, f"n {begun.n}")])

    async with running(tmp_path, work) as world:
        await world.publish("work", Keyless(1), Keyless(2))
        assert sorted(await said(world)) == [["n 1"], ["n 2"]]


async def test_a_swallowed_wait_is_a_wait_all_the_same(tmp_path: Path) -> None:
    """A bare ``except BaseException`` around a wait does not let the function go on without it."""
    work = Service("work", tables=TABLES)

    @work.workflow()
    async def process(begun: Begun, wf: Workflow) -> Over:
        try:
            await wf.signal("never")
        except BaseException:
            await wf.step(note, "too early")
        return Over(begun.id, [])

    async with running(tmp_path, work) as world:
        await world.publish("work", Begun("a"))
        assert await world.rows("SELECT state FROM antiphon_runs") == [("WAITING",)]
        assert await world.rows("SELECT what FROM effects") == []


def test_what_cannot_work_is_told_where_it_is_declared() -> None:
    """A plain def, a wrong second parameter, a key that is no field, a version twice."""
    work = Service("work")

    def declare(fn: Any, **options: Any) -> None:
        work.workflow(**options)(fn)

    def plain(begun: Begun, wf: Workflow) -> None: ...

    async def wrong(begun: Begun, wf: Transaction) -> None: ...

    async def right(begun: Begun, wf: Workflow) -> None: ...

    with pytest.raises(DeclarationError, match="async"):
        declare(plain)
    with pytest.raises(DeclarationError, match="wf: Workflow"):
        declare(wrong)
    with pytest.raises(DeclarationError, match="no field"):
        declare(right, key="nothing")
    declare(right)
    with pytest.raises(DeclarationError, match="version 1"):
        declare(right)


async def test_a_signal_reaches_a_run_that_works_outside(tmp_path: Path) -> None:
    """It is kept by itself before the run goes on with steps that commit by themselves."""
    work = Service("work", tables=TABLES)

    @work.workflow()
    async def process(begun: Begun, wf: Workflow) -> Over:
        await wf.step(asyncio.sleep, 0, name="outside")
        data = await wf.signal("go")
        await wf.step(note, "went")
        return Over(begun.id, [data])

    async with running(tmp_path, work) as world:
        await world.publish("work", Begun("a"))
        async with world.runtime.transaction("work") as tx:
            await process.signal(tx, "go", 5, key="a")
        await world.clock.rest()
        assert await said(world) == [[5]]


async def test_what_arrives_while_a_run_begins_to_wait_wakes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outside the batch the run looks, and then writes that it waits: what is committed between finds no run yet."""
    work = Service("work", tables=TABLES)

    @work.workflow(awaits=(Arrived,))
    async def process(begun: Begun, wf: Workflow) -> Over:
        if begun.parts == 0:
            await wf.step(asyncio.sleep, 0, name="outside")
            return Over(begun.id, [])
        return Over(begun.id, [(await wf.wait_for(Arrived)).n])

    async with running(tmp_path, work) as world:
        await world.publish("work", Begun("warm", 0))
        arrivals, unseen = rows.arrivals, [True]

        async def too_early(*arguments: Any) -> list[rows.Arrival]:
            return [] if unseen and unseen.pop() else await arrivals(*arguments)

        monkeypatch.setattr(rows, "arrivals", too_early)
        await world.publish("work", Begun("a"), Arrived("a", 7))
        assert await said(world) == [[], [7]]
