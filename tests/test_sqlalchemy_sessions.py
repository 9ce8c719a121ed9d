"""What sessions of existing code publish, in a file and on PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")

from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from antiphon.sqlalchemy import prepare, publish, publish_sync
from tests.alchemy import (
    Order,
    OrderPlaced,
    Place,
    Seen,
    engine_on,
    in_a_file,
    on_postgres,
    rows,
    running,
    until_billed,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["file", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A file of the test's own, or a database."""
    with ExitStack() as stack:
        yield in_a_file(tmp_path) if request.param == "file" else stack.enter_context(on_postgres(tmp_path))


async def test_an_event_of_a_savepoint_that_is_undone_is_not_published(place: Place) -> None:
    """``begin_nested`` works as ever, one within the other too."""
    async with running(place, Seen().service) as runtime, engine_on(place) as engine:
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


async def test_sessions_and_the_runtime_write_at_once_and_lose_nothing(place: Place) -> None:
    """Async sessions, a thread with blocking ones, and the runtime take turns: all is there, each once."""
    seen = Seen()
    each = 60
    async with running(place, seen.service) as runtime, engine_on(place) as engine:
        blocking = prepare(create_engine(place.blocking), **place.names)

        async def by_session(number: int) -> None:
            async with AsyncSession(engine) as session, session.begin():
                session.add(Order(order_id=f"a{number}", cents=1))
                await publish(session, OrderPlaced(f"a{number}", 1), service="orders")

        def in_thread() -> None:
            for number in range(each):
                with Session(blocking) as session, session.begin():
                    session.add(Order(order_id=f"t{number}", cents=1))
                    publish_sync(session, OrderPlaced(f"t{number}", 1), service="orders")

        async def by_runtime() -> None:
            for number in range(each):
                await runtime.publish("billing", OrderPlaced(f"r{number}", 1))

        async with asyncio.timeout(60):
            await asyncio.gather(*map(by_session, range(each)), asyncio.to_thread(in_thread), by_runtime())
        await until_billed(place, runtime, 3 * each)
        blocking.dispose()
        names = sorted(f"{who}{number}" for who in "art" for number in range(each))
        assert sorted(seen.orders) == names
        assert await rows(runtime, "SELECT order_id FROM bills ORDER BY order_id") == [(name,) for name in names]
        async with engine.connect() as connection:
            assert await connection.scalar(text("SELECT count(*) FROM orders")) == 2 * each
