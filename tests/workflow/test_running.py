"""A run from its start to one of its ends."""

from pathlib import Path

import pytest

from antiphon import Retry, Service, Transaction, Workflow
from antiphon.model.workflows import Kind
from antiphon.policy.choreography import graph
from antiphon.store.runs import Runs
from tests.runtime.kit import World, running
from tests.workflow.orders import TABLES, Faults, OrderPlaced, Paid, shop

pytestmark = pytest.mark.anyio

RUN = "SELECT state FROM antiphon_runs"
EFFECTS = "SELECT what FROM effects ORDER BY n"


async def effects(world: World) -> list[str]:
    """What took effect, in order."""
    return [str(what) for (what,) in await world.rows(EFFECTS)]


async def test_a_run_goes_through_all_its_steps(tmp_path: Path) -> None:
    """Steps, a wait for an event, a sleep, and the event that it returns."""
    async with running(tmp_path, shop()) as world:
        await world.publish("orders", OrderPlaced("o1"))
        assert await world.rows(RUN) == [("WAITING",)]
        assert await effects(world) == ["reserve"]
        await world.publish("orders", Paid("o1"))
        assert await effects(world) == ["reserve", "charge"]
        await world.clock.advance(19)
        assert await effects(world) == ["reserve", "charge"]
        await world.clock.advance(2)
        assert await effects(world) == ["reserve", "charge", "ship"]
        assert await world.rows(RUN) == [("COMPLETED",)]
        shipped = await world.rows("SELECT json_extract(data, '$.charge') FROM antiphon_log WHERE type = 'Shipped'")
        assert shipped == [("charge-o1",)]


async def test_an_event_that_comes_early_is_kept(tmp_path: Path) -> None:
    """The payment is there before the order: the run finds it, if it came after the order in the log."""
    async with running(tmp_path, shop()) as world:
        await world.publish("orders", OrderPlaced("o1"), Paid("o1"))
        assert await effects(world) == ["reserve", "charge"]


async def test_what_does_not_come_in_time_is_undone(tmp_path: Path) -> None:
    """The wait times out; the reservation is released, and the run tells so."""
    async with running(tmp_path, shop()) as world:
        await world.publish("orders", OrderPlaced("o1"))
        await world.clock.advance(61)
        assert await effects(world) == ["reserve", "release"]
        assert await world.rows("SELECT state, error FROM antiphon_runs") == [("COMPENSATED", "not paid")]


async def test_a_step_is_tried_again_and_its_writes_are_kept_once(tmp_path: Path) -> None:
    """Two attempts of the charge fail; what they wrote is gone, what was done before is not repeated."""
    async with running(tmp_path, shop(Faults(charge=2))) as world:
        await world.publish("orders", OrderPlaced("o1"), Paid("o1"))
        assert await effects(world) == ["reserve"]
        await world.clock.advance(7)
        assert await effects(world) == ["reserve", "charge"]
        assert await world.rows("SELECT attempts FROM antiphon_journal WHERE name = 'charge'") == [(3,)]


async def test_a_step_that_fails_for_good_is_undone_in_reverse(tmp_path: Path) -> None:
    """Shipping fails three times: the charge is refunded, then the reservation released."""
    async with running(tmp_path, shop(Faults(ship=3))) as world:
        await world.publish("orders", OrderPlaced("o1"), Paid("o1"))
        await world.clock.advance(60)
        assert await effects(world) == ["reserve", "charge", "refund", "release"]
        assert await world.rows(RUN) == [("COMPENSATED",)]


async def test_a_failed_undo_is_tried_again_then_stuck(tmp_path: Path) -> None:
    """An undo that has used up its attempts leaves the run STUCK, with the reason in sight."""
    async with running(tmp_path, shop(Faults(ship=3, refund=3))) as world:
        await world.publish("orders", OrderPlaced("o1"), Paid("o1"))
        await world.clock.advance(27)
        assert await world.rows(RUN) == [("COMPENSATING",)]
        await world.clock.advance(20)
        ((state, waiting),) = await world.rows("SELECT state, waiting FROM antiphon_runs")
        assert state == "STUCK"
        assert "refund" in str(waiting)
        assert await effects(world) == ["reserve", "charge"]


async def test_what_it_awaits_may_come_from_another_file(tmp_path: Path) -> None:
    """With a store for each service the payment comes over the bus; the workflow's internal events stay at home."""
    payment = Service("payment")

    @payment.on(OrderPlaced)
    async def pay(order: OrderPlaced) -> Paid:
        return Paid(order.order_id)

    async with running(tmp_path, shop(), payment, own_stores=True) as world:
        await world.publish("orders", OrderPlaced("o1"))
        await world.clock.advance(25)
        assert await effects(world) == ["reserve", "charge", "ship"]
        bus = world.runtime.logs[-1]
        types = {str(row[0]) for row in await bus.fetch_all("SELECT type FROM antiphon_log")}
        assert types == {"OrderPlaced", "Paid"} | {"Shipped"} & types


async def test_a_journal_is_shown_in_the_order_of_the_code(tmp_path: Path) -> None:
    """Twelve steps as they are called, a gather's below it, the undo steps last and in reverse."""
    work = Service("work", tables=TABLES)

    async def step(n: int, tx: Transaction) -> None:
        if n == 12:
            raise RuntimeError("the last")

    @work.workflow(starts=OrderPlaced, retry=Retry(attempts=1))
    async def long(order: OrderPlaced, wf: Workflow) -> None:
        await wf.gather(*(wf.step(step, n, undo=step, name=f"gathered {n}") for n in range(2)))
        for n in range(2, 13):
            wf.version(f"v{n}")
            await wf.step(step, n, undo=step, name=f"step {n}")

    async with running(tmp_path, work) as world:
        (run_id,) = await world.publish("work", OrderPlaced("o1"))
        shown = await Runs(world.store).show(run_id)
    positions = [record.position for record in shown.journal if record.kind is not Kind.VERSION]
    steps = ["1", "1.1.1", "1.2.1", *map(str, range(2, 13))]
    assert positions == [*steps, *(f"end.{n}" for n in range(11, 1, -1)), "end.1.2.1", "end.1.1.1"]


async def test_the_choreography_knows_the_workflow(tmp_path: Path) -> None:
    """It takes its start and what it awaits, publishes what it names, and its inbox is no handler of its own."""
    drawn = graph([shop().spec])
    assert [node.label for node in drawn.nodes if node.kind == "handler"] == ["fulfil"]
    edges = {(a.rpartition(":")[2], b.rpartition(":")[2]) for a, b in drawn.edges}
    assert edges == {
        ("OrderPlaced", "orders.fulfil"),
        ("Paid", "orders.fulfil"),
        ("orders.fulfil", "Shipped"),
        ("orders.fulfil", "Refused"),
    }
