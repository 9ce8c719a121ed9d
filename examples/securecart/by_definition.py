"""The same fulfilment as a state machine: ``fulfilment.asl.json`` in the Amazon States Language, on the same engine.

What `fulfilment` gets from ``undo=`` the definition says itself, state by state. An order says which of the two it
wants.
"""

from pathlib import Path

import msgspec

from antiphon import Transaction, Workflow

from .events import (
    ChargeCard,
    NotifyCustomer,
    OrderFailed,
    OrderForMachine,
    OrderFulfilled,
    RecallParcel,
    ReleaseStock,
    ReserveStock,
    ReturnCharge,
    ShipParcel,
)
from .orders import close, orders, reach


class Step(msgspec.Struct, frozen=True):
    """How far an order is, and with what result."""

    order_id: str
    status: str
    detail: str = ""


async def reach_step(step: Step, tx: Transaction) -> bool:
    """Whether the order goes on."""
    return await reach(step.order_id, step.status, tx)


async def close_step(step: Step, tx: Transaction) -> None:
    """The order has come to its end."""
    await close(step.order_id, step.status, step.detail, tx)


fulfil_by_definition = orders.add(
    Workflow.from_asl(
        Path(__file__).with_name("fulfilment.asl.json"),
        name="fulfil_by_definition",
        starts=OrderForMachine,
        resources={
            "securecart:inventory:reserve": ReserveStock,
            "securecart:inventory:release": ReleaseStock,
            "securecart:payments:charge": ChargeCard,
            "securecart:payments:return": ReturnCharge,
            "securecart:shipping:ship": ShipParcel,
            "securecart:shipping:recall": RecallParcel,
            "securecart:notifications:notify": NotifyCustomer,
            "securecart:orders:reach": reach_step,
            "securecart:orders:close": close_step,
            "securecart:orders:fulfilled": OrderFulfilled,
            "securecart:orders:failed": OrderFailed,
        },
    )
)
