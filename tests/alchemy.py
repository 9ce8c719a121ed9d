"""An application with SQLAlchemy that exists already, the service that hears of its orders, and where both are kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from antiphon import Event, Service, Transaction
from antiphon.runtime.runtime import Runtime
from antiphon.sqlalchemy import prepare
from tests.store.postgres import database, name_of


class Place(NamedTuple):
    """Where the application and the service have their tables.

    *url* and *blocking* are the address as SQLAlchemy's two kinds of engines have it; *names* are what else `prepare`
    is told, *store* and *app* what the runtime is. *moment* is a query that takes one (None: reading awaits nothing).
    """

    data: Path
    url: str
    blocking: str
    names: dict[str, str]
    store: str | None
    app: str
    moment: str | None


def in_a_file(data: Path) -> Place:
    """The SQLite file that the services of an app share in *data*."""
    path = data / "app.db"
    return Place(data, f"sqlite+aiosqlite:///{path}", f"sqlite:///{path}", {}, None, "app", None)


@contextmanager
def on_postgres(data: Path) -> Iterator[Place]:
    """A PostgreSQL database, dropped afterwards, with a schema that stands for *data*."""
    with database() as url:
        name, alchemy = name_of(data), url.replace("postgresql://", "postgresql+psycopg://")
        yield Place(data, alchemy, alchemy, {"store": name}, url, name, "SELECT pg_sleep(0.01)")


class OrderPlaced(Event, key="order_id"):
    """An order was taken by the existing application."""

    order_id: str
    cents: int


class OrderNoted(Event, key="order_id", domain=True):
    """Something that stays inside the service."""

    order_id: str


class Base(DeclarativeBase):
    """The existing application's tables."""


class Order(Base):
    """An order."""

    __tablename__ = "orders"
    order_id: Mapped[str] = mapped_column(primary_key=True)
    cents: Mapped[int]


class Seen:
    """A service that bills the orders it hears of."""

    def __init__(self) -> None:
        self.orders: list[str] = []
        self.service = Service(
            "billing", tables="CREATE TABLE IF NOT EXISTS bills (order_id TEXT PRIMARY KEY, cents INTEGER)"
        )

        @self.service.on(OrderPlaced)
        async def bill(order: OrderPlaced, tx: Transaction) -> None:
            await tx.execute("INSERT INTO bills VALUES (?, ?)", order.order_id, order.cents)
            self.orders.append(order.order_id)


@asynccontextmanager
async def running(place: Place, *services: Service) -> AsyncIterator[Runtime]:
    """The services, on the real clock."""
    specs = [service.spec for service in services]
    runtime = Runtime(place.app, specs, data=place.data, store=place.store)
    await runtime.start()
    try:
        yield runtime
    finally:
        await runtime.stop()


@asynccontextmanager
async def engine_on(place: Place) -> AsyncIterator[AsyncEngine]:
    """The existing application's engine, prepared, with its tables."""
    engine = prepare(create_async_engine(place.url), **place.names)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    try:
        yield engine
    finally:
        await engine.dispose()


async def rows(runtime: Runtime, sql: str) -> list[tuple[Any, ...]]:
    """Committed rows of what the services share."""
    store = next(iter(runtime.stores.values()))
    return [tuple(row) for row in await store.fetch_all(sql)]


async def until_billed(place: Place, runtime: Runtime, count: int) -> None:
    """Wait until so many bills are committed."""
    async with asyncio.timeout(60):
        while await rows(runtime, "SELECT count(*) FROM bills") < [(count,)]:
            await (rows(runtime, place.moment) if place.moment else asyncio.to_thread(lambda: None))
