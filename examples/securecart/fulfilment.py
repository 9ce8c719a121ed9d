"""How an order is fulfilled: one durable function that asks the other services, and takes back what it has asked for.

    reserve stock > charge the card > a while in which the customer may cancel > ship > tell the customer

Whatever goes wrong, all that was asked for is taken back, the last first: each request goes with the command that
undoes it. One that is refused leaves the run STUCK, for a person to see to with ``antiphon workflow``.
"""

from contextlib import suppress
from typing import Any

from fastapi import HTTPException

from antiphon import Refused, Reject, Transaction, Workflow, WorkflowCancelled, seconds
from antiphon.errors import NotFound

from . import retries
from .by_definition import fulfil_by_definition
from .events import (
    CardCharged,
    CardDeclined,
    ChargeCard,
    ChargeReturned,
    CustomerNotified,
    Line,
    NotifyCustomer,
    OrderFailed,
    OrderFulfilled,
    OrderPlaced,
    OutOfStock,
    ParcelRecalled,
    ParcelShipped,
    RecallParcel,
    ReleaseStock,
    ReserveStock,
    ReturnCharge,
    ShipParcel,
    StockReleased,
    StockReserved,
)
from .orders import close, found, keep, orders, reach

ANSWERS = (
    StockReserved,
    OutOfStock,
    StockReleased,
    CardCharged,
    CardDeclined,
    ChargeReturned,
    ParcelShipped,
    ParcelRecalled,
    CustomerNotified,
    Refused,
)
_BY_CUSTOMER = "by the customer"
QUESTIONS = (ReserveStock, ReleaseStock, ChargeCard, ReturnCharge, ShipParcel, RecallParcel, NotifyCustomer)


class Unfulfillable(Exception):
    """The order cannot be fulfilled; its text says why."""


@orders.workflow(starts=OrderPlaced, awaits=ANSWERS, publishes=QUESTIONS, retry=retries.DATABASE)
async def fulfil(order: OrderPlaced, wf: Workflow) -> OrderFulfilled | OrderFailed | None:
    """Fulfil an order, or leave nothing of it behind."""
    try:
        tracking = await _carry_out(order, wf)
    except Unfulfillable as error:
        reason = str(error)
        await wf.compensate(reason)
        await _close(wf, order, "FAILED", reason)
        return OrderFailed(order.order_id, reason)
    except WorkflowCancelled as error:
        await wf.compensate(error.what)
        await _close(wf, order, "CANCELLED", error.what)
        return None
    await _close(wf, order, "SHIPPED", tracking)
    return OrderFulfilled(order.order_id, tracking)


async def _carry_out(order: OrderPlaced, wf: Workflow) -> str:
    """The number of the parcel. Raises Unfulfillable, WorkflowCancelled."""
    id_, account = order.order_id, order.account
    stock: StockReserved | OutOfStock | Refused = await wf.request(
        ReserveStock(id_, order.lines), StockReserved, OutOfStock, Refused, undo=ReleaseStock(id_)
    )
    if not isinstance(stock, StockReserved):
        raise Unfulfillable(stock.reason)
    await _reach(wf, order, "RESERVED")
    charge = ChargeCard(account, id_, order.card_last4, order.cents)
    paid: CardCharged | CardDeclined | Refused = await wf.request(
        charge, CardCharged, CardDeclined, Refused, undo=ReturnCharge(account, id_)
    )
    if not isinstance(paid, CardCharged):
        raise Unfulfillable(paid.reason)
    await _reach(wf, order, "PAID")
    if order.window_s > 0:
        await wf.sleep(seconds(order.window_s))
    await _reach(wf, order, "SHIPPING")
    parcel: ParcelShipped | Refused = await wf.request(
        ShipParcel(id_, order.country, order.lines), ParcelShipped, Refused, undo=RecallParcel(id_)
    )
    if isinstance(parcel, Refused):
        raise Unfulfillable(parcel.reason)
    return parcel.tracking


async def _reach(wf: Workflow, order: OrderPlaced, status: str) -> None:
    """Go on to *status*. Raises WorkflowCancelled if the customer was faster."""
    if not await wf.step(reach, order.order_id, status):
        raise WorkflowCancelled(f"cancelled: {_BY_CUSTOMER}", where=order.order_id)


async def _close(wf: Workflow, order: OrderPlaced, status: str, detail: str) -> None:
    """The order has ended: tell the customer. An e-mail that cannot be sent changes nothing about the order."""
    await wf.step(close, order.order_id, status, detail)
    with suppress(WorkflowCancelled):  # too late
        await wf.request(NotifyCustomer(order.order_id, order.email, status, detail), CustomerNotified, Refused)


# ---------------------------------------------------------------------- what customers see and do


@orders.get("/orders/{order_id}")
async def show(order_id: str, tx: Transaction) -> dict[str, Any]:
    """An order: QUEUED, RESERVED, PAID, SHIPPING, SHIPPED, CANCELLING, CANCELLED or FAILED; and what it waits for."""
    order = await found(order_id, tx)
    run = await fulfil.find(tx, key=order_id) or await fulfil_by_definition.find(tx, key=order_id)
    return {**order, "fulfilment": None if run is None else run.state, "waits_for": run.waiting if run else None}


@orders.post("/orders/{order_id}/cancel", status_code=202)
async def cancel(order_id: str, tx: Transaction) -> dict[str, str]:
    """Cancel an order that is not being shipped. What it has reserved and paid is given back."""
    await _cancel(order_id, tx)
    status = (await found(order_id, tx))["status"]
    if status not in ("CANCELLING", "CANCELLED"):
        raise HTTPException(409, f"order {order_id} is {status}: it cannot be cancelled any more")
    return {"order_id": order_id, "status": status}


@orders.post("/accounts/{account}/cancel", status_code=202)
async def cancel_all(account: str, tx: Transaction) -> dict[str, list[str]]:
    """Cancel whatever of an account's orders can be cancelled."""
    rows = await tx.fetch_all("SELECT order_id FROM orders WHERE account = ? ORDER BY order_id", account)
    return {"cancelled": [row["order_id"] for row in rows if await _cancel(row["order_id"], tx)]}


async def _cancel(order_id: str, tx: Transaction) -> bool:
    """Whether the order could be cancelled, and now is being."""
    changed = await tx.execute(
        "UPDATE orders SET status = 'CANCELLING' WHERE order_id = ? AND status IN ('QUEUED', 'RESERVED', 'PAID')",
        order_id,
    )
    if changed:
        with suppress(NotFound):  # it has not begun, and will see it
            await fulfil.cancel(tx, _BY_CUSTOMER, key=order_id)
    return changed == 1


# ---------------------------------------------------------------------- what failed


@orders.on(OrderFailed, retry=retries.DATABASE)
async def set_aside(failed: OrderFailed, tx: Transaction) -> None:
    """Keep a failed order as a dead letter with its reason, until it was placed again; a redrive then ends it."""
    if not await tx.fetch_value("SELECT 1 FROM orders WHERE replaces = ?", failed.order_id):
        raise Reject(
            f"order {failed.order_id} failed: {failed.reason}",
            mend=f"Mend it, POST /orders/{failed.order_id}/again, and redrive this",
        )


@orders.post("/orders/{order_id}/again")
async def again(order_id: str, tx: Transaction) -> OrderPlaced:
    """Place an order again that has failed, as a new one."""
    order = await found(order_id, tx)
    if order["status"] != "FAILED":
        raise HTTPException(409, f"order {order_id} is {order['status']}: only one that has failed is placed again")
    if await tx.fetch_value("SELECT 1 FROM orders WHERE replaces = ?", order_id):
        raise HTTPException(409, f"order {order_id} was placed again already")
    placed = OrderPlaced(
        order_id=tx.new_id(),
        account=order["account"],
        email=order["email"],
        card_last4=order["card_last4"],
        country=order["country"],
        lines=tuple(Line(**line) for line in order["lines"]),
        cents=order["cents"],
        window_s=order["window_s"],
    )
    await keep(placed, tx, replaces=order_id)
    return placed
