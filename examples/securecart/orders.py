"""The Orders service: takes orders, and tells how far they are. What becomes of them is in `fulfilment`."""

import os
import re
from collections import Counter
from typing import Annotated, Any, Literal

from fastapi import HTTPException
from pydantic import BaseModel, Field, SecretStr, StringConstraints

from antiphon import Service, Transaction

from .catalogue import CATALOGUE
from .events import Line, OrderForMachine, OrderPlaced

orders = Service("orders", tables="orders.sql")

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
_CARD_NUMBER = re.compile(r"[0-9]{4,19}")


class NewLine(BaseModel):
    """So many pieces of one product."""

    sku: Annotated[Text, StringConstraints(to_upper=True)]
    quantity: Annotated[int, Field(gt=0, le=1_000)] = 1


class NewOrder(BaseModel):
    """What a customer orders. *account* pays; *country* is two letters, as in ISO 3166.

    *fulfilment* says which of two ways it goes: that of the function, or of the definition, which come to the same.
    """

    account: Text
    email: Annotated[Text, StringConstraints(pattern=r"^[^@\s]+@[^@\s]+$")]
    card: SecretStr
    country: Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$")]
    lines: Annotated[list[NewLine], Field(min_length=1, max_length=50)]
    fulfilment: Literal["function", "definition"] = "function"


@orders.post("/orders")
async def place(new: NewOrder, tx: Transaction) -> OrderPlaced | OrderForMachine:
    """Queue an order. What is sold is listed by GET /stock; what is too much is found out later."""
    lines = _lines(new.lines)
    kind = OrderPlaced if new.fulfilment == "function" else OrderForMachine
    placed = kind(
        order_id=tx.new_id(),
        account=new.account,
        email=new.email,
        card_last4=_last_four(new.card),
        country=new.country,
        lines=lines,
        cents=sum(CATALOGUE[line.sku].cents * line.quantity for line in lines),
        window_s=int(os.environ.get("SECURECART_WINDOW_S", "60")),
    )
    await keep(placed, tx)
    return placed


async def keep(placed: OrderPlaced, tx: Transaction, replaces: str | None = None) -> None:
    """Write an order down, which is QUEUED."""
    await tx.execute(
        "INSERT INTO orders (order_id, account, email, card_last4, country, cents, window_s, replaces, placed_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        placed.order_id,
        placed.account,
        placed.email,
        placed.card_last4,
        placed.country,
        placed.cents,
        placed.window_s,
        replaces,
        tx.now.isoformat(),
    )
    await tx.execute_many(
        "INSERT INTO order_lines (order_id, sku, quantity) VALUES (?, ?, ?)",
        [(placed.order_id, line.sku, line.quantity) for line in placed.lines],
    )


def _lines(wanted: list[NewLine]) -> tuple[Line, ...]:
    """One line a product. Raises HTTPException for one that is not sold."""
    pieces: Counter[str] = Counter()
    for each in wanted:
        if each.sku not in CATALOGUE:
            raise HTTPException(422, f"lines: there is no product {each.sku}; GET /stock lists those there are")
        pieces[each.sku] += each.quantity
    return tuple(Line(sku, quantity) for sku, quantity in sorted(pieces.items()))


def _last_four(card: SecretStr) -> str:
    """All of a card number that may be kept. Raises HTTPException, which does not repeat what is wrong."""
    digits = re.sub(r"[ -]", "", card.get_secret_value())
    if not _CARD_NUMBER.fullmatch(digits):
        raise HTTPException(422, "card: a card number has up to 19 digits, perhaps with spaces or hyphens")
    return digits[-4:]


async def found(order_id: str, tx: Transaction) -> dict[str, Any]:
    """The order with its lines. Raises HTTPException if there is none."""
    row = await tx.fetch_one("SELECT * FROM orders WHERE order_id = ?", order_id)
    if row is None:
        raise HTTPException(404, f"there is no order {order_id}")
    lines = await tx.fetch_all("SELECT sku, quantity FROM order_lines WHERE order_id = ? ORDER BY sku", order_id)
    return {**dict(row), "lines": [dict(line) for line in lines]}


# ---------------------------------------------------------------------- steps of its fulfilment


async def reach(order_id: str, status: str, tx: Transaction) -> bool:
    """Whether the order goes on to *status*: not if the customer has cancelled it."""
    changed = await tx.execute(
        "UPDATE orders SET status = ? WHERE order_id = ? AND status <> 'CANCELLING'", status, order_id
    )
    return changed == 1


async def close(order_id: str, status: str, detail: str, tx: Transaction) -> None:
    """The order has come to its end."""
    await tx.execute("UPDATE orders SET status = ?, detail = ? WHERE order_id = ?", status, detail, order_id)
