"""Who is frozen amid what it sends together, which no time-out of PostgreSQL ends, is ended by whoever is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import psycopg
import pytest
from psycopg import AsyncConnection

from antiphon.errors import StoreError
from antiphon.ports import PUBLISHED
from antiphon.store.postgres import listener, standstill
from antiphon.store.postgres.connection import connect
from antiphon.store.postgres.store import PostgresStore
from antiphon.store.postgres.unit import PostgresUnit
from antiphon.testing.conformance.kit import append, envelope, ids
from tests.store.postgres import on_postgres

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("server", [on_postgres], ids=["postgres"], indirect=True, scope="module"),
]


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "LOOK_EVERY_S", 0.05)


async def until_found(store: PostgresStore, condition: str) -> None:
    """Wait until a session of the database is in some state."""
    sql = f"SELECT pg_sleep(0.005) FROM pg_stat_activity WHERE datname = current_database() AND {condition}"
    while not await store.fetch_all(sql):
        pass


async def until_frozen(store: PostgresStore) -> None:
    """Wait until the server waits for more of something that it was sent in part."""
    await until_found(store, "state = 'active' AND wait_event = 'ClientRead'")


async def waiter(store: PostgresStore, event: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """*work*, when it waits for another transaction."""
    task = asyncio.create_task(work)
    await until_found(store, f"wait_event = '{event}'")
    return task


@asynccontextmanager
async def connected(store: PostgresStore) -> AsyncIterator[AsyncConnection]:
    """A connection of another process."""
    connection = await connect(store.address)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def looking(store: PostgresStore) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Looks as a process does, one after the other."""
    async with connected(store) as connection:
        found = standstill.Standstills(store.address, store.clock, store._lock_id)

        async def look() -> None:
            await store.fetch_all("SELECT pg_sleep(0.002)")
            await found.look(connection)

        yield look


async def lock(connection: AsyncConnection, store: PostgresStore) -> None:
    """Take the log's lock."""
    await connection.execute(store.query("lock_log").encode(), (store._lock_id,))


@asynccontextmanager
async def standing_still(store: PostgresStore, *statements: bytes) -> AsyncIterator[AsyncConnection]:
    """A session that stands still amid a transaction with the log's lock, or behind *statements*. It is found ended."""
    async with connected(store) as connection:
        with pytest.raises(psycopg.OperationalError):
            async with connection.pipeline():
                await connection.execute(b"BEGIN")
                for statement in statements:
                    await connection.execute(statement)
                if not statements:
                    await lock(connection, store)
                await until_frozen(store)
                yield connection


async def test_who_is_frozen_amid_a_commit_is_ended(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the server a statement is under way, so none of its time-outs runs: another process has it end the session
    that stands still with the log's lock. Back to life, it has kept nothing, and is told so."""
    monkeypatch.setattr(standstill, "STILL_MS", 300)
    thawed = asyncio.Event()
    send_insert = PostgresUnit._send_insert

    async def frozen(unit: PostgresUnit, rows: list[tuple[Any, ...]]) -> None:
        monkeypatch.setattr(PostgresUnit, "_send_insert", send_insert)
        await lock(unit.connection, store)
        await thawed.wait()
        await send_insert(unit, rows)

    monkeypatch.setattr(PostgresUnit, "_send_insert", frozen)
    hanging = asyncio.create_task(append(store, envelope(0)))
    try:
        async with asyncio.timeout(15):
            await until_frozen(store)
            await append(store, envelope(1))
    finally:
        thawed.set()
    with pytest.raises(StoreError):
        await hanging
    assert await ids(store) == [envelope(1).id]


async def test_who_goes_on_or_holds_up_nobody_is_not_ended(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However impatient one is: neither one for whom nobody waits, nor one that sends a little between two looks.
    When it is neither any more, it is."""
    async with looking(store) as look, standing_still(store) as connection:
        monkeypatch.setattr(standstill, "STILL_MS", 1)
        for _ in range(5):
            await look()
        # The store's own look would be as impatient, and is not what is tried here.
        await store._listener.close()
        waits = await waiter(store, "advisory", append(store, envelope(1)))
        for _ in range(5):
            await connection.execute(b"SELECT 1")
            await until_frozen(store)
            await look()
            assert not waits.done()
        await look()
        await asyncio.wait_for(waits, 10)


async def test_who_copies_rows_into_a_table_is_not_ended(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is a statement under way too, and its rows may come slowly."""
    monkeypatch.setattr(standstill, "STILL_MS", 0)
    async with looking(store) as look, connected(store) as connection:
        async with connection.transaction():
            await connection.execute(b"CREATE TEMPORARY TABLE copied (n INT)")
            await lock(connection, store)
            async with connection.cursor().copy(b"COPY copied FROM STDIN"):
                await until_frozen(store)
                waits = await waiter(store, "advisory", append(store, envelope(1)))
                for _ in range(5):
                    await look()
                assert not waits.done()
        await asyncio.wait_for(waits, 10)


async def test_rows_of_a_service_are_kept_for_longer(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has locked nothing that all wait for may stand still for as long as a unit that says nothing."""
    monkeypatch.setattr(standstill, "STILL_MS", 0)
    async with store.unit() as unit:
        await unit.execute("CREATE TABLE kept (n INT PRIMARY KEY)")
        await unit.execute("INSERT INTO kept VALUES (1)")

    async def change() -> None:
        async with store.unit() as unit:
            await unit.execute("UPDATE kept SET n = 2")

    async with looking(store) as look, standing_still(store, b"UPDATE kept SET n = 1"):
        waits = await waiter(store, "transactionid", change())
        for _ in range(5):
            await look()
            assert not waits.done()
        monkeypatch.setattr(standstill, "STILL_WITH_ROWS_MS", 0)
        await look()
        await asyncio.wait_for(waits, 10)


async def test_time_in_which_nobody_looked_does_not_count(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the machine of all stood still, everybody is seen where he was before, and given time to go on."""
    now_ms = 0
    monkeypatch.setattr(store.clock, "boot_ms", lambda: now_ms)
    async with looking(store) as look, standing_still(store):
        await store._listener.close()
        waits = await waiter(store, "advisory", append(store, envelope(1)))
        for now_ms in (0, 3_600_000, *range(3_601_000, 3_609_000, 1_000)):  # noqa: B007
            await look()
            assert not waits.done()
        for now_ms in (3_609_000, 3_610_000):  # noqa: B007
            await look()
        await asyncio.wait_for(waits, 10)


async def test_many_bytes_are_sent_bit_by_bit(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit that takes long to send its events is seen to go on: they are several statements, and stay in order."""
    sent: list[int] = []
    execute = AsyncConnection.execute

    async def noted(connection: AsyncConnection, sql: Any, parameters: Any = None, **options: Any) -> Any:
        if b"INTO antiphon_log" in bytes(sql):
            sent.append(len(parameters[0]))
        return await execute(connection, sql, parameters, **options)

    monkeypatch.setattr(AsyncConnection, "execute", noted)
    large = [msgspec.structs.replace(envelope(n), data=b'"%s"' % (b"x" * 300_000)) for n in range(8)]
    async with store.unit() as unit:
        await unit.append([(each, PUBLISHED) for each in large])
    assert sent == [3, 3, 2]
    assert await ids(store) == [each.id for each in large]
