"""A process that stands still amid a transaction, or whose machine has vanished, holds up nobody for long."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from antiphon.errors import StoreError
from antiphon.ports import PUBLISHED, Lease, Starting, Timer
from antiphon.store.deadletters import DeadLetters
from antiphon.store.leases import LEASE_MS
from antiphon.store.postgres.store import PostgresStore
from antiphon.store.postgres.unit import PostgresUnit
from antiphon.testing.conformance.kit import append, done, envelope, fresh, handler, ids, take
from tests.store.postgres import on_postgres

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("server", [on_postgres], ids=["postgres"], indirect=True, scope="module"),
]


async def idle_ms(unit: PostgresUnit) -> int:
    """For how long the server lets the unit's transaction stand still, in milliseconds; 0 if for ever."""
    sql = "SELECT setting::bigint FROM pg_settings WHERE name = 'idle_in_transaction_session_timeout'"
    found = await (await unit.connection.execute(sql.encode())).fetchone()
    assert found is not None
    return int(found[0])


async def test_whoever_holds_what_all_wait_for_is_not_waited_for_longer_than_a_lease(store: PostgresStore) -> None:
    """From where a transaction has the log, a lease, timers or redrives, it may stand still as long as a lease lasts;
    before that, five minutes. The next transaction of the connection begins anew."""
    await store.register([handler("work")])
    await append(store, envelope(0))
    lease = await take(store, "one")
    (event,) = await fresh(store, lease)
    for limited in (False, True):
        async with store.unit() as unit:
            await unit.fetch_all("SELECT 1")
            assert await idle_ms(unit) == 300_000
            if limited:
                await unit.settle(lease, [done(event)], event.seq)
                assert await idle_ms(unit) == LEASE_MS
    redrive = await DeadLetters(store, {}).redrive()
    async with store.unit() as unit:
        await unit.put_timer(Timer("t", 0, "wall", None, envelope(9), PUBLISHED))
    for name, parameters in (
        ("take_turn", (lease.handler, lease.part)),
        ("holds_lease", (lease.handler_id, lease.epoch)),
        ("move_cursor", (0, 0, 0, 0, lease.handler_id, lease.epoch)),
        ("take_redrive", (redrive.id,)),
        ("due_timers", ("wall", store.clock.now_ms(), 10)),
    ):
        async with store.unit() as unit:
            assert await unit.fetch_all(store.query(name), parameters)
            assert await idle_ms(unit) == LEASE_MS, name
    async with store.unit() as unit:
        await unit.append([(envelope(1), PUBLISHED)])
        await unit.fetch_all("SELECT max(seq) FROM antiphon_log")
        assert await idle_ms(unit) == LEASE_MS


async def test_a_lease_is_taken_from_who_stands_still_before_its_commit(store: PostgresStore) -> None:
    """Somebody has settled, and appended, and says nothing more: when his time is over the lease is another's, the
    events are owed, and others publish."""
    await store.register([handler("work")])
    await append(store, envelope(0))
    lease = await take(store, "one")
    (event,) = await fresh(store, lease)

    async def stands_still() -> None:
        async with store.unit() as unit:
            await unit.append([(envelope(1), PUBLISHED)])
            await unit.settle(lease, [done(event)], event.seq)
            await unit.fetch_all("SELECT max(seq) FROM antiphon_log")
            # His time is over sooner than it would be.
            await unit.connection.execute(b"SET LOCAL idle_in_transaction_session_timeout = 300")
            appended.set()
            await moved.wait()

    appended, moved = asyncio.Event(), asyncio.Event()
    hanging = asyncio.create_task(stands_still())
    try:
        async with asyncio.timeout(10):
            await appended.wait()
            await append(store, envelope(2))
            again: Lease = await take(store, "one")
    finally:
        moved.set()
    with pytest.raises(StoreError):
        await hanging
    assert await ids(store) == [envelope(0).id, envelope(2).id]
    assert again.seq == 0


async def test_what_starts_has_the_lease_before_its_rows(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of attempts lock that of their handler too, for whoever would take its lease."""
    await store.register([handler("work")])
    await append(store, envelope(0))
    lease = await take(store, "one")
    (event,) = await fresh(store, lease)
    limits: list[int] = []
    execute_many = PostgresUnit.execute_many

    async def noted(unit: PostgresUnit, sql: str, rows: Iterable[Sequence[Any]]) -> int:
        limits.append(await idle_ms(unit))
        return await execute_many(unit, sql, rows)

    monkeypatch.setattr(PostgresUnit, "execute_many", noted)
    async with store.unit() as unit:
        await unit.start(lease, [Starting(event, 1, store.store_ms())], event.seq)
    assert limits == [LEASE_MS]
