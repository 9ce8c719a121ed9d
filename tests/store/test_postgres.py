"""What is PostgreSQL's own: commits without an answer, tables that others change, statements with their marks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from antiphon.errors import DeclarationError, StoreError
from antiphon.runtime.clock import SystemClock
from tests.store.postgres import OnPostgres, name_of, on_postgres
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


async def test_a_machine_that_has_gone_is_missed_soon(server: OnPostgres, tmp_path: Path) -> None:
    """The time-outs of a connection are ours, but for those that the address has."""
    from antiphon.store.postgres.connection import address, connect

    mark = "&" if "?" in server.url else "?"
    connection = await connect(address(f"{server.url}{mark}keepalives_idle=60", name_of(tmp_path)))
    try:
        told = connection.info.get_parameters()
    finally:
        await connection.close()
    assert (told["keepalives_idle"], told["keepalives_count"], told["tcp_user_timeout"]) == ("60", "3", "25000")


async def test_a_role_needs_no_right_to_make_the_schema_that_it_has(server: OnPostgres, tmp_path: Path) -> None:
    """Without either, it is told what to ask for."""
    from antiphon.store.postgres.connection import address
    from antiphon.store.postgres.store import PostgresStore

    role, schema = f"role_{name_of(tmp_path)}", name_of(tmp_path)
    named = server.url.replace("://postgres@", f"://{role}:secret@")
    store = PostgresStore(address(named, schema), clock=SystemClock(), owner="one")
    async with await psycopg.AsyncConnection.connect(server.url, autocommit=True) as admin:
        await admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
        try:
            with pytest.raises(StoreError, match=f'CREATE SCHEMA "{schema}" AUTHORIZATION "{role}"'):
                await store.open()
            await admin.execute(f"CREATE SCHEMA {schema} AUTHORIZATION {role}")
            await store.open()
            await store.close()
        finally:
            await admin.execute(f"DROP OWNED BY {role} CASCADE")
            await admin.execute(f"DROP ROLE {role}")


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
    assert address("postgresql:///app?host=/run/postgresql", "svc").url == "postgresql:///app?host=%2Frun%2Fpostgresql"
    assert address("postgresql://", "svc").schema == "svc"
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
