"""What is PostgreSQL's own: commits without an answer, tables that others change, statements with their marks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from antiphon.errors import DeclarationError, StoreError
from tests.store.postgres import OnPostgres, on_postgres
from tests.store.served import notes

if TYPE_CHECKING:
    from antiphon.store.postgres.store import PostgresStore

psycopg = pytest.importorskip("psycopg")

pytestmark = pytest.mark.anyio

Make = Callable[..., "PostgresStore"]


@pytest.fixture(scope="module")
def server() -> Iterator[OnPostgres]:
    """PostgreSQL alone."""
    with on_postgres() as found:
        yield found


# ---------------------------------------------------------------------- connections that break


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


async def test_a_password_is_shown_to_nobody(make: Make) -> None:
    """Errors and status name user, host and schema."""
    from antiphon.store.postgres.connection import address

    assert "secret" not in address("postgresql://me:secret@db:5432/app?sslmode=require", "svc").shown
    for bad in ("mysql://db/app", "postgresql://db/app?pooler=session"):
        with pytest.raises(DeclarationError):
            address(bad, "svc")
    with pytest.raises(DeclarationError):
        address("postgresql://db/app", "no such name")


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
