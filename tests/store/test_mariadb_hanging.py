"""A process that stands still amid a transaction on MariaDB, or whose machine is gone, holds up nobody for long."""

from __future__ import annotations

import asyncio

import pytest
from asyncmy.errors import Error

from antiphon.errors import StoreError
from antiphon.ports import PUBLISHED, Held, Timer
from antiphon.store.deadletters import DeadLetters
from antiphon.store.leases import LEASE_MS
from antiphon.store.mariadb import unit as mariadb_unit
from antiphon.store.mariadb.connection import IDLE_S, Session
from antiphon.store.mariadb.store import MariaStore
from antiphon.testing.conformance.kit import append, done, envelope, fresh, handler, ids, take
from tests.store.mariadb import on_mariadb

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("server", [on_mariadb], ids=["mariadb"], indirect=True, scope="module"),
]


async def idle_s(session: Session) -> int:
    """For how long the server lets a transaction of the session stand still, in seconds."""
    return int((await session.ask("SELECT @@idle_transaction_timeout"))[0][0])


async def test_whoever_holds_what_all_wait_for_is_not_waited_for_longer_than_a_lease(store: MariaStore) -> None:
    """From where a transaction has the log, a lease, timers or redrives, it may stand still as long as a lease lasts;
    before that, five minutes, whatever the connection was used for before."""
    await store.register([handler("work")])
    await append(store, envelope(0))
    lease = await take(store, "one")
    (event,) = await fresh(store, lease)
    assert (1000 * mariadb_unit.HOLDING_IDLE_S, IDLE_S) == (LEASE_MS, 300)
    async with store.unit() as unit:
        await unit.fetch_all("SELECT 1")
        assert await idle_s(unit.connection) == 300
        await unit.settle(lease, [done(event)], event.seq)
        assert await idle_s(unit.connection) == 15
        await unit.fetch_all("SELECT 1")
        assert await idle_s(unit.connection) == 15
    redrive = await DeadLetters(store, {}).redrive()
    async with store.unit() as unit:
        await unit.put_timer(Timer("t", 0, "wall", None, envelope(9), PUBLISHED))
    for name, parameters in (
        ("take_turn", (lease.handler, lease.part)),
        ("holds_lease", (lease.handler_id, lease.epoch)),
        ("take_redrive", (redrive.id,)),
        ("take_redrives", ()),
        ("due_timers", ("wall", store.clock.now_ms(), 10)),
        ("lock_register", ()),
    ):
        with pytest.raises(ZeroDivisionError):
            async with store.unit() as unit:
                await unit.fetch_all(store.query(name), parameters)
                assert await idle_s(unit.connection) == 15, name
                raise ZeroDivisionError
    async with store.unit() as unit:
        await unit.execute_many("DELETE FROM antiphon_meta WHERE name = ?", [("x",), ("y",)])
        assert await idle_s(unit.connection) == 300
        await unit.append([(envelope(1), PUBLISHED)])
        await unit.fetch_all("SELECT max(seq) FROM antiphon_log")
        assert await idle_s(unit.connection) == 15


async def test_statements_that_travel_together_take_the_time_along(store: MariaStore) -> None:
    """Where they are many, and where one fails: then nothing is known of the connection, and it is said anew."""
    await store.register([handler("work")])
    lease = await take(store, "one")
    plain = Held("DELETE FROM antiphon_meta WHERE name = ?", ("x",))
    moves = Held(store.query("move_cursor"), (0, 0, 0, 0, lease.handler_id, lease.epoch))
    async with store.unit() as unit:
        await send(unit, plain)
        assert await idle_s(unit.connection) == 300
        await send(unit, plain, moves)
        assert await idle_s(unit.connection) == 15
    with pytest.raises(Error):
        async with store.unit() as unit:
            await send(unit, Held("DELETE FROM nowhere WHERE name = ?", ("x",)))
    async with store.unit() as unit:
        with pytest.raises(Error):
            await unit.execute("DELETE FROM nowhere WHERE name = ?", ("x",))
        await unit.fetch_all("SELECT 1")
        assert await idle_s(unit.connection) == 300


async def send(unit: mariadb_unit.MariaUnit, *held: Held) -> None:
    """Send statements together."""
    unit._held = list(held)
    await unit.send(last=True)


async def test_the_log_is_taken_from_who_stands_still_amid_his_commit(
    store: MariaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """He has settled, and drawn positions, and says nothing more: when his time is over the lease is another's, the
    event is owed, and others publish. He has kept nothing, and is told so."""
    await store.register([handler("work")])
    await append(store, envelope(0))
    lease = await take(store, "one")
    (event,) = await fresh(store, lease)
    drawn, thawed = asyncio.Event(), asyncio.Event()
    insert = mariadb_unit.MariaUnit._insert

    async def frozen(unit: mariadb_unit.MariaUnit, *what: object) -> None:
        monkeypatch.undo()
        drawn.set()
        await thawed.wait()
        await insert(unit, *what)  # type: ignore[arg-type]

    async def stands_still() -> None:
        async with store.unit() as unit:
            await unit.append([(envelope(1), PUBLISHED)])
            await unit.settle(lease, [done(event)], event.seq)

    monkeypatch.setattr(mariadb_unit.MariaUnit, "_insert", frozen)
    monkeypatch.setattr(mariadb_unit, "HOLDING_IDLE_S", 1)
    hanging = asyncio.create_task(stands_still())
    try:
        async with asyncio.timeout(10):
            await drawn.wait()
            await append(store, envelope(2))
            again = await take(store, "one")
    finally:
        thawed.set()
    with pytest.raises(StoreError):
        await hanging
    assert await ids(store) == [envelope(0).id, envelope(2).id]
    assert again.seq == 0
