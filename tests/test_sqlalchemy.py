"""Publishing from FastAPI and SQLAlchemy code that exists already, inside its own sessions."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import httpx
import pytest
from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy import create_engine, text
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from antiphon import InvalidEvent
from antiphon.errors import DeclarationError, StoreError
from antiphon.sqlalchemy import ensure_tables, prepare, publish, publish_sync, read_only
from tests.alchemy import (
    Base,
    Order,
    OrderNoted,
    OrderPlaced,
    Place,
    Seen,
    engine_on,
    in_a_file,
    rows,
    running,
    until_billed,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A file of the test's own."""
    return in_a_file(tmp_path)


def web_application(engine: AsyncEngine) -> FastAPI:
    """A FastAPI application as there are many: a session per request, committed by the route."""
    web = FastAPI()

    async def a_session() -> AsyncIterator[AsyncSession]:
        async with AsyncSession(engine) as session:
            yield session

    async def a_reader() -> AsyncIterator[AsyncSession]:
        async with AsyncSession(read_only(engine)) as session:
            yield session

    @web.post("/orders/{order_id}", status_code=201)
    async def place(order_id: str, cents: int, session: Annotated[AsyncSession, Depends(a_session)]) -> dict[str, str]:
        session.add(Order(order_id=order_id, cents=cents))
        event_id = await publish(session, OrderPlaced(order_id, cents), service="orders")
        if cents < 0:
            raise HTTPException(422, "less than nothing")
        await session.commit()
        return {"event_id": event_id}

    @web.get("/orders/{order_id}")
    async def show(order_id: str, session: Annotated[AsyncSession, Depends(a_reader)]) -> int:
        order = await session.get(Order, order_id)
        if order is None:
            raise HTTPException(404)
        return order.cents

    return web


@asynccontextmanager
async def client_of(web: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of an application in this process."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=web), base_url="http://test") as client:
        yield client


async def test_a_route_publishes_in_its_own_session(place: Place) -> None:
    """The order and its event commit together; a handler of the app on the same file takes effect once."""
    seen = Seen()
    async with running(place, seen.service) as runtime, engine_on(place) as engine:
        async with client_of(web_application(engine)) as client:
            answer = await client.post("/orders/o1?cents=250")
            assert answer.status_code == 201
            await until_billed(place, runtime, 1)
            assert (await client.get("/orders/o1")).json() == 250
        assert await rows(runtime, "SELECT * FROM bills") == [("o1", 250)]
        logged = await rows(runtime, "SELECT id, type, key, service, correlation_id FROM antiphon_log")
        assert logged == [(answer.json()["event_id"], "OrderPlaced", "o1", "orders", None)]


async def test_a_rolled_back_session_publishes_nothing(place: Place) -> None:
    """A route that raises after it has published leaves neither order nor event; the next one works."""
    seen = Seen()
    async with running(place, seen.service) as runtime, engine_on(place) as engine:
        async with client_of(web_application(engine)) as client:
            assert (await client.post("/orders/o1?cents=-1")).status_code == 422
            assert (await client.get("/orders/o1")).status_code == 404
            assert (await client.post("/orders/o2?cents=1")).status_code == 201
            await until_billed(place, runtime, 1)
        assert await rows(runtime, "SELECT key FROM antiphon_log") == [("o2",)]
        assert seen.orders == ["o2"]


async def test_a_commit_that_fails_publishes_nothing(place: Place) -> None:
    """What the flush at commit refuses takes the event with it, and the gate is free again."""
    async with running(place, Seen().service) as runtime, engine_on(place) as engine:
        async with AsyncSession(engine) as session:
            session.add(Order(order_id="o1", cents=1))
            await session.commit()
            session.add(Order(order_id="o1", cents=2))
            with pytest.raises(IntegrityError):
                await publish(session, OrderPlaced("o1", 2), service="orders")
                await session.commit()
        await runtime.publish("billing", OrderNoted("o1"))
        assert await rows(runtime, "SELECT type FROM antiphon_log") == [("OrderNoted",)]


async def test_a_blocking_session_publishes_too(place: Place, tmp_path: Path) -> None:
    """A plain Session in a thread, on the pysqlite driver; a domain event keeps its origin."""
    seen = Seen()
    async with running(place, seen.service) as runtime:
        engine = prepare(create_engine(f"sqlite:///{tmp_path / 'app.db'}"))

        def work() -> None:
            Base.metadata.create_all(engine)
            with Session(engine) as session:
                session.add(Order(order_id="o1", cents=1))
                publish_sync(session, OrderPlaced("o1", 1), service="orders")
                publish_sync(session, OrderNoted("o1"), service="orders")
                session.commit()
                publish_sync(session, OrderPlaced("o2", 1), service="orders")

        await asyncio.to_thread(work)
        await until_billed(place, runtime, 1)
        engine.dispose()
        assert await rows(runtime, "SELECT key, origin FROM antiphon_log") == [("o1", 0), ("o1", 2)]


async def test_the_bell_rings_after_the_commit(place: Place) -> None:
    """A handler hears of the event by the bell: with the runtime's upkeep stopped there is no other way."""
    seen = Seen()
    async with running(place, seen.service) as runtime, engine_on(place) as engine:
        steward = next(task for task in asyncio.all_tasks() if task.get_name() == "steward of app")
        async with asyncio.timeout(10):
            while not runtime.workers:
                await asyncio.to_thread(lambda: None)
        steward.cancel()
        await asyncio.wait([steward])
        async with AsyncSession(engine) as session:
            await publish(session, OrderPlaced("o1", 1), service="orders")
            assert seen.orders == []
            await session.commit()
        await until_billed(place, runtime, 1)


async def test_a_session_that_waits_stops_nobody_else_on_the_loop(place: Place) -> None:
    """While sessions wait for the gate, the loop runs; a waiter that is cancelled leaves the line."""
    async with running(place, Seen().service) as runtime, engine_on(place) as engine:

        async def order(order_id: str) -> None:
            async with AsyncSession(engine) as session, session.begin():
                await publish(session, OrderPlaced(order_id, 1), service="orders")

        async with runtime.transaction("billing") as tx:
            await tx.execute("INSERT INTO bills VALUES ('x', 1)")
            waiting = [asyncio.create_task(order(f"o{number}")) for number in range(4)]
            for _ in range(50):
                await asyncio.to_thread(lambda: None)
            assert not any(task.done() for task in waiting)
            waiting[1].cancel()
            await asyncio.wait([waiting[1]])
        async with asyncio.timeout(10):
            await asyncio.gather(*waiting, return_exceptions=True)
        assert await rows(runtime, "SELECT key FROM antiphon_log ORDER BY key") == [("o0",), ("o2",), ("o3",)]


async def test_a_reading_session_waits_for_no_writer(place: Place) -> None:
    """``read_only`` sessions read beside a writer; a write or a publication in one is refused."""
    async with running(place, Seen().service) as runtime, engine_on(place) as engine:
        async with runtime.transaction("billing") as tx:
            await tx.execute("INSERT INTO bills VALUES ('x', 1)")
            async with asyncio.timeout(5), AsyncSession(read_only(engine)) as session:
                assert (await session.execute(text("SELECT count(*) FROM bills"))).scalar() == 0
        async with AsyncSession(read_only(engine)) as session:
            with pytest.raises(OperationalError, match="readonly"):
                await session.execute(text("DELETE FROM bills"))
            await session.rollback()
            with pytest.raises(DeclarationError, match="read_only"):
                await publish(session, OrderPlaced("o1", 1), service="orders")
        for _ in range(10):  # whichever connection of the pool it is, it writes again
            async with AsyncSession(engine) as session, session.begin():
                await session.execute(text("DELETE FROM bills"))


async def test_what_is_wrong_is_said_before_anything_is_written(place: Place) -> None:
    """Invalid data, a class that is no event, a bad service name: refused, and the session goes on."""
    async with running(place, Seen().service) as runtime, engine_on(place) as engine:
        async with AsyncSession(engine) as session, session.begin():
            with pytest.raises(InvalidEvent, match=r"\$\.cents"):
                await publish(session, OrderPlaced("o1", "much"), service="orders")  # type: ignore[arg-type]
            with pytest.raises(DeclarationError, match="not an event"):
                await publish(session, object(), service="orders")
            with pytest.raises(DeclarationError, match="cannot name a service"):
                await publish(session, OrderPlaced("o1", 1), service="Order service")
            await publish(session, OrderPlaced("o1", 1), service="orders")
        assert await rows(runtime, "SELECT key FROM antiphon_log") == [("o1",)]


async def test_a_file_without_our_tables_is_said(place: Place) -> None:
    """On a file where no app has run, the error names the two ways out; `ensure_tables` is one of them."""
    async with engine_on(place) as engine:
        async with AsyncSession(engine) as session:
            with pytest.raises(StoreError, match=r"Start the app once on this file, or call ensure_tables"):
                await publish(session, OrderPlaced("o1", 1), service="orders")
        ensure_tables(engine)
        ensure_tables(engine)
        async with AsyncSession(engine) as session, session.begin():
            await publish(session, OrderPlaced("o1", 1), service="orders")
    async with running(place, Seen().service) as runtime:
        await until_billed(place, runtime, 1)


async def test_an_engine_that_is_not_prepared_is_said(tmp_path: Path) -> None:
    """Without `prepare` durability would be weaker without a word, so publishing refuses."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'app.db'}")
    async with AsyncSession(engine) as session:
        with pytest.raises(DeclarationError, match="Call prepare"):
            await publish(session, OrderPlaced("o1", 1), service="orders")
    await engine.dispose()
    with pytest.raises(DeclarationError, match="not the path of a SQLite file"):
        prepare(create_engine("sqlite://"))


def test_a_prepared_engine_has_the_settings_of_the_store(tmp_path: Path) -> None:
    """WAL, synchronous=FULL, foreign keys, and a transaction that writes from its start; prepared once only."""
    engine = prepare(prepare(create_engine(f"sqlite:///{tmp_path / 'app.db'}")))
    with engine.connect() as connection:
        settings = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]
        assert settings == ["wal", 2, 1, 30_000]
        second = create_engine(f"sqlite:///{tmp_path / 'app.db'}", connect_args={"timeout": 0})
        with second.connect() as other, pytest.raises(OperationalError, match="locked"):
            other.exec_driver_sql("BEGIN IMMEDIATE")
        second.dispose()
    engine.dispose()


def test_a_blocking_session_waits_for_its_turn(tmp_path: Path) -> None:
    """Two threads with a session each: the second goes on when the first has ended."""
    engine = prepare(create_engine(f"sqlite:///{tmp_path / 'app.db'}"))
    ensure_tables(engine)
    done = threading.Event()

    def second() -> None:
        with Session(engine) as session, session.begin():
            publish_sync(session, OrderPlaced("second", 1), service="orders")
        done.set()

    with Session(engine) as session, session.begin():
        publish_sync(session, OrderPlaced("first", 1), service="orders")
        thread = threading.Thread(target=second)
        thread.start()
        assert not done.wait(0.05)
    assert done.wait(10)
    thread.join()
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT key FROM antiphon_log").scalars().all() == ["first", "second"]
    engine.dispose()
