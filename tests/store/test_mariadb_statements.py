"""What MariaDB does with a service's statements: parameters, counts, what fails, what it would commit by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from antiphon.errors import DeclarationError
from antiphon.ports import PUBLISHED
from antiphon.testing.conformance.kit import envelope, handler
from tests.store.mariadb import OnMariadb, on_mariadb
from tests.store.served import notes

if TYPE_CHECKING:
    from antiphon.store.mariadb.store import MariaStore

asyncmy = pytest.importorskip("asyncmy")
errors = pytest.importorskip("asyncmy.errors")

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def server() -> Iterator[OnMariadb]:
    """MariaDB alone."""
    with on_mariadb() as found:
        yield found


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


async def test_what_would_end_the_transaction_is_not_held(store: MariaStore) -> None:
    """Neither in a message of several: it is refused where it is made."""
    with pytest.raises(DeclarationError, match="would commit"):
        async with store.unit() as unit:
            assert unit.hold()
            next(unit.execute("INSERT INTO notes VALUES (1, NULL)").__await__())
            next(unit.execute("TRUNCATE notes").__await__())
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
