"""An application with everything in flight that a kill may meet: a thread, an await, a retry, a delay, a schedule.

A client puts numbered cars into lanes, one after the other; a lane is a key. Each handler writes down what it has
done in a table without any constraint, so that what came twice, or out of order, can be seen there.
"""

import asyncio
import hashlib
from datetime import datetime, timedelta

from pydantic import BaseModel

from antiphon import App, Delivery, Event, Retry, Service, SyncTransaction, Transaction, seconds
from antiphon.service import Tick

#: What a first attempt fails on, and what comes back later: every so many cars.
FAILS_EVERY, RETURNS_EVERY = 5, 3
RETURNS_AFTER = seconds(0.4)
#: A delay runs on the store's clock, *due* is by the wall's, and these may drift.
DRIFT = timedelta(milliseconds=50)
RETRY = Retry(attempts=50, first=seconds(0.05), cap=seconds(0.5))


class Entered(Event, key="lane"):
    lane: str
    n: int


class Washed(Event, key="lane"):
    lane: str
    n: int


class Returned(Event, key="lane"):
    """A car comes back; not before *due*."""

    lane: str
    n: int
    due: datetime


class Car(BaseModel):
    """What a client sends."""

    lane: str
    n: int


_DONE = "CREATE TABLE IF NOT EXISTS {} (id INTEGER PRIMARY KEY, lane TEXT, n INTEGER, early INTEGER DEFAULT 0);"
entrance = Service("entrance", tables=_DONE.format("entered"))
washing = Service("washing", tables=_DONE.format("washed") + _DONE.format("checked"))
records = Service(
    "records",
    tables=_DONE.format("dried")
    + _DONE.format("returned")
    + "CREATE TABLE IF NOT EXISTS ticks (id INTEGER PRIMARY KEY, due TEXT);",
)


def work() -> None:
    """Some milliseconds, in whatever thread calls it."""
    hashlib.pbkdf2_hmac("sha256", b"car", b"water", 10_000)


@entrance.post("/cars")
async def enter(car: Car, tx: Transaction) -> Entered:
    """Take a car."""
    await tx.execute("INSERT INTO entered (lane, n) VALUES (?, ?)", car.lane, car.n)
    return Entered(car.lane, car.n)


@washing.on(Entered, retry=RETRY, concurrency=4)
def wash(car: Entered, tx: SyncTransaction) -> Washed:
    """In a thread."""
    work()
    tx.execute("INSERT INTO washed (lane, n) VALUES (?, ?)", car.lane, car.n)
    return Washed(car.lane, car.n)


@washing.on(Entered, retry=RETRY, concurrency=4)
async def check(car: Entered, tx: Transaction) -> None:
    """Waits for something outside, and then writes."""
    await asyncio.to_thread(work)
    await tx.execute("INSERT INTO checked (lane, n) VALUES (?, ?)", car.lane, car.n)


@records.on(Washed, retry=RETRY)
async def dry(car: Washed, tx: Transaction, delivery: Delivery) -> Returned | None:
    """In a batch; some fail at first, after they have written. Some cars come back later."""
    await tx.execute("INSERT INTO dried (lane, n) VALUES (?, ?)", car.lane, car.n)
    if car.n % FAILS_EVERY == 0 and delivery.attempt == 1:
        raise RuntimeError("it stays wet at first")
    if car.n % RETURNS_EVERY == 0:
        await tx.publish_later(Returned(car.lane, car.n, tx.now + RETURNS_AFTER), delay=RETURNS_AFTER)
    return None


@records.on(Returned, retry=RETRY)
async def welcome(car: Returned, tx: Transaction) -> None:
    """What was delayed."""
    early = tx.now < car.due - DRIFT
    await tx.execute("INSERT INTO returned (lane, n, early) VALUES (?, ?, ?)", car.lane, car.n, early)


@records.every(seconds(0.25), retry=RETRY)
async def count(tick: Tick, tx: Transaction) -> None:
    """A schedule."""
    await tx.execute("INSERT INTO ticks (due) VALUES (?)", tick.due.isoformat())


app = App(entrance, washing, records, name="lanes")
