# pyright: strict
"""The public API as users type it. It is checked by mypy and pyright, and never run."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, assert_type

from antiphon import (
    App,
    Delivery,
    Envelope,
    Event,
    Rate,
    Reject,
    Retry,
    Service,
    Status,
    SyncTransaction,
    Transaction,
    days,
    event,
    hours,
    minutes,
    seconds,
    upcast,
)


class OrderPlaced(Event, key="order_id", version=2):
    order_id: str
    total: Decimal
    note: str | None = None


@upcast(OrderPlaced, from_version=1)
def _with_total(old: dict[str, Any]) -> dict[str, Any]:
    return {**old, "total": "0"}


@event(key="order_id")
@dataclass(frozen=True)
class OrderBilled:
    order_id: str


class OrderRefused(Event, key="order_id", type="order.refused", domain=True):
    order_id: str
    reason: str


billing = Service("billing", tables="CREATE TABLE bills (order_id TEXT PRIMARY KEY, total TEXT)")


@billing.on(
    OrderPlaced,
    retry=Retry(attempts=3, first=seconds(1), cap=minutes(1), max_age=hours(1), give_up=(ValueError,)),
    concurrency=4,
    rate=Rate(10, per=seconds(1)),
    timeout=seconds(5),
)
async def bill(order: OrderPlaced, tx: Transaction, delivery: Delivery) -> OrderBilled | OrderRefused:
    if order.total < 0:
        raise Reject("a total below zero")
    assert_type(delivery.attempt, int)
    assert_type(delivery.envelope, Envelope)
    row = await tx.fetch_one("SELECT total FROM bills WHERE order_id = ?", order.order_id)
    if row is not None:
        return OrderRefused(order_id=order.order_id, reason="billed before")
    assert_type(await tx.execute("INSERT INTO bills VALUES (?, ?)", order.order_id, order.total), int)
    assert_type(tx.publish(OrderBilled(order_id=order.order_id)), str)
    reminder = await tx.publish_later(OrderBilled(order_id=order.order_id), delay=days(1))
    assert_type(reminder, str)
    assert_type(await tx.cancel(reminder), bool)
    assert_type(tx.now, datetime)
    return OrderBilled(order_id=order.order_id)


@billing.on(OrderBilled, OrderRefused, name="count", start="now")
def count(_: OrderBilled | OrderRefused, tx: SyncTransaction) -> None:
    assert_type(tx.execute("UPDATE counts SET n = n + 1"), int)


@billing.every(minutes(5))
async def sweep(tx: Transaction) -> None:
    await tx.execute("DELETE FROM bills WHERE total = '0'")


@billing.cron("0 6 * * *", zone="Europe/Berlin", name="report")
async def report(tx: Transaction) -> None:
    await tx.schedule("remind", OrderBilled(order_id="1"), every=hours(1))


@billing.get("/bills/{order_id}")
async def show(order_id: str, tx: Transaction) -> dict[str, str]:
    return {"total": str(await tx.fetch_value("SELECT total FROM bills WHERE order_id = ?", order_id))}


app = App(billing, name="shop", own_stores=True, retention=days(30))
status: str = Status.COMPLETED
assert_type(bill.__name__, str)
