"""What is MariaDB's own: commits without an answer or not on the disk yet, deadlocks, tables made over deaths."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from antiphon.errors import DeclarationError, StoreError, StoreLocked
from antiphon.ports import PUBLISHED, Held
from antiphon.runtime.clock import SystemClock
from antiphon.testing.conformance.kit import envelope, handler
from antiphon.testing.line import Line, line_to
from antiphon.testing.mariadb import MariadbServer
from antiphon.testing.servers import running
from tests.conftest import require
from tests.store.mariadb import OnMariadb, asked, on_mariadb
from tests.store.served import NOTES, append, eventually, notes, until

if TYPE_CHECKING:
    from antiphon.store.mariadb.connection import Session
    from antiphon.store.mariadb.store import MariaStore

asyncmy = pytest.importorskip("asyncmy")
errors = pytest.importorskip("asyncmy.errors")

pytestmark = pytest.mark.anyio

Make = Callable[..., "MariaStore"]


@pytest.fixture(scope="module")
def server() -> Iterator[OnMariadb]:
    """MariaDB alone."""
    with on_mariadb() as found:
        yield found


# ---------------------------------------------------------------------- the disk


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
    store: MariaStore, make: Make, server: OnMariadb, monkeypatch: pytest.MonkeyPatch, way: str, wrote: str
) -> None:
    """The connection breaks at the commit: the unit ends as the server says it has ended, and no otherwise. It says so
    whether the unit has published or only written, by single statements or by one for many rows."""
    from antiphon.store.mariadb.connection import Session

    say, appends = Session.say, "appends" in wrote
    async with asyncio.timeout(60), on_a_line(make, server.url) as (far, line):

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


async def test_statements_that_travel_together_may_all_be_different(store: MariaStore) -> None:
    """They may be more than a connection keeps prepared."""
    async with store.unit() as unit:
        unit._held = [Held(f"INSERT INTO notes VALUES ({n}, NULL)", ()) for n in range(100)]
        await unit.send(last=True)
    assert await notes(store) == [*range(100)]


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


def test_a_password_is_shown_to_nobody() -> None:
    """Errors and status name user, host and database; what is no address is refused."""
    from antiphon.store.mariadb.connection import address

    where = address("mariadb://me:se%40cret@db:3307/shop?ssl=verify", "svc")
    assert (where.password, where.database, where.shown) == ("se@cret", "shop_svc", "mariadb://me@db:3307/shop_svc")
    with pytest.raises(StoreError, match="certificates cannot be read"):
        address("mariadb://db/app?ssl_ca=/nothing&ssl=verify", "svc").tls()
    with pytest.raises(DeclarationError, match="its port is no number") as refused:
        address("mariadb://me:se/cret@db/app", "svc")
    assert "cret" not in str(refused.value)
    for bad in ("postgresql://db/app", "mariadb://db", "mariadb://db/app?pooler=x", "mariadb://db/app?ssl=maybe"):
        with pytest.raises(DeclarationError):
            address(bad, "svc")
    with pytest.raises(DeclarationError):
        address("mariadb://db/app", "no such name")


async def test_an_ordinary_user_is_enough(server: OnMariadb, make: Make) -> None:
    """All rights on databases of that beginning, and none on the server: stores are made, leases and wakes work."""
    from antiphon.store.mariadb.connection import prefix_of

    name, prefix = f"u{prefix_of(server.url)[-9:-1]}", prefix_of(server.url).replace("_", "\\_")
    await asked(
        server.url,
        f"CREATE USER '{name}'@'%' IDENTIFIED BY 'pass@word'",
        f"GRANT ALL ON `{prefix}%`.* TO '{name}'@'%'",
    )
    store = make(at=server.url.replace("root@", f"{name}:pass%40word@"), tables={"svc": NOTES})
    try:
        await store.open()
        await store.register([handler("work")])
        assert await store.acquire("svc.work", "one") is not None
        await append(store, 1)
        assert await store.is_alive("one")
        task = asyncio.ensure_future(sleep_in(store))
        async with asyncio.timeout(20):
            await until(server, store, lambda asleep: asleep)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await until(server, store, lambda asleep: not asleep)
    finally:
        await store.close()
        await asked(server.url, f"DROP USER '{name}'@'%'")


async def sleep_in(store: MariaStore) -> None:
    """A unit that is long in the server."""
    async with store.unit() as unit:
        await unit.fetch_all("SELECT sleep(60)")


async def test_a_server_that_is_not_there_is_a_store_error(make: Make) -> None:
    """It is tried again later, as any store that does not answer."""
    with pytest.raises(StoreError):
        await make(at="mariadb://root@127.0.0.1:1/app").open()


async def test_what_one_closes_is_tidied_away(store: MariaStore, make: Make) -> None:
    """A process that ends leaves neither a name nor the places of its connections."""
    other = make("two")
    await other.open()
    await append(other, 1)
    assert len(await store.fetch_all("SELECT * FROM antiphon_commits WHERE owner = 'two'")) == 1
    await other.close()
    assert await store.fetch_all("SELECT * FROM antiphon_commits WHERE owner = 'two'") == []
    assert await store.fetch_all("SELECT owner FROM antiphon_workers") == [("one",)]
