"""Batches on MariaDB whose statements travel together: what each handler gets, and what becomes of failures."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from antiphon import Event, Retry, Service, Transaction, seconds
from antiphon.errors import DeclarationError, StoreError
from antiphon.ports import Held
from antiphon.runtime import ahead
from antiphon.runtime.runtime import Runtime
from tests.store.mariadb import databases
from tests.store.postgres import name_of

if TYPE_CHECKING:
    from antiphon.store.mariadb.unit import MariaUnit

errors = pytest.importorskip("asyncmy.errors")

pytestmark = pytest.mark.anyio

TABLES = (
    "CREATE TABLE IF NOT EXISTS bills (n INTEGER NOT NULL UNIQUE, seen INTEGER, id INTEGER PRIMARY KEY AUTO_INCREMENT);"
)


class Ordered(Event, key="customer"):
    customer: str
    n: int


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """An address for all of these tests."""
    with databases() as found:
        yield found


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many statements travelled together; every handler is trusted from its first event on."""
    from antiphon.store.mariadb.unit import MariaUnit

    monkeypatch.setattr(ahead, "TRUSTED_AFTER", 0)
    found: list[int] = []
    send = MariaUnit._send_held

    async def counted(self: MariaUnit) -> None:
        found.append(len(self._held))
        await send(self)

    monkeypatch.setattr(MariaUnit, "_send_held", counted)
    return found


@asynccontextmanager
async def running(url: str, folder: Path, billing: Service) -> AsyncIterator[Runtime]:
    """The service and a shop, started."""
    services = [Service("shop").spec, billing.spec]
    runtime = Runtime(name_of(folder), services, data=folder, store=url)
    await runtime.start()
    try:
        yield runtime
    finally:
        await runtime.stop()


async def rows(runtime: Runtime, sql: str) -> list[tuple[Any, ...]]:
    """Committed rows, as tuples."""
    return [tuple(row) for row in await runtime.stores["billing"].fetch_all(sql)]


async def handled(runtime: Runtime, count: int) -> None:
    """Wait until so many events are over or wait for a retry."""
    sql = "SELECT count(*) FROM antiphon_events WHERE STATUS NOT IN ('UNPROCESSED', 'IN_PROGRESS')"
    while (await rows(runtime, sql))[0][0] < count:
        await rows(runtime, "SELECT sleep(0.01)")


def orders(count: int, first: int = 0) -> list[Ordered]:
    """Orders of as many customers."""
    return [Ordered(f"c{n}", n) for n in range(first, first + count)]


async def test_each_handler_gets_the_count_of_its_own_statement(url: str, tmp_path: Path, messages: list[int]) -> None:
    """Statements go out together in the log's order, and each handler is told how many rows its own has changed: none
    of a row that it leaves alone."""
    billing = Service("billing", tables=TABLES)
    changed: dict[int, int] = {}

    @billing.on(Ordered)
    async def bill(event: Ordered, tx: Transaction) -> None:
        sql = "INSERT INTO bills (n, seen) VALUES (?, ?) ON CONFLICT (n) DO NOTHING"
        changed[event.n] = await tx.execute(sql, event.n - event.n % 2, event.n)

    async with running(url, tmp_path, billing) as runtime:
        await runtime.publish("shop", *orders(10))
        await handled(runtime, 10)
        await runtime.publish("shop", *orders(16, 10))
        await handled(runtime, 26)
        assert changed == {n: int(n % 2 == 0) for n in range(26)}
        assert await rows(runtime, "SELECT n, seen FROM bills ORDER BY id") == [(n, n) for n in range(0, 26, 2)]
        assert max(messages) > 1


async def test_statements_of_different_kinds_travel_together(url: str, tmp_path: Path, messages: list[int]) -> None:
    """A handler's reads and writes see what was written before, each with the answer that is its own."""
    billing = Service("billing", tables=TABLES)

    @billing.on(Ordered)
    async def bill(event: Ordered, tx: Transaction) -> None:
        found = await tx.fetch_one("SELECT count(*) AS bills FROM bills")
        assert found is not None
        many = await tx.execute_many("INSERT INTO bills (n, seen) VALUES (?, ?)", [(event.n, found["bills"])] * 1)
        assert many == 1
        assert await tx.execute("UPDATE bills SET seen = seen + ? WHERE n <= ?", 100, event.n) == event.n + 1

    async with running(url, tmp_path, billing) as runtime:
        await runtime.publish("shop", *orders(20))
        await handled(runtime, 20)
        expected = [(n, n + 100 * (20 - n)) for n in range(20)]
        assert await rows(runtime, "SELECT n, seen FROM bills ORDER BY n") == expected
        assert 2 in messages


async def test_one_that_fails_leaves_nothing_and_its_neighbours_take_effect_once(
    url: str, tmp_path: Path, messages: list[int]
) -> None:
    """A statement that fails in the middle of a message is its own event's failed attempt, and no other's, though the
    server runs those behind it too."""
    billing = Service("billing", tables=TABLES)

    @billing.on(Ordered, retry=Retry(attempts=3, first=seconds(300)))
    async def bill(event: Ordered, tx: Transaction) -> None:
        await tx.execute("INSERT INTO bills (n, seen) VALUES (?, 10 / ?)", event.n, 15 - event.n)

    async with running(url, tmp_path, billing) as runtime:
        await runtime.publish("shop", *orders(10))
        await handled(runtime, 10)
        await runtime.publish("shop", *orders(10, 10))
        await handled(runtime, 20)
        assert await rows(runtime, "SELECT n FROM bills ORDER BY n") == [(n,) for n in range(20) if n != 15]
        assert await rows(runtime, "SELECT number, outcome, error_type FROM antiphon_attempts") == [
            (1, "failed", "asyncmy.errors.OperationalError")
        ]
        assert await rows(runtime, "SELECT handled FROM antiphon_handlers") == [(19,)]
        assert max(messages) > 1


async def test_a_unit_whose_message_failed_is_over(url: str, tmp_path: Path) -> None:
    """Nothing can be done in it any more, nothing of it is kept, and its connection serves the next one."""
    async with running(url, tmp_path, Service("billing", tables=TABLES)) as runtime:
        store = runtime.stores["billing"]
        once = "INSERT INTO bills (n) VALUES (1)"
        for failing in ([once, once], [once, "SELECT no_such_function()"]):
            with pytest.raises(StoreError):
                async with store.unit() as unit:
                    assert unit.hold()
                    for sql in failing:
                        statement = unit.execute(sql).__await__()
                        assert isinstance(next(statement), Held)
                    with pytest.raises(errors.MySQLError):
                        await unit.send()
                    await unit.send(last=True)
                    await unit.execute("INSERT INTO bills (n) VALUES (3)")
        async with store.unit() as unit:
            await unit.execute("INSERT INTO bills (n) VALUES (4)")
        assert await rows(runtime, "SELECT n FROM bills") == [(4,)]


async def test_what_would_end_the_transaction_is_not_sent(url: str, tmp_path: Path) -> None:
    """Neither in a message: it is refused where it is made."""
    async with running(url, tmp_path, Service("billing", tables=TABLES)) as runtime:
        with pytest.raises(DeclarationError, match="would commit"):
            async with runtime.stores["billing"].unit() as unit:
                assert unit.hold()
                next(unit.execute("INSERT INTO bills (n) VALUES (1)").__await__())
                next(unit.execute("TRUNCATE bills").__await__())
        assert await rows(runtime, "SELECT n FROM bills") == []


async def test_a_connection_that_breaks_burns_no_attempt(url: str, tmp_path: Path, messages: list[int]) -> None:
    """The server ends the connection amid a message: the batch is handled again, and takes effect once."""
    billing = Service("billing", tables=TABLES)
    end = {15}

    @billing.on(Ordered)
    async def bill(event: Ordered, tx: Transaction) -> None:
        if event.n in end:
            end.discard(event.n)
            await tx.execute("KILL CONNECTION connection_id()")
        await tx.execute("INSERT INTO bills (n) VALUES (?)", event.n)

    async with running(url, tmp_path, billing) as runtime:
        await runtime.publish("shop", *orders(10))
        await handled(runtime, 10)
        await runtime.publish("shop", *orders(10, 10))
        await handled(runtime, 20)
        assert await rows(runtime, "SELECT n FROM bills ORDER BY n") == [(n,) for n in range(20)]
        assert await rows(runtime, "SELECT * FROM antiphon_attempts") == []
        assert not end
