"""State machines on the durable engine, state by state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from antiphon import Event, Service, StateFailed, Transaction, Workflow
from tests.runtime.kit import World, running

pytestmark = pytest.mark.anyio

RUN = "SELECT state, result, error FROM antiphon_runs"


class OrderPlaced(Event, key="order_id"):
    order_id: str
    cents: int = 100


class OrderFulfilled(Event, key="order_id"):
    order_id: str


FULFILMENT: dict[str, Any] = {
    "StartAt": "Charge",
    "States": {
        "Charge": {
            "Type": "Task",
            "Resource": "charge",
            "Retry": [{"ErrorEquals": ["Busy"], "IntervalSeconds": 2, "MaxAttempts": 2}],
            "Catch": [{"ErrorEquals": ["CardRefused"], "ResultPath": "$.problem", "Next": "Refused"}],
            "ResultPath": "$.charge",
            "Next": "Ship and tell",
        },
        "Ship and tell": {
            "Type": "Parallel",
            "Branches": [
                {"StartAt": "Ship", "States": {"Ship": {"Type": "Task", "Resource": "ship", "End": True}}},
                {"StartAt": "Tell", "States": {"Tell": {"Type": "Task", "Resource": "tell", "End": True}}},
            ],
            "ResultPath": "$.done",
            "Next": "Large?",
        },
        "Large?": {
            "Type": "Choice",
            "Choices": [{"Variable": "$.cents", "NumericGreaterThan": 1000, "Next": "Look"}],
            "Default": "Done",
        },
        "Look": {"Type": "Wait", "Seconds": 60, "Next": "Done"},
        "Done": {"Type": "Succeed", "OutputPath": "$.done"},
        "Refused": {"Type": "Fail", "ErrorPath": "$.problem.Error", "CausePath": "$.problem.Cause"},
    },
}


def shop(faults: list[StateFailed] | None = None) -> Service:
    """A service `orders` with the machine `fulfil`; *faults* are what charging fails with, one after another."""
    orders = Service("orders", tables="CREATE TABLE effects (n INTEGER PRIMARY KEY, what TEXT, order_id TEXT)")
    left = list(faults or [])

    async def note(tx: Transaction, what: str, order_id: str) -> str:
        await tx.execute("INSERT INTO effects (what, order_id) VALUES (?, ?)", what, order_id)
        return f"{what} of {order_id}"

    async def charge(order: OrderPlaced, tx: Transaction) -> str:
        said = await note(tx, "charge", order.order_id)
        if left:
            raise left.pop(0)
        return said

    async def ship(order: dict[str, Any], tx: Transaction) -> str:
        return await note(tx, "ship", order["order_id"])

    fulfil = Workflow.from_asl(
        FULFILMENT,
        name="fulfil",
        starts=OrderPlaced,
        resources={"charge": charge, "ship": ship, "tell": OrderFulfilled},
    )
    orders.add(fulfil)
    return orders


async def effects(world: World) -> list[str]:
    """What took effect, in order."""
    return [str(what) for (what,) in await world.rows("SELECT what FROM effects ORDER BY n")]


async def test_a_machine_runs_through_its_states(tmp_path: Path) -> None:
    """Tasks with their writes, branches beside each other, a choice, a wait, an event published, and the output."""
    async with running(tmp_path, shop()) as world:
        await world.publish("orders", OrderPlaced("o1", 5000))
        assert await effects(world) == ["charge", "ship"]
        ((state, waiting, shown),) = await world.rows("SELECT state, waiting, user_state FROM antiphon_runs")
        assert (state, waiting) == ("WAITING", "sleep Look")
        assert shown == b'{"state":"Look"}'
        await world.clock.advance(61)
        ((state, result, error),) = await world.rows(RUN)
        assert (state, error) == ("COMPLETED", None)
        assert b'"ship of o1"' in result
        assert await world.rows("SELECT key FROM antiphon_log WHERE type = 'OrderFulfilled'") == [("o1",)]


async def test_a_failed_task_is_tried_again_and_its_writes_are_kept_once(tmp_path: Path) -> None:
    """Retry waits as it says, and the error that it does not name is caught."""
    busy = StateFailed("Busy", "try later")
    async with running(tmp_path, shop([busy, busy])) as world:
        await world.publish("orders", OrderPlaced("o1"))
        assert await effects(world) == []
        await world.clock.advance(5)
        assert await effects(world) == []
        await world.clock.advance(2)
        assert await effects(world) == ["charge", "ship"]


async def test_what_is_caught_goes_on_with_its_error(tmp_path: Path) -> None:
    """A catcher leads to the Fail state, which gives the error its name and its cause by paths."""
    async with running(tmp_path, shop([StateFailed("CardRefused", "no funds")])) as world:
        await world.publish("orders", OrderPlaced("o1"))
        assert await world.rows(RUN) == [("FAILED", None, "StateFailed: CardRefused: no funds.")]
        assert await effects(world) == []
