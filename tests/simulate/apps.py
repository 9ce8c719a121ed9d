"""Small applications in which a broken engine shows quickly: events that hurry, keys that meet, much that fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any
from weakref import WeakKeyDictionary

from pydantic import BaseModel

from antiphon import (
    App,
    Command,
    Effects,
    Event,
    Reject,
    Retry,
    Service,
    Transaction,
    WaitTimedOut,
    Workflow,
    minutes,
    seconds,
)
from antiphon.model.commands import Refused, TimedOut
from antiphon.store.base import SqlStore
from antiphon.store.desk import Desk

QUICK = Retry(attempts=3, first=seconds(1))
#: The second attempt comes after retention has looked at the log.
SLOW = Retry(attempts=2, first=minutes(15), cap=minutes(15), jitter=False)
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
        assert isinstance(tx.store, SqlStore)
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


# ---------------------------------------------------------------------- processes: a workflow, commands, calls outside


class Begun(Event, key="order_id"):
    """An order is to be fulfilled; *wish* tells how it goes."""

    order_id: str
    wish: int


class Shipped(Event, key="order_id"):
    """It has gone."""

    order_id: str
    wish: int


class GivenUp(Event, key="order_id"):
    """It was undone."""

    order_id: str


class Reserved(Event, key="order_id"):
    """The stock is there."""

    order_id: str


class Short(Event, key="order_id"):
    """The stock is not there."""

    order_id: str


class Reserve(Command[Reserved | Short], key="order_id", to="stock"):
    """Asks for stock."""

    order_id: str
    wish: int


class Wish(BaseModel):
    """What a client sends."""

    wish: int


#: Ways in which an order goes.
FINE, NO_STOCK, REFUSED, FAILS_LATE, FAILS_TWICE, UNVERIFIED, NO_ANSWER = range(7)
#: The letters that have gone out, of each world.
_SENT: WeakKeyDictionary[asyncio.AbstractEventLoop, set[str]] = WeakKeyDictionary()


async def send(order_id: str, wish: int) -> str:
    """Send a letter; whoever looks from outside sees that it has gone. The first answer may be lost."""
    await asyncio.sleep(0.1)
    sent = _SENT.setdefault(asyncio.get_running_loop(), set())
    is_first = order_id not in sent
    sent.add(order_id)
    await asyncio.sleep(0.1)
    if is_first and wish == NO_ANSWER:
        raise TimeoutError("no answer")
    return order_id


async def find(order_id: str, _: int) -> str | None:
    """Whether a letter has gone."""
    await asyncio.sleep(0.01)
    return order_id if order_id in _SENT.get(asyncio.get_running_loop(), ()) else None


def processes(*, only_letters: bool = False) -> App:
    """Orders that are fulfilled by a workflow, which asks the stock; letters that are sent outside."""
    orders = Service("orders", tables="CREATE TABLE notes (n INTEGER PRIMARY KEY, what TEXT, order_id TEXT);")
    stock = Service("stock", tables="CREATE TABLE reserved (order_id TEXT NOT NULL);")
    mail = Service("mail", tables="CREATE TABLE letters (order_id TEXT NOT NULL);")

    @orders.post("/orders")
    async def begin(new: Wish, tx: Transaction) -> Begun:
        return Begun(tx.new_id(), new.wish)

    @orders.post("/questions")
    async def ask(new: Wish, tx: Transaction) -> None:
        await tx.request(Reserve(tx.new_id(), new.wish), timeout=seconds(10))

    @orders.on(Reserved, Short, Refused, TimedOut, retry=QUICK)
    async def hear(answer: Reserved | Short | Refused | TimedOut, tx: Transaction) -> None:
        await tx.execute("INSERT INTO notes (what, order_id) VALUES (?, ?)", type(answer).__name__, "")

    async def note(tx: Transaction, what: str, order: Begun) -> None:
        await tx.execute("INSERT INTO notes (what, order_id) VALUES (?, ?)", what, order.order_id)

    async def open_(order: Begun, tx: Transaction) -> None:
        await note(tx, "opened", order)

    async def close(order: Begun, tx: Transaction) -> None:
        await note(tx, "closed", order)

    async def charge(order: Begun, tx: Transaction) -> str:
        await asyncio.sleep(0.2)
        await note(tx, "charged", order)
        return f"charge of {order.order_id}"

    async def refund(order: Begun, result: str, tx: Transaction) -> None:
        await note(tx, "refunded", order)

    async def pack(order: Begun, tx: Transaction) -> None:
        await note(tx, "packed", order)

    async def unpack(order: Begun, tx: Transaction) -> None:
        await note(tx, "unpacked", order)

    @orders.workflow(awaits=(Reserved, Short, Refused), publishes=(Reserve,), retry=QUICK)
    async def fulfil(order: Begun, wf: Workflow) -> Shipped | GivenUp:
        await wf.step(open_, order, undo=close)
        await wf.step(charge, order, undo=refund)
        try:
            answer = await wf.request(
                Reserve(order.order_id, order.wish), Reserved, Short, Refused, timeout=seconds(40)
            )
        except WaitTimedOut:
            answer = None
        if not isinstance(answer, Reserved):
            await wf.compensate("no stock")
            return GivenUp(order.order_id)
        await wf.step(pack, order, undo=unpack)
        await wf.sleep(seconds(2))
        if order.wish == FAILS_TWICE:
            await wf.compensate("it fails, and that fails too")
        if order.wish in (FAILS_LATE, FAILS_TWICE):
            raise ValueError("it fails")
        return Shipped(order.order_id, order.wish)

    @stock.on(Reserve, retry=QUICK)
    async def reserve(asked: Reserve, tx: Transaction) -> Reserved | Short:
        if asked.wish == REFUSED:
            raise Reject("there is no such thing")
        if asked.wish == NO_STOCK:
            return Short(asked.order_id)
        await tx.execute("INSERT INTO reserved VALUES (?)", asked.order_id)
        return Reserved(asked.order_id)

    @mail.on(Shipped, retry=QUICK)
    async def write(shipped: Shipped, effects: Effects, tx: Transaction) -> None:
        verify = None if shipped.wish == UNVERIFIED else find
        await effects.once("letter", send, shipped.order_id, shipped.wish, verify=verify)
        await tx.execute("INSERT INTO letters VALUES (?)", shipped.order_id)

    @mail.post("/letters")
    async def ask_for_letter(new: Wish, tx: Transaction) -> Shipped:
        return Shipped(tx.new_id(), new.wish)

    app = App(orders, stock, mail, name="processes", own_stores=True)
    if only_letters:

        @app.traffic
        def letter(random: Random) -> tuple[str, str, dict[str, Any]]:
            return "POST", "/letters", {"wish": random.choice((FINE, UNVERIFIED, NO_ANSWER))}

        return app

    @app.traffic(weight=3)
    def order(random: Random) -> tuple[str, str, dict[str, Any]]:
        return "POST", "/orders", {"wish": random.randrange(7)}

    @app.traffic
    def question(random: Random) -> tuple[str, str, dict[str, Any]]:
        return "POST", "/questions", {"wish": random.randrange(3)}

    return app


APPS: dict[str, Callable[[], App]] = {
    "shop": shop,
    "redrives": lambda: shop(redrives=True),
    "slow": lambda: shop(SLOW, retention=minutes(2)),
    "processes": processes,
    "letters": lambda: processes(only_letters=True),
}
