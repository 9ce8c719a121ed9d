"""Small applications in which a broken engine shows quickly: events that hurry, keys that meet, much that fails."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

from pydantic import BaseModel

from antiphon import (
    App,
    Event,
    Retry,
    Service,
    Transaction,
    minutes,
    seconds,
)
from antiphon.store.sqlite.desk import Desk
from antiphon.store.sqlite.store import SqliteStore

QUICK = Retry(attempts=3, first=seconds(1))
#: The last attempt comes after retention has looked at the log once or more.
SLOW = Retry(attempts=3, first=minutes(8), factor=1.0, cap=minutes(8), jitter=False)
#: A sum that nobody pays.
TOO_DEAR = 5


# ---------------------------------------------------------------------- the shop: a file for each service, a bus


class OrderPlaced(Event, key="customer"):
    """Somebody wants something."""

    order_id: str
    customer: str
    cents: int


class Paid(Event, key="customer"):
    """It is paid for."""

    order_id: str
    customer: str


class Declined(Event, key="customer"):
    """It is not paid for."""

    order_id: str
    customer: str


class Reminder(Event, key="customer", domain=True):
    """It is time to thank."""

    order_id: str
    customer: str


class NewOrder(BaseModel):
    """What a client sends."""

    customer: str
    cents: int


def shop(retry: Retry = QUICK, *, redrives: bool = False, **options: Any) -> App:
    """Orders that are placed over HTTP, a payment that answers, thanks that come later, orders that are undone."""
    orders = Service("orders", tables="CREATE TABLE orders (order_id TEXT PRIMARY KEY, state TEXT NOT NULL);")
    payment = Service("payment", tables="CREATE TABLE charges (order_id TEXT NOT NULL, cents INTEGER NOT NULL);")

    @orders.post("/orders")
    async def place(new: NewOrder, tx: Transaction) -> OrderPlaced:
        order_id = tx.new_id()
        await tx.execute("INSERT INTO orders VALUES (?, 'placed')", order_id)
        return OrderPlaced(order_id, new.customer, new.cents)

    @payment.post("/redrives")
    async def redrive(tx: Transaction) -> None:
        """Give every dead letter another chance."""
        assert isinstance(tx.store, SqliteStore)
        await Desk(tx.store).dead.redrive()

    @payment.on(OrderPlaced, retry=retry)
    async def charge(order: OrderPlaced, tx: Transaction) -> Paid | Declined | None:
        if order.cents == TOO_DEAR:
            return Declined(order.order_id, order.customer)
        await tx.execute("INSERT INTO charges VALUES (?, ?)", order.order_id, order.cents)
        tx.publish(Paid(order.order_id, order.customer))
        return None

    @orders.on(Paid, retry=retry)
    async def confirm(paid: Paid, tx: Transaction) -> Reminder | None:
        await tx.execute("UPDATE orders SET state = 'paid' WHERE order_id = ?", paid.order_id)
        await tx.publish_later(Reminder(paid.order_id, paid.customer), delay=seconds(5))
        return None

    @orders.on(Declined, retry=retry, compensates=place)
    async def undo(declined: Declined, tx: Transaction) -> None:
        await tx.execute("UPDATE orders SET state = 'undone' WHERE order_id = ?", declined.order_id)

    @orders.on(Reminder, retry=retry)
    async def thank(reminder: Reminder) -> None:
        await asyncio.sleep(0.01)

    app = App(orders, payment, name="shop", own_stores=True, **options)

    @app.traffic(weight=10)
    def order(random: Random) -> tuple[str, str, dict[str, Any]]:
        cents = random.choice((1, 2, 3, 4, TOO_DEAR))
        return "POST", "/orders", {"customer": random.choice("ab"), "cents": cents}

    if redrives:

        @app.traffic(weight=2)
        def second_chance(random: Random) -> tuple[str, str, None]:
            return "POST", "/redrives", None

    @app.invariant(at="end")
    def who_was_declined_is_undone(look: Any) -> None:
        paid = {row["order_id"] for row in look.rows("payment", "SELECT order_id FROM charges")}
        for row in look.rows("orders", "SELECT order_id FROM orders WHERE state = 'undone'"):
            assert row["order_id"] not in paid, f"{row['order_id']} is paid for and undone"

    return app


APPS = {"shop": shop, "shop with redrives": lambda: shop(redrives=True)}
