"""The Inventory service: puts things aside for orders, and back."""

from typing import Annotated, Any

from fastapi import HTTPException
from pydantic import BaseModel, Field

from antiphon import Reject, Service, Transaction

from . import retries
from .catalogue import CATALOGUE
from .events import OrderFulfilled, OutOfStock, ReleaseStock, ReserveStock, StockReleased, StockReserved

inventory = Service("inventory", tables="inventory.sql")


@inventory.on(ReserveStock, ReleaseStock, retry=retries.DATABASE)
async def serve(asked: ReserveStock | ReleaseStock, tx: Transaction) -> StockReserved | OutOfStock | StockReleased:
    """Reserve, or release: one handler for both, so that an order's release never overtakes its reservation."""
    if isinstance(asked, ReleaseStock):
        return await _release(asked.order_id, tx)
    return await _reserve(asked, tx)


async def _reserve(asked: ReserveStock, tx: Transaction) -> StockReserved | OutOfStock:
    """All lines or none. What an order has been given up for is not reserved any more, however late it is asked for."""
    if await tx.fetch_value("SELECT 1 FROM given_up WHERE order_id = ?", asked.order_id):
        raise Reject(f"order {asked.order_id} was given up")
    for line in asked.lines:
        free = await _free(line.sku, tx)
        if free < line.quantity:
            return OutOfStock(asked.order_id, f"{line.quantity} x {line.sku} were ordered, {free} are left")
    for line in asked.lines:
        await tx.execute("UPDATE stock SET free = free - ? WHERE sku = ?", line.quantity, line.sku)
        await tx.execute(
            "INSERT INTO reservations (order_id, sku, quantity) VALUES (?, ?, ?)",
            asked.order_id,
            line.sku,
            line.quantity,
        )
    return StockReserved(asked.order_id)


async def _release(order_id: str, tx: Transaction) -> StockReleased:
    await tx.execute("INSERT INTO given_up (order_id) VALUES (?) ON CONFLICT DO NOTHING", order_id)
    released = await tx.fetch_all(
        "UPDATE reservations SET state = 'RELEASED' WHERE order_id = ? AND state = 'RESERVED' RETURNING sku, quantity",
        order_id,
    )
    for row in released:
        await tx.execute("UPDATE stock SET free = free + ? WHERE sku = ?", row["quantity"], row["sku"])
    return StockReleased(order_id, sum(row["quantity"] for row in released))


@inventory.on(OrderFulfilled, retry=retries.DATABASE)
async def take_out(fulfilled: OrderFulfilled, tx: Transaction) -> None:
    """What was reserved has left the house."""
    await tx.execute(
        "UPDATE reservations SET state = 'SHIPPED' WHERE order_id = ? AND state = 'RESERVED'", fulfilled.order_id
    )


class Delivered(BaseModel):
    """Goods that a supplier has brought."""

    quantity: Annotated[int, Field(gt=0, le=1_000_000)]


@inventory.post("/stock/{sku}")
async def receive(sku: str, delivered: Delivered, tx: Transaction) -> dict[str, Any]:
    """Put delivered goods on the shelf."""
    if sku not in CATALOGUE:
        raise HTTPException(404, f"there is no product {sku}")
    await _free(sku, tx)
    quantity = delivered.quantity
    await tx.execute("UPDATE stock SET free = free + ?, received = received + ? WHERE sku = ?", quantity, quantity, sku)
    return {"sku": sku, "free": await _free(sku, tx)}


@inventory.get("/stock")
async def stock(tx: Transaction) -> list[dict[str, Any]]:
    """All products with their prices, and how many are free."""
    free = {row["sku"]: row["free"] for row in await tx.fetch_all("SELECT sku, free FROM stock")}
    return [
        {"sku": each.sku, "name": each.name, "cents": each.cents, "free": free.get(each.sku, each.stock)}
        for each in CATALOGUE.values()
    ]


async def _free(sku: str, tx: Transaction) -> int:
    """How many are free; its row is made when a product is first asked for."""
    if sku not in CATALOGUE:
        raise Reject(f"there is no product {sku}")
    found = await tx.fetch_value("SELECT free FROM stock WHERE sku = ?", sku)
    if found is not None:
        return int(found)
    first = CATALOGUE[sku].stock
    await tx.execute("INSERT INTO stock (sku, free, received) VALUES (?, ?, ?)", sku, first, first)
    return first
