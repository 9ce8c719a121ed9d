"""Crashing a service: what is gone, what stays, and that no code of it runs on."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from antiphon import AntiphonError, App, Event, Service, SyncTransaction, hours, seconds
from antiphon.testing.process import Killed, Process, processes_possible
from tests.testing.shop import OrderPaid, OrderPlaced, Shop

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[True, False], ids=["own-stores", "one-store"])
def shop(request: pytest.FixtureRequest) -> Shop:
    """The shop, with a file for each service and with one for all."""
    return Shop(own_stores=request.param)


async def test_a_service_that_is_down_delays_nobody(shop: Shop) -> None:
    """Its events wait for it; the others work; it goes on when it is started again."""
    async with shop.app.test() as world:
        await world.crash("payment")
        assert (await world.request("POST", "/orders/o-1")).status_code == 202
        await world.advance(hours(1))
        world.assert_not_published(OrderPaid)
        assert "down: payment" in world.timeline()
        with pytest.raises(AntiphonError, match=r"'payment' does not run.*world.restart"):
            await world.publish(OrderPlaced("o-2"), service="payment")
        await world.restart("payment")
        await world.settle()
        assert world.assert_published(OrderPaid) == [OrderPaid("o-1", 100)]
        assert world.rows("stock", "SELECT taken FROM stock") == [(100,)]


async def test_a_crash_before_the_commit_repeats_the_attempt(shop: Shop) -> None:
    """What the handler wrote is gone, its ``finally`` has not run, and after a restart all of it happens once."""
    async with shop.app.test() as world:
        shop.bank.on_charge = lambda: world.crash("payment")
        await world.publish(OrderPlaced("o-1"))
        await world.settle()
        assert shop.log == ["charge begins"]
        assert shop.bank.charged == []
        shop.bank.on_charge = None
        await world.restart("payment")
        await world.settle()
        assert shop.log == ["charge begins", "charge begins", "charge ends", "finally"]
        world.assert_published(OrderPaid)
        assert world.rows("payment", "SELECT order_id FROM receipts") == [("o-1",)]


@pytest.mark.parametrize("after", [False, True])
async def test_a_crash_during_a_handler(shop: Shop, after: bool) -> None:
    """The process dies before the handler's first line or behind its last; nothing of it is kept."""
    async with shop.app.test() as world:
        world.crash_during(shop.charge, after=after)
        await world.publish(OrderPlaced("o-1"))
        await world.settle()
        assert shop.log == (["charge begins", "charge ends", "finally"] if after else [])
        assert world.rows("payment", "SELECT * FROM receipts") == []
        world.assert_not_published(OrderPaid)
        await world.restart("payment")
        await world.settle()
        world.assert_published(OrderPaid)


async def test_an_event_that_kills_its_process_is_set_aside(shop: Shop) -> None:
    """The real quarantine is at work: after some crashes the event is a dead letter, and its service goes on."""
    async with shop.app.test() as world:
        for _ in range(8):
            world.crash_during(shop.charge)
        await world.publish(OrderPlaced("o-1"))
        for _ in range(8):
            await world.advance(seconds(5))
            if "down: payment" in world.timeline():
                await world.restart("payment")
        world.assert_dead_letter(OrderPlaced, reason="process")
        world.assert_not_published(OrderPaid)


async def test_a_transaction_that_is_open_is_rolled_back(shop: Shop) -> None:
    """A kill in the middle of a write transaction leaves the store as it was, and free for others."""
    async with shop.app.test() as world:

        async def half_done() -> None:
            async with world.app.runtime.transaction("payment") as tx:  # type: ignore[union-attr]
                await tx.execute("INSERT INTO receipts VALUES ('half', '')")
                await asyncio.Event().wait()

        doing = asyncio.ensure_future(half_done())
        await world.clock.rest()
        await world.crash("payment")
        doing.cancel()
        await asyncio.gather(doing, return_exceptions=True)
        assert world.rows("payment", "SELECT * FROM receipts") == []
        await world.restart("payment")
        await world.publish(OrderPlaced("o-1"))
        await world.settle()
        world.assert_published(OrderPaid)


async def test_a_request_to_a_process_that_dies_breaks_off() -> None:
    """The client gets no answer, as over a socket; a service that is down is answered for with 503."""
    service, other = Service("shop"), Service("other")

    @other.get("/other")
    async def nothing() -> None:
        return None

    @service.get("/hang")
    async def hang() -> None:
        await world.crash("shop")

    app = App(service, other, name="two")
    async with app.test() as world:
        with pytest.raises(Killed, match="shop was killed"):
            await world.request("GET", "/hang")
        assert (await world.request("GET", "/hang")).status_code == 503
        await world.crash("other")
        with pytest.raises(ConnectionRefusedError):
            await world.request("GET", "/other")
        await world.restart("shop")
        with pytest.raises(AntiphonError, match="'shop' runs"):
            await world.restart("shop")
        with pytest.raises(AntiphonError, match="is no service"):
            await world.restart("nobody")


@pytest.mark.parametrize("after", [False, True])
async def test_a_thread_is_cut_off(after: bool) -> None:
    """A plain function cannot be killed: its thread goes on, but finds itself cut off, and nothing of it is kept."""

    class Asked(Event):
        pass

    service = Service("printer", tables="CREATE TABLE prints (n INTEGER)")

    @service.on(Asked)
    def print_it(asked: Asked, tx: SyncTransaction) -> None:
        tx.execute("INSERT INTO prints VALUES (1)")

    async with App(service, name="printing").test() as world:
        world.crash_during(print_it, after=after)
        await world.publish(Asked())
        await world.settle()
        assert world.rows("printer", "SELECT * FROM prints") == []
        await world.restart("printer")
        await world.settle()
        assert world.rows("printer", "SELECT * FROM prints") == [(1,)]


@asynccontextmanager
async def noted(log: list[str]) -> AsyncIterator[None]:
    """Notes when it is left."""
    try:
        yield
    finally:
        log.append("left")


async def test_no_code_of_a_killed_process_runs() -> None:
    """Neither a cancellation, nor what it waits for, nor the garbage collector makes a killed task go on."""
    log: list[str] = []
    gate = asyncio.Event()

    async def work() -> None:
        async with noted(log):
            try:
                await gate.wait()
                log.append("went on")
            except asyncio.CancelledError:
                log.append("cancelled")
                raise
            finally:
                log.append("finally")

    async def several() -> None:
        await asyncio.gather(work(), asyncio.create_task(work()))

    with processes_possible():
        process = Process("victim")
        task = process.start(several())
        running: Any = asyncio.ensure_future(process.run(work()))
        for _ in range(5):
            await asyncio.sleep(0)
        process.kill()
        process.kill()
        gate.set()
        task.cancel()
        with pytest.raises(Killed):
            await running
        late = process.start(work())
        for _ in range(5):
            await asyncio.sleep(0)
        del running, task, late
        gc.collect()
    await asyncio.get_running_loop().shutdown_asyncgens()
    assert log == []


async def test_cancelling_who_waits_cancels_the_work() -> None:
    """A living process's work ends with the task that has asked for it."""
    log: list[str] = []
    with processes_possible():
        process = Process("alive")

        async def work() -> None:
            async with noted(log):
                await asyncio.Event().wait()

        asking = asyncio.ensure_future(process.run(work()))
        for _ in range(3):
            await asyncio.sleep(0)
        asking.cancel()
        for _ in range(3):
            await asyncio.sleep(0)
    assert log == ["left"]


def test_an_interpreter_ends_quietly_after_a_crash() -> None:
    """At the end of the program too: no ``finally`` of a killed handler runs, and nothing is said."""
    program = """
import asyncio
from tests.testing.shop import OrderPlaced, Shop

async def main():
    shop = Shop()
    async def die():
        try:
            await world.crash("payment")
        finally:
            print("finally")
    shop.bank.on_charge = die
    async with shop.app.test() as world:
        await world.publish(OrderPlaced("o-1"))
        await world.settle()
    print(shop.log)

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-X", "dev", "-W", "error", "-c", program], capture_output=True, text=True)
    assert done.stdout == "['charge begins']\n"
    assert (done.returncode, [line for line in done.stderr.splitlines() if "took" not in line]) == (0, [])
