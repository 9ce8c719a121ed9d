"""Workflows in a world: steps that fail or kill their process, runs in claims, traces and the timeline."""

from __future__ import annotations

import asyncio

import pytest

from antiphon import App, Event, Retry, Service, Transaction, Workflow, hours, seconds
from antiphon.errors import DeclarationError
from antiphon.testing import World, WorldFailure, given

pytestmark = pytest.mark.anyio


class OrderPlaced(Event, key="order_id"):
    """Begins a run."""

    order_id: str


class Shipped(Event, key="order_id"):
    """It ended well."""

    order_id: str


class Packed(Event, key="order_id"):
    """A child's end."""

    order_id: str


class Pack(Event, key="order_id"):
    """Begins a child."""

    order_id: str


class Fulfilment:
    """A service with a workflow, its child, and what they did."""

    def __init__(self) -> None:
        self.orders = Service("orders", tables="CREATE TABLE did (n INTEGER PRIMARY KEY, what TEXT)")

        async def reserve(order: OrderPlaced, tx: Transaction) -> None:
            await tx.execute("INSERT INTO did (what) VALUES ('reserve')")

        async def release(order: OrderPlaced, tx: Transaction) -> None:
            await tx.execute("INSERT INTO did (what) VALUES ('release')")

        async def charge(order: OrderPlaced, tx: Transaction) -> None:
            await asyncio.sleep(0)
            await tx.execute("INSERT INTO did (what) VALUES ('charge')")

        async def refund(order: OrderPlaced, tx: Transaction) -> None:
            await tx.execute("INSERT INTO did (what) VALUES ('refund')")

        def label(order_id: str) -> str:
            return f"parcel {order_id}"

        @self.orders.workflow(starts=Pack, retry=Retry(attempts=2))
        async def pack(order: Pack, wf: Workflow) -> Packed:
            await wf.step(label, order.order_id)
            return Packed(order.order_id)

        @self.orders.workflow(starts=OrderPlaced, retry=Retry(attempts=3, first=seconds(1), jitter=False))
        async def fulfil(order: OrderPlaced, wf: Workflow) -> Shipped:
            await wf.step(reserve, order, undo=release)
            await wf.step(charge, order, undo=refund)
            await wf.signal("go")
            await wf.child(pack, Pack(order.order_id))
            return Shipped(order.order_id)

        self.reserve, self.release, self.charge, self.refund, self.label = reserve, release, charge, refund, label
        self.pack, self.fulfil = pack, fulfil
        self.app = App(self.orders, name="fulfilment")


@pytest.fixture
def flow() -> Fulfilment:
    """New for each test."""
    return Fulfilment()


def did(world: World) -> list[str]:
    """What took effect, in order."""
    return [str(what) for (what,) in world.rows("orders", "SELECT what FROM did ORDER BY n")]


async def test_a_run_goes_to_its_end(flow: Fulfilment) -> None:
    """Its state is claimed with its journal; the timeline and the saga of the trace have each record."""
    async with flow.app.test() as world:
        await world.publish(OrderPlaced("o-1"))
        await world.settle()
        waiting = world.assert_run(flow.fulfil, key="o-1", state="WAITING")
        assert [record.name for record in waiting.journal] == ["reserve", "charge", "signal:go"]
        (trace,) = world.record().traces
        assert trace.saga is not None
        assert trace.saga.state == "running"
        assert [(step.name, step.state) for step in trace.saga.steps] == [
            ("orders.fulfil: step reserve", "done"),
            ("orders.fulfil: step charge", "done"),
            ("orders.fulfil: wait signal:go", "expected"),
        ]
        async with world.transaction("orders") as tx:
            await flow.fulfil.signal(tx, "go", key="o-1")
        await world.settle()
        world.assert_run("orders.fulfil", state="COMPLETED")
        world.assert_run(flow.pack, key="o-1", state="COMPLETED")
        world.assert_published(Shipped)
        text = world.timeline()
        assert "run of orders.fulfil [o-1] COMPLETED" in text
        assert "child orders.pack DONE" in text
        assert "run of orders.pack [o-1] COMPLETED" in text
        assert "step label DONE" in text


async def test_steps_fail_on_purpose_and_are_undone(flow: Fulfilment) -> None:
    """A step and an undo step fail so many times; what was undone is claimed by its undo functions, in order."""
    async with flow.app.test() as world:
        packing = world.fail(flow.label, times=None)
        refunding = world.fail(flow.refund, error=ConnectionError("no line"))
        await world.publish(OrderPlaced("o-1"))
        async with world.transaction("orders") as tx:
            await flow.fulfil.signal(tx, "go", key="o-1")
        await world.advance(hours(1))
        assert (packing.failed, refunding.failed) == (2, 1)
        run = world.assert_run(flow.fulfil, state="COMPENSATED")
        assert "ChildFailed" in str(run.error)
        assert did(world) == ["reserve", "charge", "refund", "release"]
        world.assert_compensated(OrderPlaced, by=[flow.refund, flow.release])
        with pytest.raises(WorldFailure, match="refund did not follow from it after release"):
            world.assert_compensated(OrderPlaced, by=[flow.release, flow.refund])
        (trace,) = world.record().traces
        assert trace.saga is not None
        assert trace.saga.state == "compensated"
        told = {step.name: (step.state, step.undone_by) for step in trace.saga.steps}
        assert told["orders.fulfil: step charge"] == ("undone", "refund")
        assert told["orders.fulfil: child orders.pack"] == ("failed", None)


async def test_an_undo_that_fails_for_good_is_stuck_in_the_saga(flow: Fulfilment) -> None:
    """The step is told as stuck with the reason, and the saga with it."""
    async with flow.app.test() as world:
        world.fail(flow.label, times=None)
        world.fail(flow.refund, times=None)
        await world.publish(OrderPlaced("o-1"))
        async with world.transaction("orders") as tx:
            await flow.fulfil.signal(tx, "go", key="o-1")
        await world.advance(hours(1))
        world.assert_run(flow.fulfil, state="STUCK")
        (trace,) = world.record().traces
        assert trace.saga is not None
        assert trace.saga.state == "stuck"
        (stuck,) = [step for step in trace.saga.steps if step.state == "stuck"]
        assert (stuck.name, stuck.why) == ("orders.fulfil: step charge", "failed on purpose")


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", ["reserve", "charge", "label"])
async def test_a_crash_during_a_step_repeats_it(flow: Fulfilment, step: str, after: bool) -> None:
    """In the batch, outside of it and in a thread: what the step wrote is gone, and is there once in the end.

    The process that publishes is the one that dies: who publishes is told the id, or that nothing was published.
    """
    async with flow.app.test() as world:
        crash = world.crash_during(getattr(flow, step), after=after)
        try:
            event_id = await world.publish(OrderPlaced("o-1"))
        except ConnectionError:
            world.assert_not_published(OrderPlaced)
            await world.restart("orders")
            event_id = await world.publish(OrderPlaced("o-1"))
        assert world.record().events[0].id == event_id
        await revived(world)
        async with world.transaction("orders") as tx:
            await flow.fulfil.signal(tx, "go", key="o-1")
        await revived(world)
        await world.advance(hours(1))
        assert crash.failed == 1
        world.assert_run(flow.fulfil, state="COMPLETED")
        assert did(world) == ["reserve", "charge"]


async def revived(world: World) -> None:
    """What can happen has happened, and the service runs."""
    await world.settle()
    if "down: orders" in world.timeline():
        await world.restart("orders")
        await world.settle()


async def test_a_run_that_is_not_there_or_stands_otherwise_is_told(flow: Fulfilment) -> None:
    """With the timeline; a name that is none is refused with those there are."""
    async with flow.app.test() as world:
        with pytest.raises(WorldFailure, match="has no run of key 'o-1'"):
            world.assert_run(flow.fulfil, key="o-1", state="COMPLETED")
        await world.publish(OrderPlaced("o-1"))
        await world.settle()
        with pytest.raises(WorldFailure, match=r"is WAITING \(wait signal:go\), not COMPLETED(.|\n)*step reserve DONE"):
            world.assert_run(flow.fulfil, key="o-1", state="COMPLETED")
        with pytest.raises(DeclarationError, match=r"It has .*orders\.fulfil"):
            world.assert_run("fulfil", state="COMPLETED")


async def test_a_patched_coroutine_function_is_one(flow: Fulfilment) -> None:
    """What a peer's failure replaces is called as before: awaited, and asked for its parameters."""

    class Peer:
        async def call(self, n: int) -> int:
            return n

    peer = Peer()
    async with flow.app.test() as world:
        world.fail_peer(peer, "call")
        assert asyncio.iscoroutinefunction(peer.call)
        with pytest.raises(ConnectionError):
            await peer.call(1)
        assert await peer.call(2) == 2


def test_one_turn_of_a_workflow_is_a_scenario(flow: Fulfilment) -> None:
    """Given nothing, when its start comes, then its first turn publishes what it publishes, and no more."""
    given(flow.orders).when(OrderPlaced("o-1")).then().then_rows("SELECT what FROM did", ("reserve",), ("charge",))
    given(flow.orders).when(Pack("o-1")).then(Packed("o-1"))
