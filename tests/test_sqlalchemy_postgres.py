"""Publishing from SQLAlchemy code that exists already, inside its own sessions on PostgreSQL."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("psycopg")

from sqlalchemy import create_engine, text
from sqlalchemy.exc import IntegrityError, InternalError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from antiphon import Event, InvalidEvent, Service, Transaction
from antiphon.errors import DeclarationError, StoreError
from antiphon.runtime.runtime import Runtime
from antiphon.sqlalchemy import ensure_tables, prepare, publish, publish_sync, read_only
from tests.store.postgres import database, name_of

pytestmark = pytest.mark.anyio


class OrderPlaced(Event, key="order_id"):
    """An order was taken by the existing application."""

    order_id: str
    cents: int


class OrderNoted(Event, key="order_id", domain=True):
    """Something that stays inside the service."""

    order_id: str


class Base(DeclarativeBase):
    """The existing application's tables, in a schema of its own."""


class Order(Base):
    """An order."""

    __tablename__ = "orders"
    order_id: Mapped[str] = mapped_column(primary_key=True)
    cents: Mapped[int]


@pytest.fixture
def url() -> Iterator[str]:
    """A database of the test's own."""
    with database() as found:
        yield found


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
async def running(url: str, folder: Path, service: Service) -> AsyncIterator[Runtime]:
    """The service, started."""
    runtime = Runtime(name_of(folder), [service.spec], data=folder, store=url)
    await runtime.start()
    try:
        yield runtime
    finally:
        await runtime.stop()


@asynccontextmanager
async def engine_on(url: str, folder: Path) -> AsyncIterator[AsyncEngine]:
    """The existing application's engine, prepared, with its tables."""
    engine = prepare(create_async_engine(alchemy(url)), store=name_of(folder))
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    try:
        yield engine
    finally:
        await engine.dispose()


def alchemy(url: str) -> str:
    """The address as SQLAlchemy has it."""
    return url.replace("postgresql://", "postgresql+psycopg://")


async def rows(runtime: Runtime, sql: str) -> list[tuple[Any, ...]]:
    """Committed rows."""
    return [tuple(row) for row in await next(iter(runtime.stores.values())).fetch_all(sql)]


async def until_billed(runtime: Runtime, count: int) -> None:
    """Wait until so many bills are committed."""
    async with asyncio.timeout(60):
        while await rows(runtime, "SELECT count(*) FROM bills") < [(count,)]:
            await rows(runtime, "SELECT pg_sleep(0.01)")


async def test_an_event_is_published_by_the_sessions_commit(url: str, tmp_path: Path) -> None:
    """The order and its event commit together, handlers are woken by the bell, and a rollback leaves neither."""
    seen = Seen()
    async with running(url, tmp_path, seen.service) as runtime, engine_on(url, tmp_path) as engine:
        async with AsyncSession(engine) as session:
            session.add(Order(order_id="o0", cents=1))
            await publish(session, OrderPlaced("o0", 1), service="orders")
            await session.rollback()
            session.add(Order(order_id="o1", cents=250))
            event_id = await publish(session, OrderPlaced("o1", 250), service="orders")
            await publish(session, OrderNoted("o1"), service="orders")
            assert await rows(runtime, "SELECT 1 FROM antiphon_log") == []
            await session.commit()
            await until_billed(runtime, 1)
            session.add(Order(order_id="o1", cents=2))
            with pytest.raises(IntegrityError):
                await publish(session, OrderPlaced("o1", 2), service="orders")
                await session.commit()
            await session.rollback()
            await publish(session, OrderPlaced("o2", 3), service="orders")
            await session.commit()
        await until_billed(runtime, 2)
        logged = await rows(runtime, "SELECT type, key, service, origin, data FROM antiphon_log ORDER BY seq")
        assert [row[:4] for row in logged] == [
            ("OrderPlaced", "o1", "orders", 0),
            ("OrderNoted", "o1", "orders", 2),
            ("OrderPlaced", "o2", "orders", 0),
        ]
        assert json.loads(logged[0][4]) == {"order_id": "o1", "cents": 250}
        assert (await rows(runtime, "SELECT id FROM antiphon_log ORDER BY seq"))[0] == (event_id,)
        assert await rows(runtime, "SELECT order_id FROM public.orders") == [("o1",)]


async def test_an_event_of_a_savepoint_that_is_undone_is_not_published(url: str, tmp_path: Path) -> None:
    """``begin_nested`` works as ever, one within the other too."""
    async with running(url, tmp_path, Seen().service) as runtime, engine_on(url, tmp_path) as engine:
        async with AsyncSession(engine) as session, session.begin():
            await publish(session, OrderPlaced("a", 1), service="orders")
            outer = await session.begin_nested()
            await publish(session, OrderPlaced("undone", 1), service="orders")
            async with session.begin_nested():
                await publish(session, OrderPlaced("undone too", 1), service="orders")
            await outer.rollback()
            async with session.begin_nested():
                await publish(session, OrderPlaced("b", 1), service="orders")
            await publish(session, OrderPlaced("c", 1), service="orders")
        assert await rows(runtime, "SELECT key FROM antiphon_log ORDER BY seq") == [("a",), ("b",), ("c",)]


async def test_positions_come_in_the_order_of_commits(url: str, tmp_path: Path) -> None:
    """A session that publishes and then takes long keeps nobody waiting, and its event gets a position when it
    commits: who reads on from a position misses nothing."""
    async with running(url, tmp_path, Seen().service) as runtime, engine_on(url, tmp_path) as engine:
        async with AsyncSession(engine) as slow, slow.begin():
            session = slow
            session.add(Order(order_id="slow", cents=1))
            await publish(session, OrderPlaced("slow", 1), service="orders")
            await session.flush()
            async with asyncio.timeout(30):
                await runtime.publish("billing", OrderPlaced("runtime", 1))
                async with AsyncSession(engine) as quick, quick.begin():
                    await publish(quick, OrderPlaced("quick", 1), service="orders")
            assert await rows(runtime, "SELECT key FROM antiphon_log ORDER BY seq") == [("runtime",), ("quick",)]
        await until_billed(runtime, 3)
        seqs = [seq for (seq,) in await rows(runtime, "SELECT seq FROM antiphon_log ORDER BY seq")]
        assert (await rows(runtime, "SELECT key FROM antiphon_log ORDER BY seq"))[-1] == ("slow",)
        assert seqs == list(range(seqs[0], seqs[0] + 3))


async def test_sessions_and_the_runtime_write_at_once_and_lose_nothing(url: str, tmp_path: Path) -> None:
    """Async sessions, a thread with blocking ones, and the runtime: all is there, each once."""
    seen, each = Seen(), 40
    async with running(url, tmp_path, seen.service) as runtime, engine_on(url, tmp_path) as engine:
        blocking = prepare(create_engine(alchemy(url)), store=name_of(tmp_path))

        async def by_session(number: int) -> None:
            async with AsyncSession(engine) as session, session.begin():
                await publish(session, OrderPlaced(f"a{number}", 1), service="orders")
                session.add(Order(order_id=f"a{number}", cents=1))

        def in_thread() -> None:
            for number in range(each):
                with Session(blocking) as session, session.begin():
                    publish_sync(session, OrderPlaced(f"t{number}", 1), service="orders")

        async def by_runtime() -> None:
            for number in range(each):
                await runtime.publish("billing", OrderPlaced(f"r{number}", 1))

        async with asyncio.timeout(60):
            await asyncio.gather(*map(by_session, range(each)), asyncio.to_thread(in_thread), by_runtime())
        await until_billed(runtime, 3 * each)
        blocking.dispose()
        assert sorted(seen.orders) == sorted(f"{who}{number}" for who in "art" for number in range(each))


async def test_a_connection_that_is_used_again_has_forgotten_what_was_not_committed(url: str, tmp_path: Path) -> None:
    """A session that is closed, or whose connection is thrown away, publishes nothing with the next one's commit."""
    async with running(url, tmp_path, Seen().service) as runtime:
        engine = prepare(create_async_engine(alchemy(url), pool_size=1, max_overflow=0), store=name_of(tmp_path))
        async with AsyncSession(engine) as session:
            await publish(session, OrderPlaced("closed", 1), service="orders")
        async with AsyncSession(engine) as session:
            await publish(session, OrderPlaced("thrown away", 1), service="orders")
            await session.invalidate()
        async with AsyncSession(engine) as session:
            await publish(session, OrderPlaced("kept", 1), service="orders")
            await session.commit()
        await engine.dispose()
        assert await rows(runtime, "SELECT key FROM antiphon_log") == [("kept",)]


async def test_what_is_wrong_is_said_before_anything_is_written(url: str, tmp_path: Path) -> None:
    """Bad data, an engine that is not prepared or has no store's name, one that only reads or commits each statement,
    and a database without our tables: refused where it is said."""
    with pytest.raises(DeclarationError, match="store="):
        prepare(create_async_engine(alchemy(url)))
    with pytest.raises(DeclarationError, match="schema"):
        prepare(create_async_engine(alchemy(url)), store='a"b')
    async with engine_on(url, tmp_path) as engine:
        async with AsyncSession(engine) as session:
            with pytest.raises(StoreError, match=r"ensure_tables"):
                await publish(session, OrderPlaced("o1", 1), service="orders")
        ensure_tables(engine, store=name_of(tmp_path))
        async with AsyncSession(engine) as session, session.begin():
            with pytest.raises(InvalidEvent, match=r"\$\.cents"):
                await publish(session, OrderPlaced("o1", "much"), service="orders")  # type: ignore[arg-type]
            await publish(session, OrderPlaced("o1", 1), service="orders")
        async with AsyncSession(read_only(engine)) as session:
            with pytest.raises(DeclarationError, match="read_only"):
                await publish(session, OrderPlaced("o1", 1), service="orders")
            with pytest.raises(InternalError, match="read-only"):
                await session.execute(text("DELETE FROM orders"))
        at_once = engine.execution_options(isolation_level="AUTOCOMMIT")
        async with AsyncSession(at_once) as session:
            with pytest.raises(DeclarationError, match="commits by itself"):
                await publish(session, OrderPlaced("o1", 1), service="orders")
        async with running(url, tmp_path, Seen().service) as runtime:
            await until_billed(runtime, 1)
