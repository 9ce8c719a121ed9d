"""What is MariaDB's own: positions in the order of commits, commits without an answer, tables made over deaths."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from antiphon.errors import DeclarationError, StoreError, StoreLocked, StoreVersion
from antiphon.ports import PUBLISHED, LoggedEvent
from antiphon.runtime.clock import SystemClock
from antiphon.store.rows import log_row
from antiphon.testing.conformance.kit import envelope, handler
from antiphon.testing.line import Line, line_to
from antiphon.testing.mariadb import MariadbServer
from antiphon.testing.servers import running
from tests.conftest import require
from tests.store.mariadb import asked, databases
from tests.store.postgres import name_of

if TYPE_CHECKING:
    from antiphon.store.mariadb.connection import Session
    from antiphon.store.mariadb.store import MariaStore

asyncmy = pytest.importorskip("asyncmy")
errors = pytest.importorskip("asyncmy.errors")

pytestmark = pytest.mark.anyio

Make = Callable[..., "MariaStore"]
NOTES = "CREATE TABLE IF NOT EXISTS notes (n INTEGER PRIMARY KEY, text VARCHAR(100));"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """An address for all of these tests; each has a database of its own there."""
    with databases() as found:
        yield found


@pytest.fixture
def make(url: str, tmp_path: Path) -> Make:
    """Makes stores on the test's database, not open yet."""
    from antiphon.store.mariadb.connection import address
    from antiphon.store.mariadb.store import MariaStore

    def store(owner: str = "one", *, at: str = url, **options: Any) -> MariaStore:
        return MariaStore(address(at, name_of(tmp_path)), clock=SystemClock(), owner=owner, **options)

    return store


@pytest.fixture
async def store(make: Make) -> AsyncIterator[MariaStore]:
    """An open store with a table of the service's."""
    found = make(tables={"svc": NOTES})
    await found.open()
    yield found
    await found.close()


async def sessions(store: MariaStore, what: str = "TRUE") -> list[int]:
    """The server's sessions on this database, but for the one that answers."""
    rows = await store.fetch_all(
        "SELECT id FROM information_schema.processlist WHERE db = database() AND id <> connection_id() AND " + what
    )
    return [number for (number,) in rows]


async def until(store: MariaStore, holds: Callable[[list[int]], object]) -> None:
    """Look until it *holds* of those that sleep in the server; each look takes the server a moment."""
    while not holds(await sessions(store, "info LIKE '%sleep(60)%' AND info NOT LIKE '%processlist%'")):
        await store.fetch_all("SELECT sleep(0.01)")


async def notes(store: MariaStore) -> list[int]:
    """The committed rows."""
    return [n for (n,) in await store.fetch_all("SELECT n FROM notes ORDER BY n")]


async def eventually(work: Callable[[], Any]) -> Any:
    """What *work* gives when the store answers again."""
    for _ in range(20):
        try:
            return await work()
        except StoreError:
            continue
    return await work()


# ---------------------------------------------------------------------- the order of commits


async def lost(store: MariaStore, schedule: tuple[str, ...], run: int, *, locked: bool) -> bool:
    """Whether a reader that goes on from the last position it saw misses an event, when two writers' steps (insert,
    commit) and its own two looks are mixed so. A step that has to wait is left waiting, its writer's next with it.
    Without the lock, positions are drawn before the transaction, as a sequence would."""
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
            session = {"A": a, "B": b}[name]
            if next(writers[name]) == 1:
                await session.say("COMMIT")
                return
            drawn = await draw(session)
            if not locked:
                await session.say("COMMIT")
            row = log_row(envelope(10 * run + (name == "B")), PUBLISHED)
            await session.ask(
                "INSERT INTO antiphon_log (seq, id, type, version, service, time_ms, data)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                *(drawn, row[0], row[1], row[2], row[4], row[5], row[13]),
            )

        for who in schedule:
            if who == "R":
                await look()
            else:
                pending[who] = asyncio.ensure_future(step(who, pending.get(who)))
                await asyncio.wait([pending[who]], timeout=0.01)
        await asyncio.gather(*pending.values())
    await look()
    return len(seen) < 2


async def draw(session: Session) -> int:
    """A position, drawn as a unit does it."""
    from antiphon.store.mariadb.queries import query
    from antiphon.store.mariadb.statements import understood

    return (await session.run(understood(query("draw_more")), (1,))).insert_id


async def test_no_order_of_commits_hides_an_event(store: MariaStore) -> None:
    """In all 90 ways to mix two writers' steps with a reader's looks nothing is missed; without the lock, some is."""
    schedules = sorted(set(permutations("AABBRR")))
    unlocked = [schedule for n, schedule in enumerate(schedules) if await lost(store, schedule, n, locked=False)]
    assert unlocked, "the mix shows nothing: no schedule loses an event even without the lock"
    for n, schedule in enumerate(schedules, len(schedules)):
        assert not await lost(store, schedule, n, locked=True), f"an event was missed in {''.join(schedule)}"


async def test_a_long_transaction_keeps_nobody_waiting(store: MariaStore, make: Make) -> None:
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


async def test_others_are_woken(store: MariaStore, make: Make) -> None:
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


async def test_what_another_appends_just_before_is_heard(store: MariaStore, make: Make) -> None:
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


async def test_what_leaves_the_server_is_on_its_disk_first(store: MariaStore, make: Make) -> None:
    """MariaDB shows a commit before it has flushed it: who reads the log to send it on has it flushed, once, unless the
    commit was his own and answered."""

    async def touched() -> int:
        found = await store.fetch_all("SELECT touched FROM antiphon_workers WHERE owner = ?", (store.owner,))
        return int(found[0][0])

    other = make("two")
    await other.open()
    await append(store, 1)
    assert len(await store.read_log(0, 10)) == 1
    assert await touched() == 0
    await append(other, 2)
    for _ in range(2):
        assert len(await store.read_log(0, 10)) == 2
        assert await touched() == 1
    await other.close()


# ---------------------------------------------------------------------- connections that break


async def test_broken_connections_are_replaced(store: MariaStore, make: Make) -> None:
    """The server ends every connection, also amid a unit: that unit is undone, all else goes on, wakes arrive again."""
    other = make("two")
    await other.open()
    with pytest.raises(StoreError):
        async with store.unit() as unit:
            await unit.execute("INSERT INTO notes VALUES (?, NULL)", (1,))
            await asked(store_url(store), *(f"KILL CONNECTION {number}" for number in await sessions(store)))
            await unit.execute("INSERT INTO notes VALUES (?, NULL)", (2,))
    assert await eventually(lambda: notes(store)) == []

    async def once() -> None:
        async with store.unit() as unit:
            await unit.execute("INSERT INTO notes VALUES (?, NULL)", (3,))

    await eventually(once)
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


def store_url(store: MariaStore) -> str:
    """The server that *store* is on."""
    where = store.address
    return f"mariadb://{where.user}@{where.host}:{where.port}/x"


async def append(store: MariaStore, n: int) -> None:
    """An event, over connections that may have broken."""

    async def once() -> None:
        async with store.unit() as unit:
            await unit.append([(envelope(n), PUBLISHED)])

    await eventually(once)


@asynccontextmanager
async def on_a_line(make: Make, url: str) -> AsyncIterator[tuple[MariaStore, Line]]:
    """A store on a line to the server that can be cut."""
    async with line_to(url) as line:
        store = make("far", at=line.url)
        await store.open()
        try:
            yield store, line
        finally:
            await store.close()


@pytest.mark.parametrize("wrote", ["one and appends", "one", "many"])
@pytest.mark.parametrize("way", ["there", "back"])
async def test_a_commit_without_an_answer_is_asked_for(
    store: MariaStore, make: Make, url: str, monkeypatch: pytest.MonkeyPatch, way: str, wrote: str
) -> None:
    """The connection breaks at the commit: the unit ends as the server says it has ended, and no otherwise. It says so
    whether the unit has published or only written, by single statements or by one for many rows."""
    from antiphon.store.mariadb.connection import Session

    say, appends = Session.say, "appends" in wrote
    async with asyncio.timeout(60), on_a_line(make, url) as (far, line):

        async def cut_at_commit(session: Session, text: str) -> None:
            if text == "COMMIT" and session.nr == 1 and session.where == far.address:
                line.close_way("there" if way == "there" else "back")
                cutting.append(asyncio.ensure_future(cut()))
            await say(session, text)

        async def cut() -> None:
            await line.lost()
            await line.cut()
            await line.mend()

        async def work() -> None:
            async with far.unit() as unit:
                if wrote == "many":
                    await unit.execute_many("INSERT INTO notes VALUES (?, ?)", [(1, "a")])
                else:
                    await unit.execute("INSERT INTO notes VALUES (?, NULL)", (1,))
                if appends:
                    await unit.append([(envelope(1), PUBLISHED)])

        cutting: list[asyncio.Future[None]] = []
        async with far._units.connection():
            pass
        monkeypatch.setattr(Session, "say", cut_at_commit)
        if way == "back":
            await work()
        else:
            with pytest.raises(StoreError):
                await work()
        monkeypatch.setattr(Session, "say", say)
        await asyncio.gather(*cutting)
        assert cutting
        assert await eventually(lambda: notes(far)) == ([1] if way == "back" else [])
        assert len(await far.read_log(0, 10)) == (1 if way == "back" and appends else 0)


async def test_a_unit_that_is_cancelled_leaves_nothing_behind(store: MariaStore) -> None:
    """Cancelled while the server works on its statement, it is undone and its connection goes."""

    async def work() -> None:
        async with store.unit() as unit:
            await unit.execute("INSERT INTO notes VALUES (?, NULL)", (1,))
            await unit.fetch_all("SELECT sleep(60)")

    task = asyncio.ensure_future(work())
    async with asyncio.timeout(20):
        await until(store, lambda asleep: asleep)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await until(store, lambda asleep: not asleep)
    assert await notes(store) == []


async def test_a_deadlock_undoes_one_unit_whole(store: MariaStore) -> None:
    """Of two that wait for each other one is told so, and has written nothing; what it does next is refused."""
    async with store.unit() as unit:
        await unit.execute_many("INSERT INTO notes VALUES (?, 'as it was')", [(1,), (2,)])
    met = asyncio.Barrier(2)
    refused = []

    async def work(first: int, second: int) -> None:
        try:
            async with store.unit() as unit:
                await unit.execute("INSERT INTO notes VALUES (?, NULL)", (10 * first,))
                await unit.execute("UPDATE notes SET text = 'changed' WHERE n = ?", (first,))
                await met.wait()
                try:
                    await unit.execute("UPDATE notes SET text = 'changed' WHERE n = ?", (second,))
                except StoreLocked:
                    with pytest.raises(StoreLocked):
                        await unit.execute("INSERT INTO notes VALUES (?, NULL)", (99,))
                    raise
        except StoreLocked:
            refused.append(first)

    async with asyncio.timeout(20):
        await asyncio.gather(work(1, 2), work(2, 1))
    assert len(refused) == 1
    assert await notes(store) == [1, 2, 10 * (3 - refused[0])]


async def test_what_was_answered_survives_the_death_of_the_server(tmp_path: Path) -> None:
    """A server that is killed amid commits has all that it has answered for when it comes back, and nothing by half."""
    from antiphon.store.mariadb.connection import address
    from antiphon.store.mariadb.store import MariaStore

    require("mariadbd", MariadbServer.is_there())
    answered: list[int] = []
    async with running(MariadbServer) as server:
        where = address(f"{server.url}/shop", "orders")
        store = MariaStore(where, clock=SystemClock(), owner="one", tables={"svc": NOTES})
        await store.open()

        async def work(first: int) -> None:
            for n in range(first, first + 10_000):
                async with store.unit() as unit:
                    await unit.execute("INSERT INTO notes VALUES (?, NULL)", (n,))
                    await unit.append([(envelope(n), PUBLISHED)])
                answered.append(n)

        async with asyncio.timeout(60):
            tasks = [asyncio.ensure_future(work(10_000 * n)) for n in range(1, 4)]
            while len(answered) < 50:
                await asyncio.wait(tasks, timeout=0.01)
            await server.kill()
            await server.start()
            # Who has a commit without an answer asks the server that is back; then the next unit fails, or goes on.
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            kept = await eventually(lambda: notes(store))
            logged = [event.envelope.id for event in await store.read_log(0, 100_000)]
        assert set(answered) <= set(kept)
        assert sorted(logged) == sorted(envelope(n).id for n in kept)
        await store.close()


# ---------------------------------------------------------------------- statements


async def test_a_failing_statement_undoes_itself_alone(store: MariaStore) -> None:
    """A service may catch its error and go on in the same transaction, as on SQLite; also after a savepoint."""
    async with store.unit() as unit:
        await unit.execute("INSERT INTO notes VALUES (?, NULL)", (1,))
        with pytest.raises(errors.IntegrityError):
            await unit.execute("INSERT INTO notes VALUES (?, NULL)", (1,))
        await unit.execute("INSERT INTO notes VALUES (?, NULL)", (2,))
        await unit.savepoint()
        for _ in range(2):
            with pytest.raises(errors.IntegrityError):
                await unit.execute_many("INSERT INTO notes VALUES (?, ?)", [(5, "a"), (1, "b")])
            await unit.execute("INSERT INTO notes VALUES (?, NULL) ON CONFLICT DO NOTHING", (3,))
        with pytest.raises(errors.MySQLError):
            await unit.fetch_all("SELECT no_such_function(?)", (0,))
        await unit.rollback_to_savepoint()
        await unit.append([(envelope(1), PUBLISHED)])
        await unit.execute("INSERT INTO notes VALUES (?, NULL)", (4,))
    assert await notes(store) == [1, 2, 4]
    assert len(await store.read_log(0, 10)) == 1


async def test_a_first_statement_that_fails_begins_the_unit_all_the_same(store: MariaStore) -> None:
    """What follows it is in one transaction, and is kept; going back to a mark at the very end is not forgotten."""
    async with store.unit() as unit:
        with pytest.raises(errors.ProgrammingError):
            await unit.execute("INSERT INTO nothing VALUES (?)", (1,))
        await unit.execute("INSERT INTO notes VALUES (?, NULL)", (1,))
        await unit.savepoint()
        await unit.execute("INSERT INTO notes VALUES (?, NULL)", (2,))
        await unit.rollback_to_savepoint()
    assert await notes(store) == [1]


@pytest.mark.parametrize("caught", [True, False])
async def test_a_first_statement_that_fails_keeps_no_lock(store: MariaStore, caught: bool) -> None:
    """However the unit ends in which nothing else was said: others write the row that was in its way."""
    from antiphon.store.mariadb.connection import connect

    async with store.unit() as unit:
        await unit.execute("INSERT INTO notes VALUES (?, NULL)", (1,))
    with suppress(errors.IntegrityError):
        async with store.unit() as unit:
            try:
                await unit.execute("INSERT INTO notes VALUES (?, NULL)", (1,))
            except errors.IntegrityError:
                if not caught:
                    raise
    other = await connect(store.address)
    try:
        await other.say("SET SESSION innodb_lock_wait_timeout = 1")
        await other.say("UPDATE notes SET text = 'of another' WHERE n = 1")
    finally:
        await other.close()
    assert (await store.fetch_all("SELECT text FROM notes"))[0][0] == "of another"


async def test_events_are_seen_by_who_looks_at_the_log(store: MariaStore) -> None:
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


async def test_rows_changed_are_counted_as_elsewhere(store: MariaStore) -> None:
    """An update counts what it found, though it was so already; an upsert its one row; what is left alone is none."""
    async with store.unit() as unit:
        put = "INSERT INTO notes (n, text) VALUES (?, ?) ON CONFLICT (n) DO"
        assert await unit.execute(f"{put} NOTHING", (1, "a")) == 1
        assert await unit.execute(f"{put} NOTHING", (1, "b")) == 0
        assert await unit.execute("UPDATE notes SET text = ? WHERE n = ?", ("a", 1)) == 1
        assert await unit.execute(f"{put} UPDATE SET text = excluded.text", (1, "c")) == 1
        assert await unit.execute(f"{put} UPDATE SET text = excluded.text", (2, "d")) == 1
        assert await unit.execute_many(f"{put} NOTHING", [(2, "e"), (3, "f"), (3, "g")]) == 1
        assert await unit.fetch_all(f"{put} NOTHING RETURNING n", (3, "h")) == []
        assert await unit.execute("DELETE FROM notes AS old WHERE old.n = ?", (3,)) == 1
    rows = await store.fetch_all("SELECT n, text FROM notes ORDER BY n")
    assert [(row["N"], row["text"]) for row in rows] == [(1, "c"), (2, "d")]


@pytest.mark.parametrize(
    "hostile",
    ["' OR 1 = 1 -- ", "\\' OR 1 = 1 -- ", '"; DROP TABLE notes; -- ', "\0\x1a\n\r\\", "é'", "\U0001f600 ? %s"],
)
async def test_a_parameter_never_becomes_part_of_a_statement(store: MariaStore, hostile: str) -> None:
    """What a parameter holds is kept and found as it is, also by a session that takes backslashes for letters."""
    async with store.unit() as unit:
        await unit.execute("INSERT INTO notes VALUES (1, 'other')")
        await unit.execute("INSERT INTO notes VALUES (?, ?)", (2, hostile))
        assert await unit.fetch_all("SELECT n FROM notes WHERE text = ?", (hostile,)) == [(2,)]
        await unit.connection.say("SET SESSION sql_mode = concat(@@sql_mode, ',NO_BACKSLASH_ESCAPES')")
        await unit.execute_many("INSERT INTO notes VALUES (?, ?)", [(3, hostile), (4, hostile)])
        assert await unit.fetch_all("SELECT n FROM notes WHERE text = ? ORDER BY n", (hostile,)) == [(2,), (3,), (4,)]


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE more (n INTEGER)",
        "/* first */ TRUNCATE notes",
        "COMMIT",
        "-- so\nbegin",
        "SET autocommit = 1",
        "LOCK TABLES notes WRITE",
    ],
)
async def test_what_would_end_the_transaction_is_refused(store: MariaStore, sql: str) -> None:
    """MariaDB commits before such statements: in a unit that has begun they are not sent, and it is undone whole."""
    with pytest.raises(DeclarationError, match="would commit or end"):
        async with store.unit() as unit:
            await unit.execute("INSERT INTO notes VALUES (?, NULL)", (1,))
            await unit.execute(sql)
    assert await notes(store) == []
    with pytest.raises(errors.ProgrammingError):
        async with store.unit() as unit:
            await unit.execute("INSERT INTO notes VALUES (1, NULL); COMMIT")
    assert await notes(store) == []


async def test_texts_compare_by_their_letters(store: MariaStore) -> None:
    """Keys that differ in case, in an accent or in a space at the end are different, also in a service's own table."""
    async with store.unit() as unit:
        for text in ("ada", "Ada", "ada ", "äda"):
            await unit.append(
                [(envelope(len(await unit.fetch_all("SELECT id FROM antiphon_log")), key=text), PUBLISHED)]
            )
        await unit.execute_many("INSERT INTO notes VALUES (?, ?)", [(1, "ada"), (2, "Ada"), (3, "ada "), (4, "äda")])
    assert await store.fetch_all("SELECT seq FROM antiphon_log WHERE key = ?", ("ada ",)) == [(3,)]
    assert await store.fetch_all("SELECT n FROM notes WHERE text = ?", ("ada",)) == [(1,)]


@pytest.mark.parametrize(
    ("written", "sent", "order"),
    [
        ("SELECT ?, ?", "SELECT ?, ?", None),
        ("SELECT ?2, ?1, ?2", "SELECT ?, ?, ?", (1, 0, 1)),
        ("SELECT '?', \"?\", `?`, ? -- ?\n, ?", "SELECT '?', \"?\", `?`, ? -- ?\n, ?", None),
        ("SELECT 'it''s ?', 'it\\'s ?', ?1", "SELECT 'it''s ?', 'it\\'s ?', ?", (0,)),
        (
            "SELECT key FROM antiphon_log AS l WHERE l.key = ?",
            "SELECT `key` FROM antiphon_log AS l WHERE l.`key` = ?",
            None,
        ),
        ("SELECT key FROM mine", "SELECT key FROM mine", None),
        (
            "INSERT INTO t (a, b) VALUES (?, ?) ON CONFLICT (a) DO UPDATE SET b = excluded.b",
            "INSERT INTO t (a, b) VALUES (?, ?) ON DUPLICATE KEY UPDATE b = VALUES(`b`)",
            None,
        ),
        (
            "INSERT INTO t SELECT a FROM u ON CONFLICT (a) DO NOTHING",
            "INSERT INTO t SELECT a FROM u ON DUPLICATE KEY UPDATE `a` = t.`a`",
            None,
        ),
        ("SELECT 'ON CONFLICT (a) DO NOTHING'", "SELECT 'ON CONFLICT (a) DO NOTHING'", None),
        ("DELETE FROM t AS x WHERE x.a = ?", "DELETE x FROM t AS x WHERE x.a = ?", None),
    ],
)
def test_statements_are_understood(written: str, sent: str, order: tuple[int, ...] | None) -> None:
    """Marks, upserts and names in the words of SQLite and PostgreSQL, but in texts, names and comments."""
    from antiphon.store.mariadb.statements import understood

    assert (understood(written).text, understood(written).order) == (sent, order)


async def test_mariadb_understands_every_block(store: MariaStore) -> None:
    """Each named statement is prepared without an error, those that nothing else of these tests runs included."""
    from antiphon.store.mariadb.queries import blocks
    from antiphon.store.mariadb.statements import understood

    wrong = {}
    async with store._readers.connection() as session:
        for name, sql in blocks().items():
            if name.startswith("part_"):
                continue
            try:
                await session._prepare(understood(sql).text)
            except errors.MySQLError as error:
                wrong[name] = str(error)
    assert wrong == {}


async def test_the_event_tables_show_what_they_hold(store: MariaStore) -> None:
    """Each view can be read, by any client in any time zone; times are UTC with their zone."""
    await store.register([handler("work")])
    event = envelope(1, key="k1")
    async with store.unit() as unit:
        await unit.append([(event, PUBLISHED)])
    views = await store.fetch_all("SELECT table_name FROM information_schema.views WHERE table_schema = database()")
    assert len(views) >= 8
    async with store._readers.connection() as session:
        await session.say("SET SESSION time_zone = '+05:00'")
        for (name,) in views:
            await session.ask(f"SELECT * FROM {name}")
        shown = await session.ask("SELECT EVENT_ID, STATUS, CREATED_DTTM FROM antiphon_events")
        assert shown == ((event.id, "UNPROCESSED", utc(event.time_ms)),)
        assert await session.ask("SELECT HANDLER, WAITING FROM antiphon_lag") == (("svc.work", 1),)
        await session.say("SET SESSION time_zone = '+00:00'")


def utc(ms: int) -> str:
    """A wall time as the views show it."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# ---------------------------------------------------------------------- tables, addresses and versions

SCRIPT = """
CREATE TABLE first (n INTEGER PRIMARY KEY, text VARCHAR(20) DEFAULT 'a;b');  -- one; and a comment
INSERT INTO first (n) VALUES (1);
CREATE INDEX first_text ON first (text);
INSERT INTO first (n) VALUES (2);
"""


async def test_tables_are_made_over_deaths(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies between any two statements of a first start is followed by one that comes to its end; what a
    script inserts is there once."""
    from antiphon.store.mariadb import migrations
    from antiphon.store.mariadb.connection import Session

    ask, left = Session.ask, 0

    class Killed(BaseException):
        """The end of the process."""

    async def mortal(session: Session, sql: str, *parameters: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        return await ask(session, sql, *parameters)

    async def dies_after(statements: int) -> bool:
        nonlocal left
        left = statements
        store = make(tables={"svc": SCRIPT})
        monkeypatch.setattr(Session, "ask", mortal)
        try:
            await migrations.migrate(store.address, store._tables)
        except Killed:
            return True
        finally:
            monkeypatch.setattr(Session, "ask", ask)
        return False

    statements = 0
    while await dies_after(statements):
        statements += 1
    assert statements > 10
    store = make(tables={"svc": SCRIPT})
    await store.open()
    assert await store.fetch_all("SELECT n, text FROM first ORDER BY n") == [(1, "a;b"), (2, "a;b")]
    assert await store.fetch_all("SELECT name FROM antiphon_meta WHERE name LIKE 'making:%'") == []
    await store.close()


async def test_a_script_that_is_wrong_is_said_to_be(make: Make) -> None:
    """Its error is raised at every start until it is mended: it is not taken for the work of one who has died."""
    for _ in range(2):
        with pytest.raises(errors.MySQLError, match="syntax"):
            await make(
                tables={"svc": "CREATE TABLE IF NOT EXISTS first (n INTEGER);\nCREATE TABEL wrong (n INTEGER);"}
            ).open()
    store = make(tables={"svc": "CREATE TABLE IF NOT EXISTS first (n INTEGER);"})
    await store.open()
    await store.close()


async def test_newer_tables_are_left_alone(store: MariaStore, make: Make) -> None:
    """A database of a newer Antiphon is refused, and unharmed."""
    async with store.unit() as unit:
        await unit.execute("UPDATE antiphon_meta SET value = '99' WHERE name = 'version'")
    with pytest.raises(StoreVersion):
        await make("two").open()


def test_a_password_is_shown_to_nobody() -> None:
    """Errors and status name user, host and database; what is no address is refused."""
    from antiphon.store.mariadb.connection import address

    where = address("mariadb://me:se%40cret@db:3307/shop?ssl=verify", "svc")
    assert (where.password, where.database, where.shown) == ("se@cret", "shop_svc", "mariadb://me@db:3307/shop_svc")
    for bad in ("postgresql://db/app", "mariadb://db", "mariadb://db/app?pooler=x", "mariadb://db/app?ssl=maybe"):
        with pytest.raises(DeclarationError):
            address(bad, "svc")
    with pytest.raises(DeclarationError):
        address("mariadb://db/app", "no such name")


async def test_an_ordinary_user_is_enough(url: str, make: Make) -> None:
    """All rights on databases of that beginning, and none on the server: stores are made, leases and wakes work."""
    from antiphon.store.mariadb.connection import prefix_of

    name, prefix = f"u{prefix_of(url)[-9:-1]}", prefix_of(url).replace("_", "\\_")
    await asked(
        url,
        f"CREATE USER '{name}'@'%' IDENTIFIED BY 'pass@word'",
        f"GRANT ALL ON `{prefix}%`.* TO '{name}'@'%'",
    )
    store = make(at=url.replace("root@", f"{name}:pass%40word@"), tables={"svc": NOTES})
    try:
        await store.open()
        await store.register([handler("work")])
        assert await store.acquire("svc.work", "one") is not None
        await append(store, 1)
        assert await store.is_alive("one")
        task = asyncio.ensure_future(sleep_in(store))
        async with asyncio.timeout(20):
            await until(store, lambda asleep: asleep)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await until(store, lambda asleep: not asleep)
    finally:
        await store.close()
        await asked(url, f"DROP USER '{name}'@'%'")


async def sleep_in(store: MariaStore) -> None:
    """A unit that is long in the server."""
    async with store.unit() as unit:
        await unit.fetch_all("SELECT sleep(60)")


async def test_a_server_that_is_not_there_is_a_store_error(make: Make) -> None:
    """It is tried again later, as any store that does not answer."""
    with pytest.raises(StoreError):
        await make(at="mariadb://root@127.0.0.1:1/app").open()


async def test_processes_that_start_at_once_do_not_hinder_each_other(make: Make) -> None:
    """Tables and handlers are made once, whoever comes first."""
    stores = [make(f"owner-{n}") for n in range(5)]
    await asyncio.gather(*(store.open() for store in stores))
    handlers = [handler(f"work{n}") for n in range(5)]
    await asyncio.gather(*(store.register(handlers) for store in stores))
    assert len(await stores[0].fetch_all("SELECT * FROM antiphon_handlers")) == 5
    await asyncio.gather(*(store.close() for store in stores))


async def test_what_one_closes_is_tidied_away(store: MariaStore, make: Make) -> None:
    """A process that ends leaves neither a name nor the places of its connections."""
    other = make("two")
    await other.open()
    await append(other, 1)
    assert len(await store.fetch_all("SELECT * FROM antiphon_commits WHERE owner = 'two'")) == 1
    await other.close()
    assert await store.fetch_all("SELECT * FROM antiphon_commits WHERE owner = 'two'") == []
    assert await store.fetch_all("SELECT owner FROM antiphon_workers") == [("one",)]
