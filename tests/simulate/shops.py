"""Small applications to simulate: one that is sound, and others with something wrong in each."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from random import Random

from antiphon import App, Event, Look, Retry, Service, SyncTransaction, Transaction, seconds

RETRY = Retry(attempts=4, first=seconds(1), cap=seconds(10))


class Ordered(Event, key="customer"):
    """Somebody has ordered something."""

    customer: str
    n: int


class Billed(Event, key="customer"):
    """It is on the bill."""

    customer: str
    n: int


class Packed(Event, key="customer"):
    """It is in a box."""

    customer: str
    part: str


def traffic(random: Random) -> Ordered:
    """An order of one of two customers."""
    return Ordered(random.choice(["ann", "bob"]), random.randrange(1000))


def shop() -> tuple[Service, Service]:
    """A shop, and a biller whose handlers write in a transaction, wait for the outside, and run in a thread."""
    shop = Service("shop")
    billing = Service("billing", tables="CREATE TABLE bills (event_id TEXT, customer TEXT, how TEXT);")

    @billing.on(Ordered, retry=RETRY)
    async def bill(order: Ordered, tx: Transaction) -> Billed:
        await tx.execute("INSERT INTO bills VALUES (?, ?, 'at once')", str(order.n), order.customer)
        return Billed(order.customer, order.n)

    @billing.on(Ordered, retry=RETRY, concurrency=2, timeout=seconds(5))
    async def ask(order: Ordered, tx: Transaction) -> None:
        await asyncio.sleep(0.5)
        await tx.execute("INSERT INTO bills VALUES (?, ?, 'later')", str(order.n), order.customer)

    @billing.on(Ordered, retry=RETRY)
    def print_it(order: Ordered, tx: SyncTransaction) -> None:
        tx.execute("INSERT INTO bills VALUES (?, ?, 'in a thread')", str(order.n), order.customer)

    @shop.on(Billed, retry=RETRY)
    async def note(billed: Billed) -> None:
        return None

    return shop, billing


def sound() -> App:
    """Nothing is wrong with it."""
    made = App(*shop(), name="sound", own_stores=True)
    made.traffic(traffic)
    return made


def small() -> App:
    """One service with one handler."""
    service = Service("small", tables="CREATE TABLE seen (n INTEGER);")

    @service.on(Ordered, retry=RETRY)
    async def see(order: Ordered, tx: Transaction) -> None:
        await tx.execute("INSERT INTO seen VALUES (?)", order.n)

    made = App(service, name="small")
    made.traffic(traffic)
    return made


def unlucky() -> App:
    """It expects that nothing ever goes wrong: its invariant does not hold when an attempt has failed."""
    made = App(*shop(), name="unlucky", own_stores=True)
    made.traffic(traffic)

    @made.invariant
    def nothing_ever_fails(look: Look) -> None:
        """All attempts succeed at once."""
        failed = look.value("billing", "SELECT count(*) FROM antiphon_attempts WHERE outcome = 'failed'")
        assert not failed, f"{failed} attempts have failed"

    return made


def unordered() -> App:
    """What its handler publishes hangs on the order of a set."""
    service, packing = Service("shop"), Service("packing")

    @packing.on(Ordered, retry=RETRY)
    async def pack(order: Ordered) -> list[Packed]:
        return [Packed(order.customer, part) for part in {"lid", "box", "label", "paper", "string"}]

    @service.on(Packed, retry=RETRY)
    async def note(packed: Packed) -> None:
        return None

    made = App(service, packing, name="unordered")
    made.traffic(traffic)
    return made


def careless() -> App:
    """Its handler blocks the loop, and looks at folders."""
    service = Service("careless")

    @service.on(Ordered, retry=RETRY)
    async def look_about(order: Ordered) -> None:
        time.sleep(0.1)
        os.listdir(Path(__file__).parent)  # noqa: PTH208

    made = App(service, name="careless")
    made.traffic(traffic)
    return made


sound_app, small_app, unlucky_app, unordered_app = sound(), small(), unlucky(), unordered()
