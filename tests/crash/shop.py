"""A shop, whose orders billing bills, which the counter counts: three services whose tables forbid nothing."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Sequence

from antiphon import App, Event, Retry, Service, Transaction, seconds

KEYS = 5
NOBODY = -1
#: Which service writes which table: a row for each order that took effect.
EFFECTS = {"billing": "bills", "counter": "counted"}


class Ordered(Event, key="customer"):
    customer: str
    n: int
    note: str = ""


class Billed(Event, key="customer"):
    customer: str
    n: int


def app_of(*, own_stores: bool, killer: int = NOBODY) -> App:
    """The application; the order whose number is *killer* kills the process that handles it."""
    shop, billing, counter = Service("shop"), Service("billing"), Service("counter")
    billing.tables = "CREATE TABLE IF NOT EXISTS bills (id INTEGER PRIMARY KEY, customer TEXT, n INTEGER);"
    counter.tables = "CREATE TABLE IF NOT EXISTS counted (id INTEGER PRIMARY KEY, customer TEXT, n INTEGER);"

    @billing.on(Ordered, retry=Retry(first=seconds(0.05)))
    async def bill(event: Ordered, tx: Transaction) -> Billed:
        await tx.execute("INSERT INTO bills (customer, n) VALUES (?, ?)", event.customer, event.n)
        if event.n == killer:
            os.kill(os.getpid(), signal.SIGKILL)
        return Billed(event.customer, event.n)

    @counter.on(Billed)
    async def count(event: Billed, tx: Transaction) -> None:
        await tx.execute("INSERT INTO counted (customer, n) VALUES (?, ?)", event.customer, event.n)

    return App(shop, billing, counter, name="shop", own_stores=own_stores)


def effects_of(table: str, rows: Sequence[tuple[str, int]]) -> Counter[str]:
    """What is wrong with the rows of *table* (customer, number), in the order in which they were written."""
    numbers = [n for _, n in rows]
    by_customer: dict[str, list[int]] = {}
    for customer, n in rows:
        by_customer.setdefault(customer, []).append(n)
    return +Counter(
        {
            f"doubled: {table}": len(numbers) - len(set(numbers)),
            f"disordered: {table}": sum(each != sorted(each) for each in by_customer.values()),
        }
    )
