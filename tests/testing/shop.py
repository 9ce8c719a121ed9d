"""A shop of three services, and the bank that one of them asks, for the tests of the kit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from antiphon import App, Delivery, Event, Reject, Retry, Service, Transaction, hours, minutes

RETRY = Retry(attempts=6, first=minutes(10), cap=hours(6), max_age=hours(24))


class OrderPlaced(Event, key="order_id"):
    """Somebody wants something."""

    order_id: str
    cents: int = 100


class OrderPaid(Event, key="order_id"):
    """The money is there."""

    order_id: str
    cents: int


class OutOfStock(Event, key="order_id"):
    """There is none left."""

    order_id: str


class OrderRefunded(Event, key="order_id"):
    """The money went back."""

    order_id: str


class Bank:
    """The outside world: what it charged, and what it does when it is asked."""

    def __init__(self) -> None:
        self.charged: list[str] = []
        self.on_charge: Callable[[], Any] | None = None

    async def charge(self, order_id: str) -> str:
        """Charge; returns the receipt."""
        if self.on_charge is not None:
            await self.on_charge()
        self.charged.append(order_id)
        return f"receipt of {order_id}"


class Shop:
    """The services, new for each test; *log* notes what code ran."""

    def __init__(self, own_stores: bool = True) -> None:
        self.bank = Bank()
        self.log: list[str] = []
        self.orders = Service("orders", tables="CREATE TABLE orders (order_id TEXT PRIMARY KEY, state TEXT)")
        self.payment = Service("payment", tables="CREATE TABLE receipts (order_id TEXT PRIMARY KEY, receipt TEXT)")
        self.stock = Service("stock", tables="CREATE TABLE stock (taken INTEGER)")
        self._declare_orders()
        self._declare_payment()
        self._declare_stock()
        self.app = App(self.orders, self.payment, self.stock, name="shop", own_stores=own_stores)

    def _declare_orders(self) -> None:
        @self.orders.post("/orders/{order_id}")
        async def place(order_id: str, tx: Transaction) -> OrderPlaced:
            await tx.execute("INSERT INTO orders VALUES (?, 'PLACED')", order_id)
            return OrderPlaced(order_id)

        @self.orders.get("/orders/{order_id}")
        async def show(order_id: str, tx: Transaction) -> dict[str, Any]:
            return {"state": await tx.fetch_value("SELECT state FROM orders WHERE order_id = ?", order_id)}

        @self.orders.on(OrderRefunded)
        async def cancel(refunded: OrderRefunded, tx: Transaction) -> None:
            await tx.execute("UPDATE orders SET state = 'CANCELLED' WHERE order_id = ?", refunded.order_id)

    def _declare_payment(self) -> None:
        @self.payment.on(OrderPlaced, retry=RETRY)
        async def charge(order: OrderPlaced, tx: Transaction) -> OrderPaid:
            self.log.append("charge begins")
            try:
                receipt = await self.bank.charge(order.order_id)
                await tx.execute("INSERT INTO receipts VALUES (?, ?)", order.order_id, receipt)
                self.log.append("charge ends")
            finally:
                self.log.append("finally")
            return OrderPaid(order.order_id, order.cents)

        @self.payment.on(OutOfStock)
        async def refund(gone: OutOfStock, tx: Transaction) -> OrderRefunded:
            await tx.execute("DELETE FROM receipts WHERE order_id = ?", gone.order_id)
            return OrderRefunded(gone.order_id)

        self.charge, self.refund = charge, refund

    def _declare_stock(self) -> None:
        @self.stock.on(OrderPaid, retry=RETRY)
        async def take(paid: OrderPaid, delivery: Delivery, tx: Transaction) -> OutOfStock | None:
            if paid.cents < 0:
                raise Reject("a price below zero")
            if paid.cents > 1_000:
                return OutOfStock(paid.order_id)
            await tx.execute("INSERT INTO stock VALUES (?)", paid.cents)
            return None

        self.take = take


async def quiet() -> None:
    """Wait for nothing, but let others run."""
    await asyncio.sleep(0)
