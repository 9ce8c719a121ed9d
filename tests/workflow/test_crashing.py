"""A crash at any moment: the run goes on from its last recorded step, and every effect is there once."""

from collections.abc import Callable
from pathlib import Path

import pytest

from antiphon.service import Service
from tests.runtime.kit import World, running
from tests.workflow.crashes import after, moments
from tests.workflow.orders import Faults, OrderPlaced, Paid, outside_shop, shop

pytestmark = pytest.mark.anyio

EFFECTS = "SELECT what FROM effects ORDER BY n"


async def play(world: World) -> None:
    """One order, paid at once."""
    await world.publish("orders", OrderPlaced("o1"))
    await world.publish("orders", Paid("o1"))
    await world.clock.advance(50)


@pytest.mark.parametrize(
    ("make", "state", "effects"),
    [
        (lambda: shop(), "COMPLETED", ["reserve", "charge", "ship"]),
        (lambda: outside_shop(), "COMPLETED", ["reserve", "charge", "ship"]),
        (lambda: shop(Faults(ship=99)), "COMPENSATED", ["reserve", "charge", "refund", "release"]),
        (lambda: outside_shop(Faults(ship=99)), "COMPENSATED", ["reserve", "charge", "refund", "release"]),
        (lambda: shop(Faults(ship=99, refund=99)), "STUCK", ["reserve", "charge"]),
    ],
    ids=["completed", "completed-outside", "undone", "undone-outside", "stuck"],
)
async def test_a_crash_at_any_moment_changes_nothing_at_the_end(
    tmp_path: Path, make: Callable[[], Service], state: str, effects: list[str]
) -> None:
    """After a crash between any two commits the run ends as it would have, each effect once and in order."""
    found = await moments(tmp_path, make, play)
    assert len(found) > 5
    for number, moment in enumerate(found):
        async with after(moment, make) as world:
            if not await world.rows("SELECT 1 FROM antiphon_log WHERE type = 'Paid'"):
                await world.publish("orders", Paid("o1"))
            await world.clock.advance(70)
            assert await world.rows("SELECT state FROM antiphon_runs") == [(state,)], f"after commit {number}"
            assert [what for (what,) in await world.rows(EFFECTS)] == effects, f"after commit {number}"
            dead = await world.rows("SELECT * FROM antiphon_dead_letters")
            assert dead == []


async def test_a_start_that_is_delivered_again_begins_nothing(tmp_path: Path) -> None:
    """The event whose run has ended long ago is handled once more: nothing takes effect again."""
    async with running(tmp_path, shop()) as world:
        await world.publish("orders", OrderPlaced("o1"))
        await world.publish("orders", Paid("o1"))
        await world.clock.advance(30)
        before = await world.rows(EFFECTS)
        async with world.store.unit() as unit:
            await unit.execute(
                "INSERT INTO antiphon_deliveries (handler_id, seq, key, status, due_ms, updated_ms)"
                " SELECT h.id, l.seq, l.key, 'RETRY', 0, 0 FROM antiphon_handlers h, antiphon_log l"
                " WHERE h.name = 'orders.fulfil' AND l.type = 'OrderPlaced'"
            )
        await world.publish("orders", OrderPlaced("o2"))
        assert await world.rows("SELECT * FROM antiphon_deliveries") == []
        assert (await world.rows(EFFECTS))[: len(before)] == before
        assert await world.rows("SELECT state FROM antiphon_runs ORDER BY nr") == [("COMPLETED",), ("WAITING",)]
