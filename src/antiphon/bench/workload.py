"""The chain that is measured: orders are placed, billed and counted by three services."""

from __future__ import annotations

from collections.abc import Iterator

from antiphon.model.events import Event
from antiphon.runtime.transaction import Transaction
from antiphon.service import Service

#: How many customers the orders are spread over.
CUSTOMERS = 10_007
#: Events published, read and written at a time.
BATCH = 256

ACCOUNTS = """
CREATE TABLE IF NOT EXISTS accounts (
    id     TEXT    PRIMARY KEY,
    orders INTEGER NOT NULL,
    cents  INTEGER NOT NULL
) WITHOUT ROWID;
"""
TOTALS = """
CREATE TABLE IF NOT EXISTS totals (id INTEGER PRIMARY KEY, billed INTEGER NOT NULL);
INSERT INTO totals VALUES (1, 0) ON CONFLICT (id) DO NOTHING;
"""
BILL = """
INSERT INTO accounts (id, orders, cents) VALUES (?, 1, ?)
ON CONFLICT (id) DO UPDATE SET orders = accounts.orders + 1, cents = accounts.cents + excluded.cents
"""
COUNT = "UPDATE totals SET billed = billed + 1 WHERE id = 1"


class OrderPlaced(Event, key="customer"):
    """Some 200 bytes of JSON."""

    order_id: str
    customer: str
    cents: int
    currency: str
    items: list[str]
    address: str


class OrderBilled(Event, key="customer"):
    """What billing answers with."""

    order_id: str
    customer: str
    cents: int


def orders(start: int, count: int) -> Iterator[OrderPlaced]:
    """Orders number *start* and following."""
    for number in range(start, start + count):
        yield OrderPlaced(
            f"order-{number:08d}",
            f"customer-{number % CUSTOMERS:05d}",
            100 + number % 997,
            "EUR",
            [f"sku-{number % 50:04d}", f"sku-{number % 71:04d}"],
            f"{number % 120} Chestnut Avenue, 10115 Berlin",
        )


def services() -> list[Service]:
    """A shop, whose orders billing bills, which the counter counts."""
    shop = Service("shop")
    billing = Service("billing", tables=ACCOUNTS)
    counter = Service("counter", tables=TOTALS)

    @billing.on(OrderPlaced)
    async def bill(order: OrderPlaced, tx: Transaction) -> OrderBilled:
        await tx.execute(BILL, order.customer, order.cents)
        return OrderBilled(order.order_id, order.customer, order.cents)

    @counter.on(OrderBilled)
    async def count(billed: OrderBilled, tx: Transaction) -> None:
        await tx.execute(COUNT)

    return [shop, billing, counter]
