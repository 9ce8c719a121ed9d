"""Batches in which nothing goes wrong: handlers that start ahead of the answers, and what happens when one does not
do as it is expected to. SQLite's units hold their statements here, as a server's do."""

import asyncio
import sqlite3
from contextvars import ContextVar
from pathlib import Path

import pytest

from antiphon import Event, Reject, Retry, Service, Transaction, seconds
from antiphon.ports import Held
from antiphon.runtime import ahead
from antiphon.store.sqlite.store import SqliteStore
from tests.runtime.holding import HoldingUnit, hold_statements
from tests.runtime.kit import World, running
from tests.runtime.test_model import live

pytestmark = pytest.mark.anyio

TABLES = "CREATE TABLE IF NOT EXISTS bills (id INTEGER PRIMARY KEY, n INTEGER UNIQUE, seen INTEGER);"
SOON = Retry(attempts=3, first=seconds(10), jitter=False)
CALLS_TO_KNOW = ahead._CALLS_TO_KNOW


class Ordered(Event, key="customer"):
    customer: str | None
    n: int


class Billed(Event, key="customer"):
    customer: str | None
    n: int


@pytest.fixture(autouse=True)
def holding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every handler is trusted from its first event on, and SQLite answers late."""
    hold_statements(monkeypatch)


def messages() -> list[int]:
    """How many statements travelled together, since the last look."""
    found = list(HoldingUnit.messages)
    HoldingUnit.messages.clear()
    return found


def orders(count: int, first: int = 0, keys: int = 1000) -> list[Ordered]:
    """Orders of as many customers."""
    return [Ordered(f"c{n % keys}", n) for n in range(first, first + count)]


async def failed_attempts(world: World) -> list[tuple[int, str]]:
    """The numbers and outcomes of attempts that did not succeed."""
    found = await world.rows("SELECT number, outcome FROM antiphon_attempts WHERE outcome <> 'completed'")
    return [(number, outcome) for number, outcome in found]


async def test_statements_of_different_handlers_travel_together_in_the_order_of_the_log(tmp_path: Path) -> None:
    """Once it is known how many statements a handler makes, the last ones of a batch go out as one message; rows and
    follow-ups are in the log's order."""
    shop, billing = Service("shop"), Service("billing", tables=TABLES)

    @billing.on(Ordered)
    async def bill(event: Ordered, tx: Transaction) -> Billed:
        assert await tx.execute("INSERT INTO bills (n) VALUES (?)", event.n) == 1
        return Billed(event.customer, event.n)

    async with running(tmp_path, shop, billing) as world:
        await world.publish("shop", *orders(CALLS_TO_KNOW))
        assert messages() == [1] * CALLS_TO_KNOW
        await world.publish("shop", *orders(16, CALLS_TO_KNOW))
        assert messages() == [16]
        count = CALLS_TO_KNOW + 16
        assert await world.rows("SELECT n FROM bills ORDER BY id") == [(n,) for n in range(count)]
        billed = await world.rows(
            "SELECT json_extract(data, '$.n') FROM antiphon_log WHERE type = 'Billed' ORDER BY seq"
        )
        assert billed == [(n,) for n in range(count)]


async def test_handlers_see_what_those_before_them_wrote_and_nothing_of_those_after(tmp_path: Path) -> None:
    """A handler that reads, and then writes what it has read, finds the same as if it ran alone."""
    shop, billing = Service("shop"), Service("billing", tables=TABLES)

    @billing.on(Ordered)
    async def bill(event: Ordered, tx: Transaction) -> None:
        seen = await tx.fetch_value("SELECT count(*) FROM bills")
        await tx.execute("INSERT INTO bills (n, seen) VALUES (?, ?)", event.n, seen)

    async with running(tmp_path, shop, billing) as world:
        await world.publish("shop", *orders(40))
        assert await world.rows("SELECT seen FROM bills ORDER BY n") == [(n,) for n in range(40)]
        messages()
        await world.publish("shop", *orders(10, 40))
        assert messages() == [1, *[2] * 9, 1]


async def test_a_handler_that_makes_more_statements_than_it_used_to_is_still_alone_with_them(tmp_path: Path) -> None:
    """Who goes on after what should have been its last statement, when others have sent theirs, has the batch undone
    and handled one by one: no statement of another's comes in between."""
    shop, billing = Service("shop"), Service("billing", tables=TABLES)
    calls: list[int] = []

    @billing.on(Ordered)
    async def bill(event: Ordered, tx: Transaction) -> None:
        calls.append(event.n)
        await tx.execute("INSERT INTO bills (n) VALUES (?)", event.n)
        if event.n == 25:
            seen = await tx.fetch_value("SELECT max(n) FROM bills")
            await tx.execute("UPDATE bills SET seen = ? WHERE n = ?", seen, event.n)

    async with running(tmp_path, shop, billing) as world:
        await world.publish("shop", *orders(20))
        await world.publish("shop", *orders(20, 20))
        assert await world.rows("SELECT n, seen FROM bills WHERE seen IS NOT NULL") == [(25, 25)]
        assert await world.rows("SELECT count(*) FROM bills") == [(40,)]
        assert calls.count(25) == 2
        assert set((await world.statuses("billing.bill")).values()) == {"COMPLETED"}


@pytest.mark.parametrize("how", ["raise", "statement", "reject", "annotation", "cancel"])
async def test_a_failure_comes_out_as_it_would_event_by_event(tmp_path: Path, how: str) -> None:
    """One event of a batch fails: its neighbours take effect once, it has one failed attempt and no row, and what
    comes after it of its key waits."""
    shop, billing = Service("shop"), Service("billing", tables=TABLES)

    @billing.on(Ordered, retry=SOON)
    async def bill(event: Ordered, tx: Transaction) -> Billed:
        await tx.execute("INSERT INTO bills (n) VALUES (?)", event.n)
        if event.n == 25:
            if how == "raise":
                raise RuntimeError("not yet")
            if how == "statement":
                await tx.execute("INSERT INTO bills (n) VALUES (?)", 25)
            if how == "reject":
                raise Reject("never")
            if how == "annotation":
                tx.publish(Ordered(None, 0))
            if how == "cancel":
                raise asyncio.CancelledError
        return Billed(event.customer, event.n)

    async with running(tmp_path, shop, billing) as world:
        await world.publish("shop", *orders(20))
        await world.publish("shop", *orders(10, 20), Ordered("c25", 99), Ordered("c1", 100))
        dead = how in ("reject", "annotation")
        waiting = [] if dead else [(99,)]
        expected = [(n,) for n in [*range(20), *range(20, 25), *range(26, 30), 99, 100] if (n,) not in waiting]
        assert await world.rows("SELECT n FROM bills ORDER BY n") == expected
        assert await world.rows("SELECT count(*) FROM antiphon_log WHERE type = 'Billed'") == [(len(expected),)]
        assert await world.rows("SELECT number, outcome FROM antiphon_attempts WHERE outcome <> 'completed'") == [
            (1, "failed")
        ]
        status = "ERROR" if dead else "RETRY"
        assert list((await world.statuses("billing.bill")).values()).count(status) == 1
        assert await world.rows("SELECT failed_invocations FROM antiphon_handlers") == [(1,)]


async def test_a_failure_that_the_handler_expects_is_raised_in_its_own_place(tmp_path: Path) -> None:
    """A statement that fails is raised to the handler that made it, which may go on without it."""
    shop, billing = Service("shop"), Service("billing", tables=TABLES)

    @billing.on(Ordered)
    async def bill(event: Ordered, tx: Transaction) -> None:
        try:
            await tx.execute("INSERT INTO bills (n) VALUES (?)", event.n // 2)
        except sqlite3.IntegrityError:
            await tx.execute("UPDATE bills SET seen = ? WHERE n = ?", event.n, event.n // 2)

    async with running(tmp_path, shop, billing) as world:
        await world.publish("shop", *orders(40))
        assert await world.rows("SELECT n, seen FROM bills ORDER BY n") == [(n, 2 * n + 1) for n in range(20)]


async def test_no_handler_starts_beside_an_earlier_event_of_its_key(tmp_path: Path) -> None:
    """An event waits until the one before it of its key has ended, also with what it does in the process."""
    shop, billing = Service("shop"), Service("billing", tables=TABLES)
    under_way: set[str | None] = set()

    @billing.on(Ordered)
    async def bill(event: Ordered, tx: Transaction) -> None:
        assert event.customer not in under_way
        under_way.add(event.customer)
        await tx.execute("INSERT INTO bills (n) VALUES (?)", event.n)
        under_way.discard(event.customer)

    async with running(tmp_path, shop, billing) as world:
        await world.publish("shop", *orders(20))
        messages()
        await world.publish("shop", *orders(20, 20, keys=4))
        assert messages() == [4] * 5
        assert set((await world.statuses("billing.bill")).values()) == {"COMPLETED"}


async def test_a_handler_that_waits_for_the_outside_leaves_the_batch(tmp_path: Path) -> None:
    """One that awaits something else before it has written is called once; those before it have taken effect
    meanwhile, and those after it come later."""
    shop, billing = Service("shop"), Service("billing", tables=TABLES)
    outside = asyncio.Event()
    calls: list[int] = []

    @billing.on(Ordered)
    async def bill(event: Ordered, tx: Transaction) -> None:
        calls.append(event.n)
        if event.n == 25:
            async with asyncio.timeout(1000):
                await outside.wait()
        await tx.execute("INSERT INTO bills (n) VALUES (?)", event.n)

    async with running(tmp_path, shop, billing) as world:
        await world.publish("shop", *orders(20))
        await world.publish("shop", *orders(20, 20))
        assert await world.rows("SELECT n FROM bills ORDER BY n") == [(n,) for n in range(25)]
        outside.set()
        await world.clock.rest()
        assert await world.rows("SELECT n FROM bills ORDER BY n") == [(n,) for n in range(40)]
        assert sorted(calls) == list(range(40))


async def test_a_handler_may_use_tasks_of_its_own(tmp_path: Path) -> None:
    """Statements that a handler has its own tasks make are answered, and take effect once."""
    shop, billing = Service("shop"), Service("billing", tables=TABLES)

    @billing.on(Ordered)
    async def bill(event: Ordered, tx: Transaction) -> None:
        await tx.execute("INSERT INTO bills (n) VALUES (?)", event.n)
        if event.n % 10 == 5:
            update = "UPDATE bills SET seen = coalesce(seen, 0) + 1 WHERE n = ?"
            statements = (tx.execute(update, event.n) for _ in range(2))
            await asyncio.gather(*statements, return_exceptions=True)  # the first time, the call is given up

    async with running(tmp_path, shop, billing) as world:
        await world.publish("shop", *orders(40))
        assert await world.rows("SELECT n, seen FROM bills WHERE seen > 0 ORDER BY n") == [
            (n, 2) for n in (5, 15, 25, 35)
        ]
        assert await world.rows("SELECT count(*) FROM bills") == [(40,)]


async def test_a_handler_that_waits_after_it_has_written_keeps_its_place(tmp_path: Path) -> None:
    """One that awaits something else after it has written ends in its batch, once; then its handler is trusted no
    more."""
    shop, billing = Service("shop"), Service("billing", tables=TABLES)
    calls: list[int] = []

    @billing.on(Ordered)
    async def bill(event: Ordered, tx: Transaction) -> None:
        calls.append(event.n)
        await tx.execute("INSERT INTO bills (n) VALUES (?)", event.n)
        if event.n == 19:
            await asyncio.sleep(0)

    async with running(tmp_path, shop, billing) as world:
        await world.publish("shop", *orders(20))
        await world.publish("shop", *orders(20, 20))
        assert calls == list(range(40))
        assert await world.rows("SELECT n FROM bills ORDER BY id") == [(n,) for n in range(40)]
        assert sum(messages()) == 20


async def test_those_under_way_do_not_see_each_others_context(tmp_path: Path) -> None:
    """What a handler sets in a context variable is its own, whoever runs in between."""
    shop, billing = Service("shop"), Service("billing", tables=TABLES)
    current: ContextVar[int] = ContextVar("current")

    @billing.on(Ordered)
    async def bill(event: Ordered, tx: Transaction) -> None:
        token = current.set(event.n)
        await tx.execute("INSERT INTO bills (n) VALUES (?)", event.n)
        assert current.get() == event.n
        current.reset(token)

    async with running(tmp_path, shop, billing) as world:
        await world.publish("shop", *orders(40))
        assert set((await world.statuses("billing.bill")).values()) == {"COMPLETED"}


async def test_a_time_limit_of_the_handlers_own_is_its_own_failure(tmp_path: Path) -> None:
    """A time-out that a handler has set for a statement cancels nothing but the handler."""
    shop, billing = Service("shop"), Service("billing", tables=TABLES)
    late = {25}

    @billing.on(Ordered, retry=SOON)
    async def bill(event: Ordered, tx: Transaction) -> None:
        async with asyncio.timeout(0 if event.n in late else 100):
            await tx.execute("INSERT INTO bills (n) VALUES (?)", event.n)
            if event.n in late:
                await asyncio.sleep(0)

    async with running(tmp_path, shop, billing) as world:
        await world.publish("shop", *orders(20))
        await world.publish("shop", *orders(20, 20))
        assert await world.rows("SELECT n FROM bills ORDER BY n") == [(n,) for n in range(40) if n != 25]
        assert await world.rows("SELECT number, outcome FROM antiphon_attempts WHERE outcome <> 'completed'") == [
            (1, "failed")
        ]
        late.clear()
        await world.clock.advance(30)
        assert await world.rows("SELECT n FROM bills WHERE n = 25") == [(25,)]


async def test_slow_answers_make_for_small_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as a message is answered late, half as many travel in the next one; then there are more again."""
    shop, billing = Service("shop"), Service("billing", tables=TABLES)
    each_ms = 20
    monkeypatch.setattr(SqliteStore, "batch_ms", 200)
    monkeypatch.setattr(ahead, "_LOOK_AT_CLOCK_EVERY", 1_000)
    send = HoldingUnit._run_held

    @billing.on(Ordered)
    async def bill(event: Ordered, tx: Transaction) -> None:
        await tx.execute("INSERT INTO bills (n) VALUES (?)", event.n)

    async with running(tmp_path, shop, billing) as world:
        await world.publish("shop", *orders(20))
        messages()

        async def slowly(self: HoldingUnit, held: Held) -> object:
            if "INSERT INTO bills" in held.sql:
                world.clock._elapsed_ms += each_ms
            return await send(self, held)

        monkeypatch.setattr(HoldingUnit, "_run_held", slowly)
        await world.publish("shop", *orders(60, 20))
        slow = messages()
        each_ms = 0
        await world.publish("shop", *orders(60, 80))
        quick = messages()
        assert slow[0] == 16
        assert max(slow[1:]) <= 8
        assert max(quick) >= 16
        assert await world.rows("SELECT count(*) FROM bills") == [(140,)]


async def test_trust_is_earned_by_success_and_lost_by_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new handler's batches, and those after a failure, have savepoints until enough events have succeeded."""
    monkeypatch.setattr(ahead, "TRUSTED_AFTER", 30)
    shop, billing = Service("shop"), Service("billing", tables=TABLES)

    @billing.on(Ordered, retry=Retry(attempts=1))
    async def bill(event: Ordered, tx: Transaction) -> None:
        await tx.execute("INSERT INTO bills (n) VALUES (?)", event.n)
        if event.n == 35:
            raise RuntimeError("no")

    async with running(tmp_path, shop, billing) as world:
        held = []
        for first in range(0, 80, 10):
            await world.publish("shop", *orders(10, first))
            held.append(bool(messages()))
        assert held == [False, False, False, True, False, False, False, True]
        assert await world.rows("SELECT count(*) FROM bills") == [(79,)]


@pytest.mark.parametrize(
    "seed", [*range(200, 204), *(pytest.param(n, marks=pytest.mark.soak) for n in range(204, 240))]
)
async def test_a_random_life_ahead(tmp_path: Path, seed: int) -> None:
    """With every batch tried without savepoints first, each event still ends once, in order."""
    await live(tmp_path, seed, steps=60)
