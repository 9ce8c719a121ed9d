"""A workflow with everything in it, crashed at every commit, and in any order of acts."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from antiphon.model.workflows import ENDED, RunState
from antiphon.service import Service
from antiphon.testing.clock import VirtualClock
from tests.runtime.kit import World, running
from tests.runtime.test_effects import Bank
from tests.workflow.crashes import after, moments
from tests.workflow.orders import Faults
from tests.workflow.test_interleavings import copy
from tests.workflow.trips import STEPS, UNDOABLE, Booked, check_end, trips

T = TypeVar("T")
pytestmark = pytest.mark.anyio
STATE = "SELECT state FROM antiphon_runs WHERE workflow = 'trips.arrange'"


async def act(world: World, service: Service, name: str, *values: Any) -> bool:
    """Do *name* to the run, if it is not over."""
    ((state,),) = await world.rows(STATE)
    if state in ENDED:
        return False
    async with world.runtime.transaction("trips") as tx:
        await getattr(service.workflows["arrange"], name)(tx, *values, key="t1")
    await world.clock.rest()
    return True


async def is_there(world: World, sql: str) -> bool:
    """Whether a query finds anything."""
    return bool(await world.rows(sql))


async def go(world: World, service: Service) -> None:
    """Say go, unless that was said before the crash."""
    if not await is_there(world, 'SELECT 1 FROM antiphon_log WHERE CAST(data AS TEXT) LIKE \'%"act":"signal"%\''):
        await act(world, service, "signal", "go")


async def cancel(world: World, service: Service) -> None:
    """Cancel, unless that was done before the crash."""
    if not await is_there(world, 'SELECT 1 FROM antiphon_log WHERE CAST(data AS TEXT) LIKE \'%"act":"cancel"%\''):
        await act(world, service, "cancel", "changed my mind")


async def nothing(world: World, service: Service) -> None:
    """Say nothing."""


@pytest.mark.parametrize(
    ("times", "at_s", "then", "state"),
    [
        ({}, 6, go, "COMPLETED"),
        ({"ship": 9, "undo vote 2": 1}, 6, go, "COMPENSATED"),
        ({"pack": 9}, 6, nothing, "COMPENSATED"),
        ({"vote 1": 1}, 6, nothing, "COMPENSATED"),
        ({}, 8, cancel, "CANCELLED"),
    ],
    ids=["completed", "compensated", "child-fails", "times-out", "cancelled-with-its-child"],
)
async def test_a_crash_at_every_commit_leads_to_the_same_end(
    tmp_path: Path,
    times: dict[str, int],
    at_s: int,
    then: Callable[[World, Service], Awaitable[None]],
    state: str,
) -> None:
    """Wherever the process dies, the run ends as it would have; each effect and each call to the bank is there once."""
    first = Bank()
    faults = Faults(**times)

    async def play(world: World, service: Service, passed_s: float = 0) -> None:
        if not await is_there(world, "SELECT 1 FROM antiphon_log WHERE type = 'Booked'"):
            await world.publish("trips", Booked("t1"))
        await world.clock.advance(max(0, at_s - passed_s))
        await then(world, service)
        await world.clock.advance(100)

    service = trips(faults, first)
    clock_ms = VirtualClock().boot_ms()
    found = await moments(
        tmp_path,
        lambda: service,
        partial(play, service=service),
        outside=lambda: (list(first.charges), dict(faults.times)),
    )
    assert len(found) >= 12
    for moment in found:
        bank = Bank()
        bank.charges += moment.outside[0]
        again = trips(Faults(**moment.outside[1]), bank)
        async with after(moment, lambda: again) as world:  # noqa: B023  it is called at once
            await play(world, again, (moment.boot_ms - clock_ms) / 1000)
            assert await world.rows(STATE) == [(state,)], moment.folder.name
            await check_end(world, bank, times)


class Trips(RuleBasedStateMachine):
    """Any order of signals, cancellations, pauses, resumptions, crashes, failures and time."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp(prefix="antiphon-trips-"))
        self.clock, self.bank, self.faults = VirtualClock(), Bank(), Faults()
        self.times: dict[str, int] = {}
        self.generation = 0
        self.ended: list[Any] | None = None
        self.skipped = False

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of *work*."""
        return self.loop.run_until_complete(work)

    async def start(self) -> None:
        """Run on the store as it is."""
        self.stack = AsyncExitStack()
        self.service = trips(self.faults, self.bank)
        data = self.folder / str(self.generation)
        self.world = await self.stack.enter_async_context(running(data, self.service, clock=self.clock))

    @initialize()
    def begin(self) -> None:
        """A trip is booked."""
        self.do(self.start())
        self.do(self.world.publish("trips", Booked("t1")))

    @rule(what=st.sampled_from([*STEPS, "undo pack", *(f"undo {each}" for each in UNDOABLE)]), count=st.integers(1, 3))
    def break_something(self, what: str, count: int) -> None:
        """A step or an undo step fails so many times more."""
        self.faults.times[what] = self.faults.times.get(what, 0) + count
        self.times[what] = self.times.get(what, 0) + count

    @rule(failure=st.sampled_from(["before", "after"]))
    def break_the_bank(self, failure: str) -> None:
        """The next call of the bank ends without an answer."""
        self.bank.failures.append(failure)

    @rule(seconds=st.sampled_from([1, 4, 10, 40]))
    def wait(self, seconds: int) -> None:
        """Time passes."""
        self.do(self.clock.advance(seconds))

    @rule()
    def say_go(self) -> None:
        """The signal."""
        self.do(act(self.world, self.service, "signal", "go"))

    @rule(name=st.sampled_from(["cancel", "pause"]))
    def interfere(self, name: str) -> None:
        """A person does something to the run."""
        self.do(act(self.world, self.service, name, "by hand"))

    @rule()
    def resume(self) -> None:
        """A person lets it go on."""
        self.do(act(self.world, self.service, "resume"))

    @rule()
    def crash(self) -> None:
        """The process dies and begins again on what is committed."""
        self.do(self._crash())

    async def _crash(self) -> None:
        following = self.folder / str(self.generation + 1)
        following.mkdir()
        await self.world.store.writer.exclusive(partial(copy, target=following / "app.db"))
        await self.stack.aclose()
        self.generation += 1
        await self.start()

    @invariant()
    def an_end_is_an_end(self) -> None:
        """What has ended stays as it is, whatever is done to it."""
        ((state,),) = self.do(self.world.rows(STATE)) or [("RUNNING",)]
        assert state in set(RunState)
        effects = self.do(self.world.rows("SELECT what FROM effects WHERE what NOT LIKE '%pack'"))
        if self.ended is not None:
            assert [state, effects] == self.ended
        elif state in ENDED:
            self.ended = [state, effects]

    def teardown(self) -> None:
        """Bring it to its end, and look at what is left."""
        try:
            self.do(self._finish())
        finally:
            self.do(self.stack.aclose())
            self.loop.close()
            shutil.rmtree(self.folder)

    async def _finish(self) -> None:
        unended = "SELECT id FROM antiphon_runs WHERE state NOT IN ('COMPLETED', 'COMPENSATED', 'FAILED', 'CANCELLED')"
        self.bank.failures.clear()
        for _ in range(12):
            await act(self.world, self.service, "resume")
            await self.clock.advance(100)
            if not await self.world.rows(unended):
                break
            for workflow in self.service.workflows.values():
                for (run_id,) in await self.world.rows(
                    f"{unended} AND workflow = ? AND state = 'STUCK'", workflow.name
                ):
                    self.skipped = True
                    async with self.world.runtime.transaction("trips") as tx:
                        await workflow.skip(tx, "given up", id=str(run_id))
            await self.clock.advance(100)
        assert await self.world.rows(unended) == []
        await check_end(self.world, self.bank, self.times, skipped=self.skipped)


TestTrips = Trips.TestCase
TestTrips.settings = settings(
    max_examples=15, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
)
