"""Handlers that misbehave: their event fails, as any other, and nobody else suffers."""

import asyncio
import contextlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession

from antiphon import Retry, Service, SyncTransaction, Transaction, seconds
from antiphon.errors import AntiphonError, DeclarationError, RolledBack
from antiphon.store.sqlite import writer as writers
from tests.runtime.kit import World, running
from tests.runtime.test_handling import NO_JITTER, Billed, Ordered, shop

pytestmark = pytest.mark.anyio

ONCE = Retry(attempts=1)
NOTES = "CREATE TABLE IF NOT EXISTS notes (n INTEGER);"


def notes_service() -> Service:
    """A service with one plain table."""
    service = Service("notes")
    service.tables = NOTES
    return service


async def notes(world: World) -> list[int]:
    """What is committed in it."""
    return [int(row[0]) for row in await world.rows("SELECT n FROM notes ORDER BY n")]


async def outcome(world: World, handler: str) -> list[str]:
    """The statuses of a handler's events, in order."""
    return list((await world.statuses(handler)).values())


@pytest.mark.parametrize(
    "statement",
    [
        "COMMIT",
        "-- a remark\nCOMMIT",
        "/* a remark */ ROLLBACK",
        ";END",
        "pragma synchronous = OFF",
        "SAVEPOINT mine",
        "ATTACH 'other.db' AS other",
        "INSERT OR ROLLBACK INTO notes VALUES (1)",
        "INSERT INTO notes VALUES (1); COMMIT",
        "CREATE TABLE t (n INTEGER UNIQUE ON CONFLICT ROLLBACK)",
    ],
)
async def test_a_statement_that_would_break_the_transaction_is_refused(tmp_path: Path, statement: str) -> None:
    """However it is dressed: its event fails by itself, what the handler wrote before is undone, others are handled."""
    service = notes_service()

    @service.on(Ordered, retry=ONCE)
    async def write(event: Ordered, tx: Transaction) -> None:
        await tx.execute("INSERT INTO notes VALUES (?)", event.n)
        if event.n == 1:
            await tx.execute(statement)

    async with running(tmp_path, shop(), service) as world:
        await world.publish("shop", *(Ordered(f"c{n}", n) for n in range(3)))
        assert await notes(world) == [0, 2]
        assert await outcome(world, "notes.write") == ["COMPLETED", "FAILED", "COMPLETED"]


@pytest.mark.parametrize("swallowed", [False, True])
async def test_a_conflict_that_rolls_everything_back_takes_no_neighbour_with_it(
    tmp_path: Path, swallowed: bool
) -> None:
    """A table may say ON CONFLICT ROLLBACK: the event that conflicts fails, nothing of it is kept, the rest is."""
    service = notes_service()
    service.tables += "CREATE TABLE IF NOT EXISTS once (n INTEGER UNIQUE ON CONFLICT ROLLBACK);"

    @service.on(Ordered, retry=ONCE)
    async def write(event: Ordered, tx: Transaction) -> None:
        await tx.execute("INSERT INTO notes VALUES (?)", event.n)
        with contextlib.suppress(Exception) if swallowed else contextlib.nullcontext():
            await tx.execute("INSERT INTO once VALUES (?)", 7 if event.n in (2, 3) else event.n)
        await tx.execute("INSERT INTO notes VALUES (?)", event.n + 100)

    async with running(tmp_path, shop(), service) as world:
        await world.publish("shop", *(Ordered(f"c{n}", n) for n in range(6)))
        await world.clock.advance(5)
        assert await notes(world) == [0, 1, 2, 4, 5, 100, 101, 102, 104, 105]
        assert await outcome(world, "notes.write") == ["COMPLETED"] * 3 + ["FAILED"] + ["COMPLETED"] * 2


async def test_a_session_cannot_end_the_transaction_either(tmp_path: Path) -> None:
    """SQL through an AsyncSession is held to the same; its own savepoints work."""
    service = notes_service()

    @service.on(Ordered, retry=ONCE)
    async def write(event: Ordered, session: AsyncSession) -> None:
        await session.execute(text("INSERT INTO notes VALUES (:n)"), {"n": event.n})
        with contextlib.suppress(ZeroDivisionError):
            async with session.begin_nested():
                await session.execute(text("INSERT INTO notes VALUES (1000)"))
                raise ZeroDivisionError
        if event.n == 1:
            await session.execute(text("COMMIT"))

    async with running(tmp_path, shop(), service) as world:
        await world.publish("shop", *(Ordered(f"c{n}", n) for n in range(3)))
        assert await notes(world) == [0, 2]
        assert await outcome(world, "notes.write") == ["COMPLETED", "FAILED", "COMPLETED"]


@pytest.mark.parametrize("outside", [False, True])
async def test_a_transaction_is_over_when_its_handler_is(tmp_path: Path, outside: bool) -> None:
    """A task that outlives the handler is told so; it writes into nobody's transaction and keeps no lock."""
    service = notes_service()
    go_on = asyncio.Event()
    strays: list[asyncio.Task[object]] = []

    async def later(tx: Transaction, what: str) -> object:
        await go_on.wait()
        if what == "publish":
            return tx.publish(Billed("a", 1))
        if what == "read":
            return await tx.fetch_all("SELECT * FROM notes")
        return await tx.execute("INSERT INTO notes VALUES (99)")

    @service.on(Ordered, retry=ONCE)
    async def write(event: Ordered, tx: Transaction) -> Billed | None:
        strays.extend(asyncio.ensure_future(later(tx, what)) for what in ("publish", "read", "execute"))
        if outside:
            await asyncio.sleep(0)
        await tx.execute("INSERT INTO notes VALUES (?)", event.n)
        return None

    async with running(tmp_path, shop(), service) as world:
        await world.publish("shop", Ordered("a", 0))
        go_on.set()
        ended = await asyncio.gather(*strays, return_exceptions=True)
        assert [type(error) for error in ended] == [DeclarationError] * 3
        assert "over" in str(ended[0])
        go_on.clear()
        async with asyncio.timeout(5):
            await world.publish("shop", Ordered("a", 1))
        assert await notes(world) == [0, 1]
        go_on.set()


async def test_a_session_is_over_when_its_handler_is(tmp_path: Path) -> None:
    """A session that is used afterwards fails; it does not write into the next event's transaction."""
    service = notes_service()
    kept: list[AsyncSession] = []

    @service.on(Ordered, retry=ONCE)
    async def write(event: Ordered, session: AsyncSession) -> None:
        if kept:
            await kept[0].execute(text("INSERT INTO notes VALUES (99)"))
        kept.append(session)

    async with running(tmp_path, shop(), service) as world:
        await world.publish("shop", Ordered("a", 0), Ordered("b", 1))
        assert await outcome(world, "notes.write") == ["COMPLETED", "FAILED"]
        error = await world.rows("SELECT error_type FROM antiphon_deliveries")
        assert InvalidRequestError.__name__ in str(error[0][0])
        assert await notes(world) == []


async def test_a_thread_that_is_too_late_writes_nothing_and_blocks_nobody(tmp_path: Path) -> None:
    """A ``def`` handler that goes on after its time limit is told that its transaction is over."""
    service = notes_service()
    late, told = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    @service.on(Ordered, retry=ONCE, timeout=seconds(0.05))
    def write(event: Ordered, tx: SyncTransaction) -> None:
        late.wait(10)
        try:
            tx.execute("INSERT INTO notes VALUES (?)", event.n)
        except AntiphonError as error:
            errors.append(error)
        told.set()

    async with running(tmp_path, shop(), service) as world:
        await world.publish("shop", Ordered("a", 0))
        async with asyncio.timeout(10):
            while await outcome(world, "notes.write") != ["FAILED"]:
                await asyncio.to_thread(lambda: None)
        late.set()
        await asyncio.to_thread(told.wait, 10)
        assert [type(error) for error in errors] == [DeclarationError]
        async with asyncio.timeout(5):
            await world.runtime.publish("shop", Ordered("a", 1))
        assert await notes(world) == []


async def test_writes_from_several_tasks_of_a_handler_are_one_transaction(tmp_path: Path) -> None:
    """A handler may gather its statements: they commit with its event, or not at all when it fails."""
    service = notes_service()

    @service.on(Ordered, retry=ONCE)
    async def write(event: Ordered, tx: Transaction) -> None:
        await asyncio.gather(*(tx.execute("INSERT INTO notes VALUES (?)", 10 * event.n + i) for i in range(3)))
        if event.n == 1:
            raise RuntimeError("no")

    async with running(tmp_path, shop(), service) as world:
        async with asyncio.timeout(20):
            await asyncio.gather(*(world.publish("shop", Ordered(f"c{n}", n)) for n in range(3)))
            await world.clock.advance(2)
        assert await notes(world) == [0, 1, 2, 20, 21, 22]
        assert sorted(await outcome(world, "notes.write")) == ["COMPLETED", "COMPLETED", "FAILED"]


@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize("ending", [asyncio.CancelledError, SystemExit, BaseExceptionGroup])
async def test_an_ending_that_is_no_exception_is_a_failed_attempt(
    tmp_path: Path, ending: type[BaseException], outside: bool
) -> None:
    """A cancellation from within, ``sys.exit``: the event is tried again, then set aside; the process lives."""
    service = Service("svc")
    calls: list[int] = []

    @service.on(Ordered, retry=Retry(attempts=2, first=seconds(1), jitter=False))
    async def work(event: Ordered) -> None:
        calls.append(event.n)
        if outside:
            await asyncio.sleep(0)
        if event.n == 1 and ending is BaseExceptionGroup:
            raise BaseExceptionGroup("several", [asyncio.CancelledError(), ValueError()])
        if event.n == 1:
            raise ending()

    async with running(tmp_path, shop(), service) as world:
        await world.publish("shop", *(Ordered(f"c{n}", n) for n in range(3)))
        await world.clock.advance(10)
        assert await outcome(world, "svc.work") == ["COMPLETED", "FAILED", "COMPLETED"]
        assert calls.count(1) == 2
        assert len(world.runtime.workers) == 1


async def test_exit_from_a_thread_is_a_failed_attempt(tmp_path: Path) -> None:
    """The same for a ``def`` handler."""
    service = Service("svc")

    @service.on(Ordered, retry=ONCE)
    def work(event: Ordered) -> None:
        sys.exit(3)

    async with running(tmp_path, shop(), service) as world:
        await world.publish("shop", Ordered("a", 1))
        await world.clock.advance(1)
        assert await outcome(world, "svc.work") == ["FAILED"]


class Unspeakable(Exception):
    """An error that cannot say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize("error", [Unspeakable(), ValueError("lone \ud800 surrogate"), ValueError("nul \0")])
async def test_an_error_that_cannot_be_told_is_no_second_failure(tmp_path: Path, error: Exception) -> None:
    """Whatever its text: the attempts are counted, the handler is shown as paused, dead letters are made."""
    service = Service("svc")

    @service.on(Ordered, retry=Retry(attempts=2, first=seconds(1), jitter=False))
    async def work(event: Ordered) -> None:
        raise error

    async with running(tmp_path, shop(), service) as world:
        await world.publish("shop", *(Ordered(f"c{n}", n) for n in range(8)))
        assert len(await world.rows("SELECT 1 FROM antiphon_handlers WHERE pause_reason IS NOT NULL")) == 1
        for _ in range(3):
            await world.clock.jump(25 * 3600)
            await world.clock.advance(600)
        assert await outcome(world, "svc.work") == ["FAILED"] * 8


async def test_an_await_after_a_write_has_a_time_limit(tmp_path: Path) -> None:
    """It holds the lock while it waits, so least of all may it wait for ever."""
    service = notes_service()

    @service.on(Ordered, retry=ONCE, timeout=seconds(0.05))
    async def write(event: Ordered, tx: Transaction) -> None:
        await tx.execute("INSERT INTO notes VALUES (?)", event.n)
        if event.n == 1:
            await asyncio.get_running_loop().create_future()

    async with running(tmp_path, shop(), service) as world:
        async with asyncio.timeout(10):
            await world.publish("shop", *(Ordered(f"c{n}", n) for n in range(3)))
            while await outcome(world, "notes.write") != ["COMPLETED", "FAILED", "COMPLETED"]:
                await asyncio.to_thread(lambda: None)
        assert await notes(world) == [0, 2]


async def test_a_task_group_that_fails_at_once_is_a_failed_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its cancellation may come while the runtime still commits the batch before it: it is the handler's own."""
    monkeypatch.setattr(writers, "SLOW_COMMIT_SECONDS", -1.0)  # commits take a thread, and so some time
    service = Service("svc")
    calls: list[int] = []

    async def fails() -> None:
        raise ConnectionError("refused")

    @service.on(Ordered, retry=Retry(attempts=2, first=seconds(1), jitter=False))
    async def work(event: Ordered) -> None:
        calls.append(event.n)
        if event.n == 1:
            async with asyncio.TaskGroup() as group:
                group.create_task(fails())
                await asyncio.get_running_loop().create_future()

    async with running(tmp_path, shop(), service) as world:
        await world.publish("shop", *(Ordered(f"c{n}", n) for n in range(3)))
        await world.clock.advance(10)
        assert await outcome(world, "svc.work") == ["COMPLETED", "FAILED", "COMPLETED"]
        assert calls.count(1) == 2


async def test_what_a_handler_returns_is_published_in_order(tmp_path: Path) -> None:
    """A list, a tuple or a generator of events; of a ``def`` handler, generated in its own thread."""
    service = notes_service()

    @service.on(Ordered, retry=ONCE)
    async def work(event: Ordered, tx: Transaction) -> list[Billed] | tuple[Billed, ...]:
        await tx.execute("INSERT INTO notes VALUES (?)", event.n)
        events = [Billed("work", 10 * event.n + i) for i in range(3)]
        return events if event.n % 2 else tuple(events)

    def generated(event: Ordered, tx: SyncTransaction) -> Iterator[Billed]:
        for i in range(3):
            yield Billed(str(tx.fetch_value("SELECT 'plain'")), 10 * event.n + i)

    @service.on(Ordered, retry=ONCE)
    def plain(event: Ordered, tx: SyncTransaction) -> list[Billed]:
        return generated(event, tx)  # type: ignore[return-value]

    async with running(tmp_path, shop(), service) as world:
        await world.publish("shop", Ordered("a", 1), Ordered("a", 2))
        await world.clock.advance(2)
        for handler in ("work", "plain"):
            rows = await world.rows(
                "SELECT json_extract(data, '$.n') FROM antiphon_log WHERE type = 'Billed' AND key = ? ORDER BY seq",
                handler,
            )
            assert [row[0] for row in rows] == [10, 11, 12, 20, 21, 22]


async def test_a_failing_handler_leaves_no_timer(tmp_path: Path) -> None:
    """What it meant to publish later is undone with all the rest; so is what it cancelled."""
    service = Service("svc")
    ids: list[str] = []

    @service.on(Ordered, retry=ONCE)
    async def work(event: Ordered, tx: Transaction) -> Billed | None:
        await tx.publish_later(Billed("a", event.n), delay=seconds(5))
        if ids:
            assert await tx.cancel(ids[0])
        if event.n == 1:
            raise RuntimeError("no")
        return None

    async with running(tmp_path, shop(), service) as world:
        async with world.runtime.transaction("svc") as tx:
            ids.append(await tx.publish_later(Billed("kept", 7), delay=seconds(5)))
        await world.publish("shop", Ordered("a", 1))
        await world.clock.advance(10)
        rows = await world.rows("SELECT key FROM antiphon_log WHERE type = 'Billed'")
        assert rows == [("kept",)]


async def test_handlers_in_threads_do_not_take_the_thread_of_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many wait for the writer, the commit that they wait for finds a thread."""
    monkeypatch.setattr(writers, "SLOW_COMMIT_SECONDS", -1.0)
    service = notes_service()
    many = 48
    together = threading.Barrier(many)

    @service.on(Ordered, retry=ONCE, concurrency=many)
    def write(event: Ordered, tx: SyncTransaction) -> None:
        together.wait(20)
        for _ in range(3):
            tx.execute("INSERT INTO notes VALUES (?)", event.n)

    async with running(tmp_path, shop(), service) as world, asyncio.timeout(30):
        await world.publish("shop", *(Ordered(f"c{n}", n) for n in range(many)))
        while len(await notes(world)) < 3 * many:
            await world.clock.rest()


async def test_rolled_back_is_said_to_who_asks_outside_a_handler(tmp_path: Path) -> None:
    """In a transaction of a route, too, nothing is written once SQLite has rolled back."""
    service = notes_service()
    service.tables += "CREATE TABLE IF NOT EXISTS once (n INTEGER UNIQUE ON CONFLICT ROLLBACK);"
    async with running(tmp_path, service) as world:
        with pytest.raises(RolledBack):
            async with world.runtime.transaction("notes") as tx:
                await tx.execute("INSERT INTO once VALUES (1)")
                await tx.execute("INSERT INTO notes VALUES (1)")
                with contextlib.suppress(Exception):
                    await tx.execute("INSERT INTO once VALUES (1)")
                await tx.execute("INSERT INTO notes VALUES (2)")
        assert await notes(world) == []


async def test_a_type_that_is_handled_no_more_is_an_error(tmp_path: Path) -> None:
    """A retry that waits when the code drops its type is set aside at once, and says why."""

    def service(*types: type) -> Service:
        made = Service("svc")

        async def work(event: Ordered | Billed) -> None:
            raise RuntimeError("later")

        made.on(*types, name="work", retry=NO_JITTER)(work)
        return made

    async with running(tmp_path, shop(), service(Ordered, Billed)) as world:
        clock = world.clock
        await world.publish("shop", Ordered("a", 1))
    async with running(tmp_path, shop(), service(Billed), clock=clock) as world:
        await clock.advance(30)
        assert (await world.rows("SELECT status, reason FROM antiphon_deliveries"))[0][0] == "ERROR"
