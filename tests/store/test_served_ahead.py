"""Batches whose statements travel together, on each server: what each handler gets, what becomes of failures."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from antiphon import Retry, Service, Transaction, seconds
from antiphon.errors import StoreError
from antiphon.ports import Held
from antiphon.runtime import ahead
from antiphon.runtime.runtime import Runtime
from tests.store.mariadb import on_mariadb
from tests.store.postgres import name_of, on_postgres
from tests.store.served import Ordered, Served, handled, rows, running

pytestmark = pytest.mark.anyio

RunningApp = Callable[[Service], AbstractAsyncContextManager[Runtime]]
TABLES = {
    "postgres": "CREATE TABLE IF NOT EXISTS bills (n INTEGER PRIMARY KEY, seen INTEGER, id SERIAL);",
    "mariadb": """CREATE TABLE IF NOT EXISTS bills
                  (n INTEGER NOT NULL UNIQUE, seen INTEGER, id INTEGER PRIMARY KEY AUTO_INCREMENT);""",
}
#: On PostgreSQL with statements that are prepared, and (as behind a pooler) without.
on_each_way = pytest.mark.parametrize(
    ("server", "pooled"),
    [
        pytest.param(on_postgres, False, id="postgres"),
        pytest.param(on_postgres, True, id="postgres-not-prepared"),
        pytest.param(on_mariadb, False, id="mariadb"),
    ],
    indirect=["server"],
)


@pytest.fixture
def pooled() -> bool:
    """Not unless a test says so."""
    return False


@pytest.fixture
def app(server: Served, tmp_path: Path, pooled: bool) -> RunningApp:
    """Runs a service and a shop."""
    name = name_of(tmp_path)
    more = f"?pooler=transaction&options=-csearch_path%3D{name}" if pooled else ""
    return lambda billing: running(server.url + more, name, tmp_path, billing)


@pytest.fixture
def messages(server: Served, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many statements travelled together; every handler is trusted from its first event on."""
    monkeypatch.setattr(ahead, "TRUSTED_AFTER", 0)
    found: list[int] = []
    send = server.unit._send_held

    async def counted(self: Any) -> None:
        found.append(len(self._held))
        await send(self)

    monkeypatch.setattr(server.unit, "_send_held", counted)
    return found


def orders(count: int, first: int = 0) -> list[Ordered]:
    """Orders of as many customers."""
    return [Ordered(f"c{n}", n) for n in range(first, first + count)]


#: A statement that leaves the odd numbers alone, and how many numbers stand for one row in it.
LEFT_ALONE = {
    "that is there": ("INSERT INTO bills (n, seen) VALUES (?, ?) ON CONFLICT (n) DO NOTHING", 2),
    "that does not fit": ("INSERT INTO bills (n, seen) SELECT ?1, ?2 WHERE ?2 % 2 = 0", 1),
}


@on_each_way
@pytest.mark.parametrize("row", LEFT_ALONE)
async def test_each_handler_gets_the_count_of_its_own_statement(
    app: RunningApp, server: Served, messages: list[int], row: str
) -> None:
    """Statements go out together in the log's order, and each handler is told how many rows its own has changed: none
    of a row that it leaves alone."""
    billing = Service("billing", tables=TABLES[server.name])
    changed: dict[int, int] = {}
    sql, to_a_row = LEFT_ALONE[row]

    @billing.on(Ordered)
    async def bill(event: Ordered, tx: Transaction) -> None:
        changed[event.n] = await tx.execute(sql, event.n - event.n % to_a_row, event.n)

    async with app(billing) as runtime:
        await runtime.publish("shop", *orders(10))
        await handled(runtime, 10, server.sleep(0.01))
        await runtime.publish("shop", *orders(16, 10))
        await handled(runtime, 26, server.sleep(0.01))
        assert changed == {n: int(n % 2 == 0) for n in range(26)}
        assert await rows(runtime, "SELECT n, seen FROM bills ORDER BY id") == [(n, n) for n in range(0, 26, 2)]
        assert max(messages) > 1


@on_each_way
async def test_statements_of_different_kinds_travel_together(
    app: RunningApp, server: Served, messages: list[int]
) -> None:
    """A handler's reads and writes see what was written before, each with the answer that is its own."""
    billing = Service("billing", tables=TABLES[server.name])

    @billing.on(Ordered)
    async def bill(event: Ordered, tx: Transaction) -> None:
        found = await tx.fetch_one("SELECT count(*) AS bills FROM bills")
        assert found is not None
        many = await tx.execute_many("INSERT INTO bills (n, seen) VALUES (?, ?)", [(event.n, found["bills"])] * 1)
        assert many == 1
        assert await tx.execute("UPDATE bills SET seen = seen + ? WHERE n <= ?", 100, event.n) == event.n + 1

    async with app(billing) as runtime:
        await runtime.publish("shop", *orders(20))
        await handled(runtime, 20, server.sleep(0.01))
        expected = [(n, n + 100 * (20 - n)) for n in range(20)]
        assert await rows(runtime, "SELECT n, seen FROM bills ORDER BY n") == expected
        assert 2 in messages


@on_each_way
async def test_one_that_fails_leaves_nothing_and_its_neighbours_take_effect_once(
    app: RunningApp, server: Served, messages: list[int]
) -> None:
    """A statement that fails in the middle of a message is its own event's failed attempt, and no other's, though the
    server runs those behind it too."""
    billing = Service("billing", tables=TABLES[server.name])

    @billing.on(Ordered, retry=Retry(attempts=3, first=seconds(300)))
    async def bill(event: Ordered, tx: Transaction) -> None:
        await tx.execute(f"INSERT INTO bills (n, seen) VALUES (?, {server.divided})", event.n, 15 - event.n)

    async with app(billing) as runtime:
        await runtime.publish("shop", *orders(10))
        await handled(runtime, 10, server.sleep(0.01))
        await runtime.publish("shop", *orders(10, 10))
        await handled(runtime, 20, server.sleep(0.01))
        assert await rows(runtime, "SELECT n FROM bills ORDER BY n") == [(n,) for n in range(20) if n != 15]
        assert await rows(runtime, "SELECT number, outcome, error_type FROM antiphon_attempts") == [
            (1, "failed", server.by_zero)
        ]
        assert await rows(runtime, "SELECT handled FROM antiphon_handlers") == [(19,)]
        assert max(messages) > 1


async def test_a_unit_whose_message_failed_is_over(app: RunningApp, server: Served) -> None:
    """Nothing can be done in it any more, nothing of it is kept, and its connection serves the next one."""
    async with app(Service("billing", tables=TABLES[server.name])) as runtime:
        store = runtime.stores["billing"]
        once = "INSERT INTO bills (n) VALUES (1)"
        for failing in ([once, once], [once, server.failing.replace("?", "0")]):
            with pytest.raises(StoreError):
                async with store.unit() as unit:
                    assert unit.hold()
                    for sql in failing:
                        statement = unit.execute(sql).__await__()
                        assert isinstance(next(statement), Held)
                    with pytest.raises(server.wrong):
                        await unit.send()
                    await unit.send(last=True)
                    await unit.execute("INSERT INTO bills (n) VALUES (3)")
        async with store.unit() as unit:
            await unit.execute("INSERT INTO bills (n) VALUES (4)")
        assert await rows(runtime, "SELECT n FROM bills") == [(4,)]


async def test_a_connection_that_breaks_burns_no_attempt(app: RunningApp, server: Served, messages: list[int]) -> None:
    """The server ends the connection amid a message: the batch is handled again, and takes effect once."""
    billing = Service("billing", tables=TABLES[server.name])
    end = {15}

    @billing.on(Ordered)
    async def bill(event: Ordered, tx: Transaction) -> None:
        if event.n in end:
            end.discard(event.n)
            await tx.execute(server.own_end)
        await tx.execute("INSERT INTO bills (n) VALUES (?)", event.n)

    async with app(billing) as runtime:
        await runtime.publish("shop", *orders(10))
        await handled(runtime, 10, server.sleep(0.01))
        await runtime.publish("shop", *orders(10, 10))
        await handled(runtime, 20, server.sleep(0.01))
        assert await rows(runtime, "SELECT n FROM bills ORDER BY n") == [(n,) for n in range(20)]
        assert await rows(runtime, "SELECT * FROM antiphon_attempts") == []
        assert not end
