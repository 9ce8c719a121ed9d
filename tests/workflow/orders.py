"""A small shop whose fulfilment is a workflow, with rows that tell what took effect how often."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from antiphon import Event, Retry, Service, StepFailed, Transaction, WaitTimedOut, Workflow, minutes, seconds

TABLES = """CREATE TABLE IF NOT EXISTS effects (n INTEGER PRIMARY KEY, what TEXT NOT NULL, order_id TEXT NOT NULL);"""


class OrderPlaced(Event, key="order_id"):
    order_id: str
    cents: int = 100


class Paid(Event, key="order_id"):
    order_id: str


class Shipped(Event, key="order_id"):
    order_id: str
    charge: str


class Refused(Event, key="order_id"):
    order_id: str
    why: str


class Faults:
    """What goes wrong, when: a step named here raises so many times."""

    def __init__(self, **times: int) -> None:
        self.times = times

    def __call__(self, step: str) -> None:
        left = self.times.get(step, 0)
        if left:
            self.times[step] = left - 1
            raise RuntimeError(f"{step} is out of order")


async def at_once() -> None:
    """Awaits nothing."""


async def outside() -> None:
    """Awaits what is outside."""
    await asyncio.sleep(0)


def outside_shop(faults: Faults | None = None) -> Service:
    """The same, with steps that await the outside before they write."""
    return shop(faults, await_first=outside)


def shop(faults: Faults | None = None, await_first: Callable[[], Awaitable[None]] = at_once, **options: Any) -> Service:
    """A service `orders` with the workflow `fulfil`."""
    orders = Service("orders", tables=TABLES)
    trip = faults or Faults()

    async def note(tx: Transaction, what: str, order: OrderPlaced) -> None:
        await await_first()
        await tx.execute("INSERT INTO effects (what, order_id) VALUES (?, ?)", what, order.order_id)
        trip(what)

    async def reserve(order: OrderPlaced, tx: Transaction) -> None:
        await note(tx, "reserve", order)

    async def release(order: OrderPlaced, tx: Transaction) -> None:
        await note(tx, "release", order)

    async def charge(order: OrderPlaced, tx: Transaction) -> str:
        await note(tx, "charge", order)
        return f"charge-{order.order_id}"

    async def refund(order: OrderPlaced, result: str, tx: Transaction) -> None:
        assert result == f"charge-{order.order_id}"
        await note(tx, "refund", order)

    async def ship(order: OrderPlaced, tx: Transaction) -> None:
        await note(tx, "ship", order)

    retry = Retry(attempts=3, first=seconds(2), jitter=False)

    @orders.workflow(starts=OrderPlaced, awaits=(Paid,), retry=retry, **options)
    async def fulfil(order: OrderPlaced, wf: Workflow) -> Shipped | Refused:
        await wf.step(reserve, order, undo=release)
        wf.state = {"reserved": True}
        try:
            await wf.wait_for(Paid, timeout=minutes(1))
        except WaitTimedOut:
            await wf.compensate("not paid")
            return Refused(order.order_id, "not paid")
        charged = await wf.step(charge, order, undo=refund)
        await wf.sleep(seconds(20))
        try:
            await wf.step(ship, order)
        except StepFailed as error:
            await wf.compensate(str(error))
            return Refused(order.order_id, "not shipped")
        return Shipped(order.order_id, charged)

    return orders
