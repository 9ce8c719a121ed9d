"""What is PostgreSQL's own: positions in the order of commits, connections that break, statements with their marks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from antiphon.errors import DeclarationError, StoreError, StoreVersion
from antiphon.ports import PUBLISHED, LoggedEvent
from antiphon.runtime.clock import SystemClock
from antiphon.store.rows import log_row
from antiphon.testing.conformance.kit import envelope, handler
from tests.store.postgres import database, name_of

if TYPE_CHECKING:
    from antiphon.store.postgres.store import PostgresStore

psycopg = pytest.importorskip("psycopg")

pytestmark = pytest.mark.anyio

Make = Callable[..., "PostgresStore"]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A database for all of these tests; each has a schema of its own."""
    with database() as found:
        yield found


@pytest.fixture
def make(url: str, tmp_path: Path) -> Make:
    """Makes stores on the test's schema, not open yet."""
    from antiphon.store.postgres.connection import address
    from antiphon.store.postgres.store import PostgresStore

    def store(owner: str = "one", *, more: str = "", **options: Any) -> PostgresStore:
        return PostgresStore(address(url + more, name_of(tmp_path)), clock=SystemClock(), owner=owner, **options)

    return store


@pytest.fixture
async def store(make: Make) -> AsyncIterator[PostgresStore]:
    """An open store with a table of the service's."""
    found = make(tables={"svc": "CREATE TABLE notes (n INTEGER PRIMARY KEY, text TEXT);"})
    await found.open()
    yield found
    await found.close()


async def backends(store: PostgresStore, what: str = "TRUE") -> list[int]:
    """The server's processes of this database, but for the one that answers."""
    rows = await store.fetch_all(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND " + what
    )
    return [pid for (pid,) in rows]


async def until(store: PostgresStore, holds: Callable[[list[int]], object]) -> None:
    """Look until it *holds* of those that sleep in the server; each look takes the server a moment."""
    while not holds(await backends(store, "query LIKE '%pg_sleep(60)' AND state = 'active'")):
        await store.fetch_all("SELECT pg_sleep(0.01)")


async def notes(store: PostgresStore) -> list[int]:
    """The committed rows."""
    return [n for (n,) in await store.fetch_all("SELECT n FROM notes ORDER BY n")]


# ---------------------------------------------------------------------- the order of commits


async def lost(store: PostgresStore, schedule: tuple[str, ...], run: int, *, locked: bool) -> bool:
    """Whether a reader that goes on from the last position it saw misses an event, when two writers' steps (insert,
    commit) and its own two looks are mixed so. A step that has to wait is left waiting, its writer's next with it."""
    from antiphon.store.postgres.queries import query
    from antiphon.store.postgres.statements import numbered

    seen: list[str] = []
    position = await store.head()
    pending: dict[str, asyncio.Task[None]] = {}

    async def look() -> None:
        nonlocal position
        events: list[LoggedEvent] = await store.read_log(position, 100)
        seen.extend(event.envelope.id for event in events)
        position = events[-1].seq if events else position

    async with store._units.connection() as a, store._units.connection() as b:
        writers = {"A": iter((0, 1)), "B": iter((0, 1))}

        async def step(name: str, before: asyncio.Task[None] | None) -> None:
            if before is not None:
                await before
            connection = {"A": a, "B": b}[name]
            if next(writers[name]) == 1:
                await connection.execute(b"COMMIT")
                return
            await connection.execute(b"BEGIN")
            if locked:
                await connection.execute(query("lock_log").encode(), (store._lock_id,))
            row = (*log_row(envelope(10 * run + (name == "B")), PUBLISHED), None)
            await connection.execute(numbered(query("append")), [[value] for value in row])

        for who in schedule:
            if who == "R":
                await look()
            else:
                pending[who] = asyncio.ensure_future(step(who, pending.get(who)))
                await asyncio.wait([pending[who]], timeout=0.01)
        await asyncio.gather(*pending.values())
    await look()
    return len(seen) < 2


async def test_no_order_of_commits_hides_an_event(store: PostgresStore) -> None:
    """In all 90 ways to mix two writers' steps with a reader's looks nothing is missed; without the lock, some is."""
    schedules = sorted(set(permutations("AABBRR")))
    unlocked = [schedule for n, schedule in enumerate(schedules) if await lost(store, schedule, n, locked=False)]
    assert unlocked, "the mix shows nothing: no schedule loses an event even without the lock"
    for n, schedule in enumerate(schedules, len(schedules)):
        assert not await lost(store, schedule, n, locked=True), f"an event was missed in {''.join(schedule)}"


async def test_a_long_transaction_keeps_nobody_waiting(store: PostgresStore, make: Make) -> None:
    """While a unit that has written and published stays open, others publish, and readers see it."""
    other = make("two")
    await other.open()
    async with asyncio.timeout(10), store.unit() as unit:
        await unit.execute("INSERT INTO notes VALUES (?)", (1,))
        await unit.append([(envelope(1), PUBLISHED)])
        async with other.unit() as second:
            await second.append([(envelope(2), PUBLISHED)])
        assert [event.envelope.id for event in await store.read_log(0, 10)] == [envelope(2).id]
    log = [event.envelope.id for event in await store.read_log(0, 10)]
    assert log == [envelope(2).id, envelope(1).id], "the position is that of the commit"
    await other.close()


# ---------------------------------------------------------------------- connections that break


async def test_broken_connections_are_replaced(store: PostgresStore, make: Make) -> None:
    """The server ends every connection, also amid a unit: that unit is undone, all else goes on, wakes arrive again."""
    other = make("two")
    await other.open()
    with pytest.raises(StoreError):
        async with store.unit() as unit:
            await unit.execute("INSERT INTO notes VALUES (?)", (1,))
            for pid in await backends(store):
                await store.fetch_all("SELECT pg_terminate_backend(?)", (pid,))
            await unit.execute("INSERT INTO notes VALUES (?)", (2,))
    assert await eventually(lambda: notes(store)) == []
    async with store.unit() as unit:
        await unit.execute("INSERT INTO notes VALUES (?)", (3,))
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
    await other.close()


async def append(store: PostgresStore, n: int) -> None:
    """An event, over connections that may have broken."""

    async def once() -> None:
        async with store.unit() as unit:
            await unit.append([(envelope(n), PUBLISHED)])

    await eventually(once)


async def eventually(work: Callable[[], Any]) -> Any:
    """What *work* gives when the store answers again."""
    for _ in range(20):
        try:
            return await work()
        except StoreError:
            continue
    return await work()


@pytest.mark.parametrize("committed", [True, False])
async def test_a_commit_without_an_answer_is_asked_for(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    """The connection breaks at the commit: the unit ends as the server says it has ended, and no otherwise."""
    from antiphon.store.postgres.unit import PostgresUnit

    commit = PostgresUnit.commit

    async def broken(unit: PostgresUnit) -> None:
        if committed:
            await commit(unit)
        await unit.connection.close()
        raise StoreError("the connection is gone")

    monkeypatch.setattr(PostgresUnit, "commit", broken)
    if committed:
        async with store.unit() as unit:
            await unit.execute("INSERT INTO notes VALUES (?)", (1,))
    else:
        with pytest.raises(StoreError):
            async with store.unit() as unit:
                await unit.execute("INSERT INTO notes VALUES (?)", (1,))
    assert await notes(store) == ([1] if committed else [])


async def test_a_unit_that_is_cancelled_leaves_nothing_behind(store: PostgresStore) -> None:
    """Cancelled while the server works on its statement, it is undone and its connection goes."""

    async def work() -> None:
        async with store.unit() as unit:
            await unit.execute("INSERT INTO notes VALUES (?)", (1,))
            await unit.fetch_all("SELECT pg_sleep(60)")

    task = asyncio.ensure_future(work())
    async with asyncio.timeout(20):
        await until(store, lambda asleep: asleep)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await until(store, lambda asleep: not asleep)
    assert await notes(store) == []


# ---------------------------------------------------------------------- statements


async def test_a_table_that_another_process_changes_is_read_on(store: PostgresStore, make: Make) -> None:
    """It gets a further column while statements on it are prepared: reads go on, on whatever connection, and a unit
    says that the fault is not its statement's; the next one is sound."""
    sql = "SELECT * FROM notes"
    async with store.unit() as unit:
        await unit.execute("INSERT INTO notes VALUES (1, 'one')")
    for _ in range(10):
        await asyncio.gather(*(store.fetch_all(sql) for _ in range(8)))
        async with store.unit() as unit:
            await unit.fetch_all(sql)
    other = make("two")
    await other.open()
    async with other.unit() as unit:
        await unit.execute("ALTER TABLE notes ADD COLUMN more TEXT")
    await other.close()
    for _ in range(3):
        assert [tuple(row) for row in await store.fetch_all(sql)] == [(1, "one", None)]
    assert [len(rows) for rows in await asyncio.gather(*(store.fetch_all(sql) for _ in range(8)))] == [1] * 8
    with pytest.raises(StoreError, match="was changed meanwhile"):
        async with store.unit() as unit:
            await unit.fetch_all(sql)
    async with store.unit() as unit:
        assert len((await unit.fetch_all(sql))[0]) == 3


async def test_a_failing_statement_undoes_itself_alone(store: PostgresStore) -> None:
    """A service may catch its error and go on in the same transaction, as on SQLite; also after a savepoint."""
    async with store.unit() as unit:
        await unit.execute("INSERT INTO notes VALUES (?)", (1,))
        with pytest.raises(psycopg.IntegrityError):
            await unit.execute("INSERT INTO notes VALUES (?)", (1,))
        await unit.execute("INSERT INTO notes VALUES (?)", (2,))
        await unit.savepoint()
        for _ in range(2):
            with pytest.raises(psycopg.IntegrityError):
                await unit.execute_many("INSERT INTO notes VALUES (?)", [(5,), (1,)])
            await unit.execute("INSERT INTO notes VALUES (?) ON CONFLICT DO NOTHING", (3,))
        with pytest.raises(psycopg.errors.DivisionByZero):
            await unit.fetch_all("SELECT 1 / ?::int", (0,))
        await unit.rollback_to_savepoint()
        await unit.append([(envelope(1), PUBLISHED)])
        await unit.execute("INSERT INTO notes VALUES (?)", (4,))
    assert await notes(store) == [1, 2, 4]
    assert len(await store.read_log(0, 10)) == 1


async def test_a_first_statement_that_fails_begins_the_unit_all_the_same(store: PostgresStore) -> None:
    """What follows it is in one transaction, and is kept."""
    async with store.unit() as unit:
        with pytest.raises(psycopg.errors.UndefinedTable):
            await unit.execute("INSERT INTO nothing VALUES (?)", (1,))
        await unit.execute("INSERT INTO notes VALUES (?)", (1,))
    assert await notes(store) == [1]


async def test_events_are_seen_by_who_looks_at_the_log(store: PostgresStore) -> None:
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


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("SELECT ?, ?", "SELECT $1, $2"),
        ("SELECT ?2, ?1, ?2", "SELECT $2, $1, $2"),
        ("SELECT '?', \"?\", ? -- ?\n, ?", "SELECT '?', \"?\", $1 -- ?\n, $2"),
        ("SELECT 'it''s ?', E'\\'?', ?", "SELECT 'it''s ?', E'\\'?', $1"),
        ("SELECT $$ ? $$, $tag$ ? $$ ? $tag$, /* ? */ ?", "SELECT $$ ? $$, $tag$ ? $$ ? $tag$, /* ? */ $1"),
        ("SELECT data ?? 'key' FROM t WHERE id = ?", "SELECT data ? 'key' FROM t WHERE id = $1"),
    ],
)
def test_marks_become_numbers(written: str, sent: str) -> None:
    """A question mark is a parameter but in texts, names and comments; doubled, it is PostgreSQL's operator."""
    from antiphon.store.postgres.statements import numbered

    assert numbered(written) == sent.encode()


# ---------------------------------------------------------------------- addresses and versions


async def test_newer_tables_are_left_alone(store: PostgresStore, make: Make) -> None:
    """A schema of a newer Antiphon is refused, and unharmed."""
    async with store.unit() as unit:
        await unit.execute("UPDATE antiphon_meta SET value = '99' WHERE name = 'version'")
    with pytest.raises(StoreVersion):
        await make("two").open()


async def test_a_role_needs_no_right_to_make_the_schema_that_it_has(url: str, tmp_path: Path) -> None:
    """Without either, it is told what to ask for."""
    from antiphon.store.postgres.connection import address
    from antiphon.store.postgres.store import PostgresStore

    role, schema = f"role_{name_of(tmp_path)}", name_of(tmp_path)
    named = url.replace("://postgres@", f"://{role}:secret@")
    store = PostgresStore(address(named, schema), clock=SystemClock(), owner="one")
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as server:
        await server.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
        try:
            with pytest.raises(StoreError, match=f'CREATE SCHEMA "{schema}" AUTHORIZATION "{role}"'):
                await store.open()
            await server.execute(f"CREATE SCHEMA {schema} AUTHORIZATION {role}")
            await store.open()
            await store.close()
        finally:
            await server.execute(f"DROP OWNED BY {role} CASCADE")
            await server.execute(f"DROP ROLE {role}")


async def test_a_server_that_is_not_there_is_no_promise_to_try_again() -> None:
    """Who starts on it ends with what to look at."""
    from antiphon.store.postgres.connection import address, connect

    with pytest.raises(StoreError, match="Check that the server is there") as refused:
        await connect(address("postgresql://me:secret@127.0.0.1:1/app", "svc"))
    assert "secret" not in str(refused.value)


async def test_a_password_is_shown_to_nobody(make: Make) -> None:
    """Errors and status name user, host and schema."""
    from antiphon.store.postgres.connection import address

    assert "secret" not in address("postgresql://me:secret@db:5432/app?sslmode=require", "svc").shown
    for bad in ("mysql://db/app", "postgresql://db/app?pooler=session", "postgresql://db/app?shcema=x"):
        with pytest.raises(DeclarationError):
            address(bad, "svc")
    for bad in ("me:secret@db:54x2/app", "me:12/secret@db/app", "me:se?cret@db/app", "me:se#cret@db/app", "db?se@c=1"):
        with pytest.raises(DeclarationError) as refused:
            address(f"postgresql://{bad}", "svc")
        assert "cret" not in str(refused.value)
    several = address("postgresql://me:secret@one:5432,[::1]:5433,three/app?schema=s_", "svc")
    assert (several.schema, several.name) == ("s_svc", "svc")
    with pytest.raises(DeclarationError):
        address("postgresql://db/app", "no such name")


async def test_processes_that_start_at_once_do_not_hinder_each_other(make: Make) -> None:
    """Tables and handlers are made once, whoever comes first."""
    stores = [make(f"owner-{n}") for n in range(5)]
    await asyncio.gather(*(store.open() for store in stores))
    handlers = [handler(f"work{n}") for n in range(5)]
    await asyncio.gather(*(store.register(handlers) for store in stores))
    assert len(await stores[0].fetch_all("SELECT * FROM antiphon_handlers")) == 5
    await asyncio.gather(*(store.close() for store in stores))


async def test_postgresql_understands_every_block(store: PostgresStore) -> None:
    """Each named statement is planned without an error, those that nothing else of these tests runs included."""
    from antiphon.store.postgres.queries import blocks
    from antiphon.store.postgres.statements import numbered

    listed = {"lock_log", "put_worker", "live_workers", "doubt"}  # run at every open, commit or upkeep
    wrong = {}
    async with store._units.connection() as connection:
        for name, sql in blocks().items():
            if name.startswith("part_") or name in listed:
                continue
            try:
                await connection.execute(b"PREPARE block AS " + numbered(sql))
                await connection.execute(b"DEALLOCATE block")
            except psycopg.Error as error:
                wrong[name] = str(error).partition("\n")[0]
    assert wrong == {}
