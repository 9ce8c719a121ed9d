"""Publishing from SQLAlchemy code that exists already, inside its own sessions on PostgreSQL."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("psycopg")

from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, InternalError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from antiphon import InvalidEvent
from antiphon.errors import DeclarationError, StoreError
from antiphon.sqlalchemy import ensure_tables, prepare, publish, read_only
from tests.alchemy import (
    Order,
    OrderNoted,
    OrderPlaced,
    Place,
    Seen,
    engine_on,
    on_postgres,
    rows,
    running,
    until_billed,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A database of the test's own."""
    with on_postgres(tmp_path) as found:
        yield found


async def test_an_event_is_published_by_the_sessions_commit(place: Place) -> None:
    """The order and its event commit together, handlers are woken by the bell, and a rollback leaves neither."""
    seen = Seen()
    async with running(place, seen.service) as runtime, engine_on(place) as engine:
        async with AsyncSession(engine) as session:
            session.add(Order(order_id="o0", cents=1))
            await publish(session, OrderPlaced("o0", 1), service="orders")
            await session.rollback()
            session.add(Order(order_id="o1", cents=250))
            event_id = await publish(session, OrderPlaced("o1", 250), service="orders")
            await publish(session, OrderNoted("o1"), service="orders")
            assert await rows(runtime, "SELECT 1 FROM antiphon_log") == []
            await session.commit()
            await until_billed(place, runtime, 1)
            session.add(Order(order_id="o1", cents=2))
            with pytest.raises(IntegrityError):
                await publish(session, OrderPlaced("o1", 2), service="orders")
                await session.commit()
            await session.rollback()
            await publish(session, OrderPlaced("o2", 3), service="orders")
            await session.commit()
        await until_billed(place, runtime, 2)
        logged = await rows(runtime, "SELECT type, key, service, origin, data FROM antiphon_log ORDER BY seq")
        assert [row[:4] for row in logged] == [
            ("OrderPlaced", "o1", "orders", 0),
            ("OrderNoted", "o1", "orders", 2),
            ("OrderPlaced", "o2", "orders", 0),
        ]
        assert json.loads(logged[0][4]) == {"order_id": "o1", "cents": 250}
        assert (await rows(runtime, "SELECT id FROM antiphon_log ORDER BY seq"))[0] == (event_id,)
        assert await rows(runtime, "SELECT order_id FROM public.orders") == [("o1",)]


async def test_positions_come_in_the_order_of_commits(place: Place) -> None:
    """A session that publishes and then takes long keeps nobody waiting, and its event gets a position when it
    commits: who reads on from a position misses nothing."""
    async with running(place, Seen().service) as runtime, engine_on(place) as engine:
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
        await until_billed(place, runtime, 3)
        seqs = [seq for (seq,) in await rows(runtime, "SELECT seq FROM antiphon_log ORDER BY seq")]
        assert (await rows(runtime, "SELECT key FROM antiphon_log ORDER BY seq"))[-1] == ("slow",)
        assert seqs == list(range(seqs[0], seqs[0] + 3))


async def test_a_connection_that_is_used_again_has_forgotten_what_was_not_committed(place: Place) -> None:
    """A session that is closed, or whose connection is thrown away, publishes nothing with the next one's commit."""
    async with running(place, Seen().service) as runtime:
        engine = prepare(create_async_engine(place.url, pool_size=1, max_overflow=0), **place.names)
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


async def test_what_is_wrong_is_said_before_anything_is_written(place: Place) -> None:
    """Bad data, an engine that is not prepared or has no store's name, one that only reads or commits each statement,
    and a database without our tables: refused where it is said."""
    with pytest.raises(DeclarationError, match="store="):
        prepare(create_async_engine(place.url))
    with pytest.raises(DeclarationError, match="schema"):
        prepare(create_async_engine(place.url), store='a"b')
    async with engine_on(place) as engine:
        async with AsyncSession(engine) as session:
            with pytest.raises(StoreError, match=r"ensure_tables"):
                await publish(session, OrderPlaced("o1", 1), service="orders")
        ensure_tables(engine, **place.names)
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
        async with running(place, Seen().service) as runtime:
            await until_billed(place, runtime, 1)
