"""Antiphon: three services of one app on one SQLite file, in the publishing process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from antiphon import App, Event, Service, Transaction
from benchmarks.peers import job

_DATA = job.place().folder / "data"
DATABASE = str(_DATA / "orders.db")
WORKER = [
    "-m",
    "antiphon",
    "run",
    "benchmarks.peers.systems.antiphon_sqlite:app",
    "--services",
    "billing,counter",
    "--no-gateway",
    "--data",
    str(_DATA),
]
EMBEDDED = True


class OrderPlaced(Event, key="customer"):
    """Published by the shop."""

    order_id: str
    customer: str
    cents: int
    currency: str
    items: list[str]
    address: str
    sent_us: int


class OrderBilled(Event, key="customer"):
    """What billing answers with."""

    order_id: str
    customer: str
    cents: int
    sent_us: int


shop = Service("shop")
billing = Service("billing", tables=job.TABLES[0])
counter = Service("counter", tables=";\n".join(job.TABLES[1:]))


@billing.on(OrderPlaced)
async def bill(order: OrderPlaced, tx: Transaction) -> OrderBilled:
    """The write, the follow-up and the handled event are one transaction."""
    await tx.execute(job.BILL, order.customer, order.cents)
    return OrderBilled(order.order_id, order.customer, order.cents, order.sent_us)


@counter.on(OrderBilled)
async def count(billed: OrderBilled, tx: Transaction) -> None:
    """Count it."""
    job.note(billed.sent_us)
    await tx.execute(job.COUNT)


app = App(shop, billing, counter, name="orders")


async def prepare() -> None:
    """A folder for the store, which makes its tables itself."""
    _DATA.mkdir(parents=True)


@asynccontextmanager
async def publishing(*, handling: bool) -> AsyncIterator[Callable[[list[dict[str, Any]]], Awaitable[object]]]:
    """Publish from here, and handle here too if asked."""
    async with app.run_in(_DATA, services=None if handling else ["shop"]) as runtime:
        yield lambda orders: runtime.publish("shop", *(OrderPlaced(**order) for order in orders))


async def clean() -> None:
    """Nothing outside the folder."""
