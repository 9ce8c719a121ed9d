"""The job that every system does: publish an order, bill it by one upsert, publish that it was billed, count that.

Only the standard library, so that a system's memory is its own.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

#: How many customers the orders are spread over while rates are measured.
CUSTOMERS = 10_007
#: Orders published at a time.
BATCH = 256
_TASKS = 64
#: After how many seconds a message counts as abandoned, where a system redelivers by time-out.
REDELIVERY_S = 5

TABLES = (
    "CREATE TABLE IF NOT EXISTS accounts (id TEXT PRIMARY KEY, orders INTEGER NOT NULL, cents INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS totals (id INTEGER PRIMARY KEY, billed INTEGER NOT NULL)",
    "INSERT INTO totals VALUES (1, 0) ON CONFLICT (id) DO NOTHING",
)
BILL = (
    "INSERT INTO accounts (id, orders, cents) VALUES (?, 1, ?) ON CONFLICT (id) "
    "DO UPDATE SET orders = accounts.orders + 1, cents = accounts.cents + excluded.cents"
)
COUNT = "UPDATE totals SET billed = billed + 1 WHERE id = 1"


class Place(NamedTuple):
    """Where a measurement may leave things: a folder, and a prefix for names in a shared server."""

    folder: Path
    prefix: str


@cache
def place() -> Place:
    """What the driver has chosen, for this process and those that it starts."""
    return Place(Path(os.environ["PEERS_FOLDER"]), os.environ["PEERS_PREFIX"])


def orders(start: int, count: int, *, customers: int = CUSTOMERS, kind: str = "customer") -> Iterator[dict[str, Any]]:
    """Orders number *start* and following, some 220 bytes of JSON each, stamped when they are taken."""
    for number in range(start, start + count):
        yield {
            "order_id": f"order-{number:08d}",
            "customer": f"{kind}-{number % customers:05d}",
            "cents": 100 + number % 997,
            "currency": "EUR",
            "items": [f"sku-{number % 50:04d}", f"sku-{number % 71:04d}"],
            "address": f"{number % 120} Chestnut Avenue, 10115 Berlin",
            "sent_us": time.monotonic_ns() // 1000,
        }


def billed_of(order: dict[str, Any]) -> dict[str, Any]:
    """The follow-up of an order."""
    return {name: order[name] for name in ("order_id", "customer", "cents", "sent_us")}


def note(sent_us: int) -> None:
    """Note that the second handler has been reached: what the first did is committed, and its event delivered."""
    os.write(_notes(), struct.pack("<q", time.monotonic_ns() // 1000 - sent_us))


@cache
def _notes() -> int:
    return os.open(place().folder / "latencies", os.O_WRONLY | os.O_CREAT | os.O_APPEND)


_local = threading.local()


def database() -> str:
    """The SQLite file of the effects, where a system does not bring its own."""
    return str(place().folder / "effects.db")


def connection() -> sqlite3.Connection:
    """This thread's connection to the effects: write-ahead log, synchronous=FULL, a commit for each statement."""
    if not hasattr(_local, "connection"):
        made = sqlite3.connect(database(), timeout=60, isolation_level=None)
        made.execute("PRAGMA journal_mode = WAL")
        made.execute("PRAGMA synchronous = FULL")
        _local.connection = made
    return _local.connection  # type: ignore[no-any-return]


async def concurrently(send: Callable[[dict[str, Any]], Awaitable[object]], orders: list[dict[str, Any]]) -> None:
    """Send *orders* from several tasks, as far as a system has no call for many at once."""
    waiting = iter(orders)

    async def task() -> None:
        for order in waiting:
            await send(order)

    await asyncio.gather(*(task() for _ in range(min(_TASKS, len(orders)))))


def bill(order: dict[str, Any]) -> dict[str, Any]:
    """The first handler's work in SQLite: one upsert, committed. Returns the follow-up."""
    connection().execute(BILL, (order["customer"], order["cents"]))
    return billed_of(order)


def count(billed: dict[str, Any]) -> None:
    """The second handler's work in SQLite, committed."""
    note(billed["sent_us"])
    connection().execute(COUNT)
