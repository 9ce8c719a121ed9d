"""A small shop, served over real HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from antiphon import App, Event, Reject, Service, Transaction
from antiphon.gateway.application import serve
from antiphon.runtime.runtime import Runtime

PATIENCE_S = 20


class Ordered(Event, key="order_id"):
    """Somebody wants something."""

    order_id: str
    item: str
    cents: int


class Paid(Event, key="order_id"):
    """The money is there."""

    order_id: str


class PaymentFailed(Event, key="order_id"):
    """The money is not there, and why."""

    order_id: str
    reason: str


def shop() -> Service:
    """Takes orders: by returning an event, by publishing one, and in ways that fail."""
    service = Service("shop", tables="CREATE TABLE IF NOT EXISTS orders (id TEXT PRIMARY KEY, item TEXT, n INT);")

    @service.post("/orders")
    async def order(wanted: dict[str, Any], tx: Transaction) -> Ordered:
        await tx.execute("INSERT INTO orders VALUES (?, ?, 1)", wanted["id"], wanted["item"])
        return Ordered(wanted["id"], wanted["item"], wanted.get("cents", 100))

    @service.get("/orders/{order_id}")
    async def look(order_id: str, tx: Transaction) -> dict[str, str]:
        row = await tx.fetch_one("SELECT item FROM orders WHERE id = ?", order_id)
        return {"item": row["item"]} if row else {}

    return service


def billing() -> Service:
    """Pays, unless the item is dear (a failure with a reason) or cursed (a dead letter)."""
    service = Service("billing")

    @service.on(Ordered)
    async def pay(event: Ordered) -> Paid | PaymentFailed:
        if event.item == "cursed":
            raise Reject("we do not sell cursed items")
        if event.cents > 1_000:
            return PaymentFailed(event.order_id, "card declined")
        return Paid(event.order_id)

    @service.get("/bills/{name}")
    async def bill(name: str) -> dict[str, str]:
        return {"bill": name}

    return service


@asynccontextmanager
async def served(
    data: Path, *services: Service, own_stores: bool = False, only: list[str] | None = None, **options: Any
) -> AsyncIterator[tuple[httpx.AsyncClient, Runtime]]:
    """The services behind a gateway on a free port, and a client of it."""
    app = App(*services, name="app", own_stores=own_stores)
    async with (
        app.run_in(data, services=only) as runtime,
        serve(app, runtime, port=0, **options) as address,
        httpx.AsyncClient(base_url=address.url, trust_env=False, timeout=PATIENCE_S) as client,
    ):
        yield client, runtime


async def until(condition: Callable[[], Awaitable[Any]]) -> Any:
    """The condition's first value that is true; fails if there is none in time."""
    async with asyncio.timeout(PATIENCE_S):
        while not (value := await condition()):
            await asyncio.to_thread(lambda: None)  # others get their turn
    return value


async def rows(runtime: Runtime, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """Committed rows of the first store, as tuples."""
    return [tuple(row) for row in await runtime.logs[0].fetch_all(sql, parameters)]


async def messages(lines: AsyncIterator[str]) -> AsyncIterator[dict[str, str]]:
    """The messages of a stream of server-sent events, as fields; a comment is the field ``""``."""
    fields: dict[str, str] = {}
    async for line in lines:
        if not line:
            yield fields
            fields = {}
        else:
            name, _, value = line.partition(":")
            fields[name] = value.strip()


async def followed(client: httpx.AsyncClient, stream: str, last: str, **headers: str) -> list[dict[str, str]]:
    """What a stream says, until it has told of an event of type *last*; comments left out."""
    found = []
    async with asyncio.timeout(PATIENCE_S), client.stream("GET", stream, headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream"), await answer.aread()
        async for message in messages(answer.aiter_lines()):
            if "event" in message:
                found.append(message)
                if message["event"] == last:
                    break
    return found
