"""Handlers that wait for the outside world, run in threads, or use SQLAlchemy."""

import asyncio
import logging
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from antiphon import Retry, Service, SyncTransaction, Transaction, seconds
from antiphon.ports import Lease
from antiphon.runtime.attempt import Attempt
from antiphon.runtime.outside import OutsideRunner
from antiphon.runtime.signals import Slots, Solo
from tests.runtime.kit import running
from tests.runtime.test_handling import NO_JITTER, Billed, Ordered, shop

pytestmark = pytest.mark.anyio


async def test_a_handler_that_awaits_the_outside_holds_no_lock(tmp_path: Path) -> None:
    """While it waits, others write; its own writes and its settling commit together afterwards."""
    payment = Service("payment")
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @payment.on(Ordered, retry=NO_JITTER)
    async def charge(event: Ordered, tx: Transaction) -> Billed:
        await tx.fetch_value("SELECT count(*) FROM antiphon_log")
        receipt = await answer
        await tx.execute("CREATE TABLE receipts (receipt TEXT)")
        await tx.execute("INSERT INTO receipts VALUES (?)", receipt)
        return Billed(event.customer, event.n)

    async with running(tmp_path, shop(), payment) as world:
        await world.publish("shop", Ordered("a", 0))
        assert list((await world.statuses("payment.charge")).values()) == ["IN_PROGRESS"]
        async with asyncio.timeout(5):
            await world.publish("shop", Ordered("b", 1))
        answer.set_result("r-1")
        await world.clock.rest()
        assert await world.rows("SELECT receipt FROM receipts") == [("r-1",)]
        assert (await world.rows("SELECT count(*) FROM antiphon_log WHERE type = 'Billed'"))[0][0] >= 1


async def test_outside_calls_run_side_by_side_but_never_two_of_a_key(tmp_path: Path) -> None:
    """Up to its concurrency attempts overlap; events of one key come one after the other, in order."""
    mail = Service("mail")
    running_now: set[str] = set()
    most = 0
    order: list[tuple[str, int]] = []
    gates: dict[tuple[str, int], asyncio.Event] = {(key, n): asyncio.Event() for key in "abcd" for n in range(3)}

    @mail.on(Ordered, retry=NO_JITTER, concurrency=3)
    async def send(event: Ordered) -> None:
        nonlocal most
        assert event.customer not in running_now
        running_now.add(event.customer)
        most = max(most, len(running_now))
        await gates[event.customer, event.n].wait()
        running_now.discard(event.customer)
        order.append((event.customer, event.n))

    async with running(tmp_path, shop(), mail) as world:
        await world.publish("shop", *(Ordered(key, n) for n in range(3) for key in "abcd"))
        for gate in [gates[key, n] for n in range(3) for key in "dcba"]:
            gate.set()
            await world.clock.rest()
        await world.until(lambda: len(order) == 12)
        assert most == 3
        for key in "abcd":
            assert [n for k, n in order if k == key] == [0, 1, 2]


async def test_an_await_after_a_write_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A handler that writes first and awaits then works, and its author is told where."""
    payment = Service("payment")

    @payment.on(Ordered)
    async def charge(event: Ordered, tx: Transaction) -> None:
        await tx.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER)")
        await asyncio.sleep(0)

    with caplog.at_level(logging.WARNING, "antiphon.worker"):
        async with running(tmp_path, shop(), payment) as world:
            await world.publish("shop", Ordered("a", 0), Ordered("b", 1))
            assert set((await world.statuses("payment.charge")).values()) == {"COMPLETED"}
    told = [record.getMessage() for record in caplog.records if "after it has written" in record.getMessage()]
    assert len(told) == 1
    assert "test_outside.py" in told[0]


async def test_an_outside_failure_is_retried_in_order(tmp_path: Path) -> None:
    """A failing outside call backs off and holds back its key only."""
    mail = Service("mail")
    sent: list[tuple[str, int]] = []
    fail = {"a"}

    @mail.on(Ordered, retry=Retry(attempts=5, first=seconds(5), jitter=False), concurrency=2)
    async def send(event: Ordered) -> None:
        await asyncio.sleep(0)
        if event.customer in fail:
            raise ConnectionError("mail server down")
        sent.append((event.customer, event.n))

    async with running(tmp_path, shop(), mail) as world:
        await world.publish("shop", *(Ordered(key, n) for n in range(3) for key in "ab"))
        await world.until(lambda: len(sent) == 3)
        fail.clear()
        await world.until(lambda: len(sent) == 6)
        assert sent == [("b", 0), ("b", 1), ("b", 2), ("a", 0), ("a", 1), ("a", 2)]


async def test_a_plain_function_runs_in_a_thread_with_the_same_guarantees(tmp_path: Path) -> None:
    """A ``def`` handler leaves the loop free and still writes and publishes atomically."""
    reports = Service("reports")
    threads: set[int] = set()
    done = threading.Event()

    @reports.on(Ordered, retry=NO_JITTER)
    def write(event: Ordered, tx: SyncTransaction) -> Billed:
        threads.add(threading.get_ident())
        tx.execute("CREATE TABLE IF NOT EXISTS lines (n INTEGER)")
        tx.execute("INSERT INTO lines VALUES (?)", event.n)
        done.set()
        return Billed(event.customer, event.n)

    async with running(tmp_path, shop(), reports) as world:
        await world.publish("shop", Ordered("a", 7))
        await asyncio.to_thread(done.wait, 5)
        while (await world.rows("SELECT count(*) FROM antiphon_log WHERE type = 'Billed'"))[0][0] == 0:
            await asyncio.to_thread(lambda: None)
        assert await world.rows("SELECT n FROM lines") == [(7,)]
        assert threading.get_ident() not in threads


async def test_waiting_for_others_who_write_is_not_the_handlers_time(tmp_path: Path) -> None:
    """A neighbour keeps the writer for longer than a handler may take, which waits to write: it ends all the same."""
    mail = Service("mail", tables="CREATE TABLE letters (customer TEXT)")
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[None] = loop.create_future()

    @mail.on(Ordered, retry=Retry(attempts=1), timeout=seconds(0.05))
    async def send(event: Ordered, tx: Transaction) -> None:
        await answer
        await tx.execute("INSERT INTO letters VALUES (?)", event.customer)

    async with running(tmp_path, shop(), mail) as world:
        await world.publish("shop", Ordered("a", 0))
        async with world.store.unit():
            stalled = asyncio.Event()
            answer.set_result(None)
            loop.call_later(0.2, stalled.set)
            await stalled.wait()
        await world.clock.rest()
        assert await world.rows("SELECT customer FROM letters") == [("a",)]
        assert await world.rows("SELECT outcome, error_type FROM antiphon_attempts WHERE outcome <> 'completed'") == []


async def test_a_time_out_is_a_failed_attempt(tmp_path: Path) -> None:
    """A handler that does not end within its limit is cancelled and retried."""
    mail = Service("mail")
    calls: list[int] = []

    @mail.on(Ordered, retry=Retry(attempts=1), timeout=seconds(0.05))
    async def send(event: Ordered) -> None:
        calls.append(event.n)
        await asyncio.get_running_loop().create_future()

    async with running(tmp_path, shop(), mail) as world:
        await world.publish("shop", Ordered("a", 0))
        async with asyncio.timeout(10):
            while list((await world.statuses("mail.send")).values()) != ["FAILED"]:
                await asyncio.to_thread(lambda: None)
        assert await world.rows("SELECT error_type FROM antiphon_deliveries") == [("antiphon.errors.HandlerTimeout",)]


async def test_a_stop_releases_what_is_in_flight(tmp_path: Path) -> None:
    """What a stop interrupts is due at once after the restart, with no attempt burnt and nobody suspected."""
    calls: list[int] = []

    def mail() -> Service:
        service = Service("mail")

        @service.on(Ordered, retry=NO_JITTER)
        async def send(event: Ordered) -> None:
            calls.append(event.n)
            if len(calls) == 1:
                await asyncio.get_running_loop().create_future()

        return service

    async with running(tmp_path, shop(), mail()) as world:
        clock = world.clock
        await world.publish("shop", Ordered("a", 0))
        stopping = asyncio.ensure_future(world.runtime.stop(grace_s=0.5))
        await clock.advance(1)
        await stopping
    async with running(tmp_path, shop(), mail(), clock=clock) as world:
        await world.until(lambda: calls == [0, 0], seconds=5)
        assert list((await world.statuses("mail.send")).values()) == ["COMPLETED"]
        assert await world.rows("SELECT outcome FROM antiphon_attempts WHERE outcome = 'crashed'") == []


async def test_what_is_recorded_as_running_keeps_a_suspect_out_from_its_first_moment() -> None:
    """Recorded attempts whose tasks have not begun yet run beside others: nobody runs alone before they have ended."""
    solo, order = Solo(), list[str]()

    class Runner(OutsideRunner):
        async def run(self, lease: Lease, attempt: Attempt, suspended: object = None) -> None:
            order.append("begins")
            await asyncio.sleep(0)
            order.append("ends")

    async def alone() -> None:
        async with solo.alone():
            order.append("alone")

    nothing = cast("Any", SimpleNamespace(spec=None))
    runner = Runner(nothing, nothing, nothing, nothing, nothing, solo, Slots(1))
    async with solo.together():
        suspect = asyncio.ensure_future(alone())
        await asyncio.sleep(0)
        runner.spawn(nothing, nothing, lambda: None)
    await suspect
    await asyncio.gather(*runner.running)
    assert order == ["begins", "ends", "alone"]


async def test_a_sqlalchemy_session_shares_the_transaction(tmp_path: Path) -> None:
    """What a handler does through its AsyncSession commits with its event, or not at all."""
    billing = Service("billing")
    fail = {1}

    @billing.on(Ordered, retry=Retry(attempts=1))
    async def bill(event: Ordered, session: AsyncSession, tx: Transaction) -> Billed:
        await session.execute(text("CREATE TABLE IF NOT EXISTS bills (n INTEGER)"))
        await session.execute(text("INSERT INTO bills VALUES (:n)"), {"n": event.n})
        seen = await tx.fetch_value("SELECT count(*) FROM bills WHERE n = ?", event.n)
        assert seen == 1
        if event.n in fail:
            raise RuntimeError("no")
        return Billed(event.customer, event.n)

    async with running(tmp_path, shop(), billing) as world:
        await world.publish("shop", *(Ordered(f"c{n}", n) for n in range(3)))
        assert await world.rows("SELECT n FROM bills ORDER BY n") == [(0,), (2,)]
        assert list((await world.statuses("billing.bill")).values()) == ["COMPLETED", "FAILED", "COMPLETED"]
