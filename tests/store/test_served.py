"""What the stores on a database server have to do of their own, on each: positions, connections, failing statements."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import permutations
from typing import Any

import pytest

from antiphon.errors import StoreError, StoreVersion
from antiphon.ports import PUBLISHED, LoggedEvent
from antiphon.store.base import SqlStore
from antiphon.store.rows import log_row
from antiphon.testing.conformance.kit import envelope, handler
from tests.store.served import Make, Served, append, eventually, notes, until

pytestmark = pytest.mark.anyio


async def lost(server: Served, store: SqlStore, schedule: tuple[str, ...], run: int, *, locked: bool) -> bool:
    """Whether a reader that goes on from the last position it saw misses an event, when two writers' steps (insert,
    commit) and its own two looks are mixed so. A step that has to wait is left waiting, its writer's next with it."""
    seen: list[str] = []
    position = await store.head()
    pending: dict[str, asyncio.Task[None]] = {}

    async def look() -> None:
        nonlocal position
        events: list[LoggedEvent] = await store.read_log(position, 100)
        seen.extend(event.envelope.id for event in events)
        position = events[-1].seq if events else position

    async with server.writer(store) as a, server.writer(store) as b:
        writers = {"A": (a, iter((0, 1))), "B": (b, iter((0, 1)))}

        async def step(name: str, before: asyncio.Task[None] | None) -> None:
            if before is not None:
                await before
            writer, steps = writers[name]
            if next(steps) == 1:
                await writer.commit()
            else:
                await writer.insert(log_row(envelope(10 * run + (name == "B")), PUBLISHED), locked=locked)

        for who in schedule:
            if who == "R":
                await look()
            else:
                pending[who] = asyncio.ensure_future(step(who, pending.get(who)))
                await asyncio.wait([pending[who]], timeout=0.01)
        await asyncio.gather(*pending.values())
    await look()
    return len(seen) < 2


async def test_no_order_of_commits_hides_an_event(server: Served, store: SqlStore) -> None:
    """In all 90 ways to mix two writers' steps with a reader's looks nothing is missed; without the lock, some is."""
    schedules = sorted(set(permutations("AABBRR")))
    unlocked = [plan for n, plan in enumerate(schedules) if await lost(server, store, plan, n, locked=False)]
    assert unlocked, "the mix shows nothing: no schedule loses an event even without the lock"
    for n, schedule in enumerate(schedules, len(schedules)):
        missed = await lost(server, store, schedule, n, locked=True)
        assert not missed, f"an event was missed in {''.join(schedule)}"


async def test_a_long_transaction_keeps_nobody_waiting(store: SqlStore, make: Make) -> None:
    """While a unit that has written and published stays open, others publish, and readers see it."""
    other = make("two")
    await other.open()
    async with asyncio.timeout(10), store.unit() as unit:
        await unit.execute("INSERT INTO notes VALUES (?, NULL)", (1,))
        await unit.append([(envelope(1), PUBLISHED)])
        async with other.unit() as second:
            await second.append([(envelope(2), PUBLISHED)])
        assert [event.envelope.id for event in await store.read_log(0, 10)] == [envelope(2).id]
    log = [event.envelope.id for event in await store.read_log(0, 10)]
    assert log == [envelope(2).id, envelope(1).id], "the position is that of the commit"
    await other.close()


async def test_others_are_woken(store: SqlStore, make: Make) -> None:
    """A commit of another process is noticed without waiting for the upkeep; also one that only sets a timer."""
    other = make("two")
    await other.open()
    try:
        heard = asyncio.Event()
        store.listen((), heard.set)
        async with asyncio.timeout(20):
            async with other.unit() as unit:
                await unit.append([(envelope(1), PUBLISHED)])
            await heard.wait()
            heard.clear()
            async with other.unit() as unit:
                unit.wake(("timers",))
            await heard.wait()
    finally:
        await other.close()


async def test_what_another_appends_just_before_is_heard(store: SqlStore, make: Make) -> None:
    """Two processes append within a moment: each hears of the other's, whoever has the newest position."""
    async with asyncio.timeout(20):
        other = make("two")
        await other.open()
        heard = asyncio.Event()
        store.listen(("conformance.A",), heard.set)
        for n in range(0, 20, 2):
            heard.clear()
            async with other.unit() as unit:
                await unit.append([(envelope(n), PUBLISHED)])
            async with store.unit() as unit:
                await unit.append([(envelope(n + 1, type_="conformance.B"), PUBLISHED)])
            await heard.wait()
        await other.close()


async def test_broken_connections_are_replaced(server: Served, store: SqlStore, make: Make) -> None:
    """The server ends every connection, also amid a unit: that unit is undone, all else goes on, wakes arrive again."""
    other = make("two")
    await other.open()
    with pytest.raises(StoreError):
        async with store.unit() as unit:
            await unit.execute("INSERT INTO notes VALUES (?, NULL)", (1,))
            await server.break_all(store)
            await unit.execute("INSERT INTO notes VALUES (?, NULL)", (2,))
    assert await eventually(lambda: notes(store)) == []

    async def once() -> None:
        async with store.unit() as unit:
            await unit.execute("INSERT INTO notes VALUES (?, NULL)", (3,))

    await (once() if server.notices else eventually(once))
    assert await notes(store) == [3]
    heard = asyncio.Event()
    store.listen(("conformance.A",), heard.set)
    async with asyncio.timeout(20):
        n = 10
        while not heard.is_set():
            n += 1
            await append(other, n)
            with suppress(TimeoutError):
                await asyncio.wait_for(heard.wait(), 0.2)
        while not {"one", "two"} <= set(store.neighbours()):
            await eventually(store.look_after)
    await other.close()


async def test_a_unit_that_is_cancelled_leaves_nothing_behind(server: Served, store: SqlStore) -> None:
    """Cancelled while the server works on its statement, it is undone and its connection goes."""

    async def work() -> None:
        async with store.unit() as unit:
            await unit.execute("INSERT INTO notes VALUES (?, NULL)", (1,))
            await unit.fetch_all(server.sleep(60))

    task = asyncio.ensure_future(work())
    async with asyncio.timeout(20):
        await until(server, store, lambda asleep: asleep)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await until(server, store, lambda asleep: not asleep)
    assert await notes(store) == []


async def test_a_failing_statement_undoes_itself_alone(server: Served, store: SqlStore) -> None:
    """A service may catch its error and go on in the same transaction, as on SQLite; also after a savepoint."""
    async with store.unit() as unit:
        await unit.execute("INSERT INTO notes VALUES (?, NULL)", (1,))
        with pytest.raises(server.twice):
            await unit.execute("INSERT INTO notes VALUES (?, NULL)", (1,))
        await unit.execute("INSERT INTO notes VALUES (?, NULL)", (2,))
        await unit.savepoint()
        for _ in range(2):
            with pytest.raises(server.twice):
                await unit.execute_many("INSERT INTO notes VALUES (?, ?)", [(5, "a"), (1, "b")])
            await unit.execute("INSERT INTO notes VALUES (?, NULL) ON CONFLICT DO NOTHING", (3,))
        with pytest.raises(server.failed):
            await unit.fetch_all(server.failing, (0,))
        await unit.rollback_to_savepoint()
        await unit.append([(envelope(1), PUBLISHED)])
        await unit.execute("INSERT INTO notes VALUES (?, NULL)", (4,))
    assert await notes(store) == [1, 2, 4]
    assert len(await store.read_log(0, 10)) == 1


async def test_a_first_statement_that_fails_begins_the_unit_all_the_same(server: Served, store: SqlStore) -> None:
    """What follows it is in one transaction, and is kept; going back to a mark at the very end is not forgotten."""
    async with store.unit() as unit:
        with pytest.raises(server.missing):
            await unit.execute("INSERT INTO nothing VALUES (?)", (1,))
        await unit.execute("INSERT INTO notes VALUES (?, NULL)", (1,))
        await unit.savepoint()
        await unit.execute("INSERT INTO notes VALUES (?, NULL)", (2,))
        await unit.rollback_to_savepoint()
    assert await notes(store) == [1]


async def test_events_are_seen_by_who_looks_at_the_log(store: SqlStore) -> None:
    """A unit that reads the log finds what it has appended; going back to its mark takes it away, and no more."""
    async with store.unit() as unit:
        await unit.append([(envelope(1), PUBLISHED)])
        await unit.savepoint()
        await unit.append([(envelope(2), PUBLISHED)])
        assert (await unit.fetch_all("SELECT count(*) AS found FROM antiphon_log"))[0]["FOUND"] == 2
        await unit.append([(envelope(3), PUBLISHED)])
        await unit.rollback_to_savepoint()
        await unit.append([(envelope(4), PUBLISHED)])
    assert [event.envelope.id for event in await store.read_log(0, 10)] == [envelope(1).id, envelope(4).id]


async def test_newer_tables_are_left_alone(store: SqlStore, make: Make) -> None:
    """A place with the tables of a newer Antiphon is refused, and unharmed."""
    async with store.unit() as unit:
        await unit.execute("UPDATE antiphon_meta SET value = '99' WHERE name = 'version'")
    with pytest.raises(StoreVersion):
        await make("two").open()


async def test_processes_that_start_at_once_do_not_hinder_each_other(make: Make) -> None:
    """Tables and handlers are made once, whoever comes first."""
    stores = [make(f"owner-{n}") for n in range(5)]
    await asyncio.gather(*(store.open() for store in stores))
    handlers = [handler(f"work{n}") for n in range(5)]
    await asyncio.gather(*(store.register(handlers) for store in stores))
    assert len(await stores[0].fetch_all("SELECT * FROM antiphon_handlers")) == 5
    await asyncio.gather(*(store.close() for store in stores))


async def test_what_is_in_doubt_is_asked_for_also_by_who_is_closing(
    server: Served, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks at a commit that the end of the process waits for: what was kept is not called lost."""
    ending = make("ending")
    await ending.open()
    commit, closing = server.unit.commit, []

    async def breaks(unit: Any) -> None:
        await commit(unit)
        await unit.connection.close()
        closing.append(asyncio.create_task(ending.close()))
        await asyncio.sleep(0)  # it begins to
        raise StoreError("the connection is gone")

    monkeypatch.setattr(server.unit, "commit", breaks)
    monkeypatch.setattr(server.unit, "in_doubt", True)
    async with asyncio.timeout(10), ending.unit() as unit:
        await unit.append([(envelope(1), PUBLISHED)])
    await asyncio.gather(*closing)
