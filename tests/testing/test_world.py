"""A world: acting, settling, moving time, looking, and what it leaves behind."""

from __future__ import annotations

import asyncio
import gc
import logging
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from antiphon import AntiphonError, App, Event, Service, Transaction, hours, minutes, seconds
from antiphon.errors import DeclarationError
from antiphon.runtime.clock import SystemClock
from antiphon.store.sqlite.desks import open_desks
from antiphon.testing.assertions import WorldFailure
from tests.testing.shop import OrderPaid, OrderPlaced, OrderRefunded, OutOfStock, Shop

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[True, False], ids=["own-stores", "one-store"])
def shop(request: pytest.FixtureRequest) -> Shop:
    """The shop, with a file for each service and with one for all."""
    return Shop(own_stores=request.param)


async def test_an_order_over_http_goes_through_all_services(shop: Shop) -> None:
    """What a request publishes is handled by the services in turn, and the gateway shows the result."""
    async with shop.app.test() as world:
        answer = await world.request("POST", "/orders/o-1")
        assert answer.status_code == 202
        await world.settle()
        assert world.assert_published(OrderPaid) == [OrderPaid("o-1", 100)]
        assert world.rows("stock", "SELECT taken FROM stock") == [(100,)]
        assert (await world.request("GET", "/orders/o-1?x=1")).json() == {"state": "PLACED"}
        assert (await world.request("GET", "/nowhere")).status_code == 404


async def test_a_day_of_retries_takes_a_moment(shop: Shop) -> None:
    """Retries happen at their own virtual times, never early, and end by attempts or age."""
    async with shop.app.test() as world:
        outage = world.fail(shop.charge, times=None, error=ConnectionError("bank away"))
        await world.publish(OrderPlaced("o-1"))
        await world.settle()
        assert outage.failed == 1
        (delivery,) = world.record().deliveries
        assert delivery.due_ms is not None
        due = datetime.fromtimestamp(delivery.due_ms / 1000, UTC)
        await world.advance(due - world.now - seconds(0.001))
        assert outage.failed == 1
        await world.advance(seconds(0.001))
        assert outage.failed == 2
        await world.advance(hours(48))
        world.assert_not_published(OrderPaid)
        (letter,) = world.assert_dead_letter("payment.charge", reason="bank away")
        assert letter.updated_ms - world.record().events[0].time_ms <= hours(24).total_seconds() * 1000
        assert outage.failed == letter.attempts == 6


async def test_what_fails_twice_succeeds_then(shop: Shop) -> None:
    """A fault of two times leaves the third attempt alone; the effect is there once."""
    async with shop.app.test() as world:
        world.fail("payment.charge", times=2)
        await world.publish(OrderPlaced("o-1"))
        await world.advance(hours(24))
        world.assert_published(OrderPaid)
        world.assert_no_dead_letters()
        assert shop.bank.charged == ["o-1"]


async def test_a_failure_at_the_end_undoes_the_work(shop: Shop) -> None:
    """With ``after`` the handler's own code has run, and nothing of it is kept."""
    async with shop.app.test() as world:
        world.fail(shop.charge, after=True)
        await world.publish(OrderPlaced("o-1"))
        await world.settle()
        assert shop.log == ["charge begins", "charge ends", "finally"]
        assert world.rows("payment", "SELECT * FROM receipts") == []
        world.assert_not_published(OrderPaid)
        await world.advance(hours(1))
        assert world.rows("payment", "SELECT order_id FROM receipts") == [("o-1",)]


async def test_a_peer_fails_and_comes_back(shop: Shop) -> None:
    """What a handler calls fails so many times, or until it is ended; afterwards it is as it was."""
    before = shop.bank.charge
    async with shop.app.test() as world:
        outage = world.fail_peer(shop.bank, "charge", times=None, error=TimeoutError("no answer"))
        await world.publish(OrderPlaced("o-1"))
        await world.advance(hours(1))
        world.assert_not_published(OrderPaid)
        outage.end()
        await world.advance(hours(12))
        world.assert_published(OrderPaid)
        assert outage.calls == outage.failed + 1 > 2
    assert shop.bank.charge == before
    assert "charge" not in vars(shop.bank)


@pytest.mark.parametrize("kind", ["function", "method", "static", "class"])
async def test_every_sort_of_callable_can_fail(shop: Shop, kind: str) -> None:
    """Functions of modules, methods, static and class methods: patched, called through, restored."""

    class Peer:
        def method(self) -> str:
            return "method"

        @staticmethod
        def static() -> str:
            return "static"

        @classmethod
        def cls(cls) -> str:
            return cls.__name__

    import json

    choices: dict[str, tuple[Any, str, Callable[[], str], str]] = {
        "function": (json, "dumps", lambda: json.dumps(1), "1"),
        "method": (Peer, "method", lambda: Peer().method(), "method"),
        "static": (Peer, "static", lambda: Peer().static(), "static"),
        "class": (Peer, "cls", lambda: Peer().cls(), "Peer"),
    }
    owner, name, call, wanted = choices[kind]
    stored = vars(owner)[name]
    async with shop.app.test() as world:
        world.fail_peer(owner, name)
        with pytest.raises(ConnectionError, match="on purpose"):
            call()
        assert call() == wanted
    assert vars(owner)[name] is stored


async def test_compensation_is_seen(shop: Shop) -> None:
    """The undoing follows from the failure, and from the step that it undoes, in order."""
    async with shop.app.test() as world:
        await world.request("POST", "/orders/o-1")
        await world.publish(OrderPlaced("o-2", 5_000), service="orders")
        await world.settle()
        world.assert_compensated(OutOfStock, by=OrderRefunded)
        world.assert_compensated(OutOfStock, by=shop.refund)
        world.assert_compensated(OrderPaid, by=[OrderRefunded, "orders.cancel"], where=lambda paid: paid.cents > 1_000)


async def test_time_begins_when_it_is_told(shop: Shop) -> None:
    """``start`` is the first moment; without a zone it is refused."""
    start = datetime(2024, 2, 29, 12, tzinfo=UTC)
    async with shop.app.test(start=start) as world:
        assert world.now == start
        await world.advance(seconds(1.5))
        assert world.now.isoformat() == "2024-02-29T12:00:01.500000+00:00"
        assert repr(world) == "<World of app 'shop' at 2024-02-29T12:00:01.500000+00:00>"
    with pytest.raises(DeclarationError, match="zone"):
        shop.app.test(start=datetime(2024, 1, 1))


async def test_a_seed_repeats_a_run() -> None:
    """The same seed gives the same ids, jitter and timeline; another seed others."""

    async def run(seed: int) -> str:
        shop = Shop()
        async with shop.app.test(seed=seed) as world:
            world.fail(shop.charge, times=2)
            for number in range(3):
                await world.publish(OrderPlaced(f"o-{number}"))
            await world.advance(hours(24))
            return world.timeline()

    assert await run(1) == await run(1)
    assert await run(1) != await run(2)


async def test_the_databases_are_removed_or_kept(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing stays behind, unless a directory is named: there it is, for the command line to look into."""
    async with shop.app.test() as world:
        folder = world.data
        assert list(folder.glob("*.db"))
    assert not folder.exists()
    monkeypatch.setattr("antiphon.testing.stage._RAM_DISK", Path("/nowhere"))
    async with shop.app.test() as world:
        assert world.data.parent == Path(tempfile.gettempdir())
    async with shop.app.test(data=tmp_path / "kept") as world:
        await world.publish(OrderPlaced("o-1"))
        await world.settle()
    async with open_desks(tmp_path / "kept", SystemClock()) as desks:
        assert "OrderPaid" in {event.type for desk in desks for event in await desk.tail()}
    with pytest.raises(AntiphonError, match="a test has left databases here"):
        await shop.app.test(data=tmp_path / "kept").__aenter__()


async def test_the_app_publishes_from_anywhere(shop: Shop) -> None:
    """Code that has the app in its hand publishes as in production, and is told when nothing runs."""
    async with shop.app.test() as world:
        await shop.app.publish(OrderPlaced("o-1"), delay=minutes(1))
        with pytest.raises(AntiphonError, match="runs in this process already"):
            await shop.app.test().__aenter__()
        await world.settle()
        world.assert_not_published(OrderPlaced)
        await world.advance(minutes(1))
        world.assert_published(OrderPaid)
        with pytest.raises(AntiphonError, match="service 'nobody' does not run"):
            await world.publish(OrderPlaced("o-2"), service="nobody")
    with pytest.raises(AntiphonError, match="does not run in this process"):
        await shop.app.publish(OrderPlaced("o-3"))


async def test_what_is_awaited_outside_is_waited_for(shop: Shop) -> None:
    """Settling gives a handler that waits for something real its real time."""

    async def slow() -> None:
        await asyncio.get_running_loop().run_in_executor(None, lambda: sum(range(300_000)))

    shop.bank.on_charge = slow
    async with shop.app.test() as world:
        await world.publish(OrderPlaced("o-1"))
        await world.settle()
        world.assert_published(OrderPaid)


async def test_what_never_ends_is_named(shop: Shop) -> None:
    """Settling loses its patience with a handler that hangs, and says which; the world still ends."""
    shop.bank.on_charge = asyncio.Event().wait
    async with shop.app.test() as world:
        await world.publish(OrderPlaced("o-1"))
        with pytest.raises(WorldFailure, match=r"payment.charge still at work after 0.05 real seconds\n\ntimeline"):
            await world.settle(patience=seconds(0.05))


async def test_what_runs_in_a_circle_is_said(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that never waits for anything cannot be settled: that is a failure, not a hang."""
    monkeypatch.setattr("antiphon.testing.clock._UNREST_S", 0.05)

    async def circle() -> None:
        while True:  # noqa: ASYNC110  it is what must not be waited for
            await asyncio.sleep(0)

    async with shop.app.test() as world:
        running = asyncio.ensure_future(circle())
        with pytest.raises(WorldFailure, match=r"no rest after 0.05 real seconds.*\n\ntimeline"):
            await world.settle()
        running.cancel()


async def test_blocking_handlers_and_schedules(caplog: pytest.LogCaptureFixture) -> None:
    """Plain functions run in real threads; schedules tick in virtual time."""

    class Counted(Event):
        n: int

    service = Service("counter", tables="CREATE TABLE counts (n INTEGER)")
    seen = []

    @service.on(Counted)
    def count(counted: Counted) -> None:
        seen.append(counted.n)

    @service.cron("0 3 * * *")
    async def nightly(tx: Transaction) -> Counted:
        n = await tx.fetch_value("INSERT INTO counts SELECT count(*) FROM counts RETURNING n")
        return Counted(n)

    async with App(service, name="counter").test() as world:
        world.fail(count)
        await world.advance(hours(24 * 7))
        world.assert_published(Counted, 7)
    assert seen == list(range(7))
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_nothing_is_left_behind(shop: Shop) -> None:
    """After a world the loop has no task and no factory of its."""
    before = asyncio.all_tasks()
    async with shop.app.test() as world:
        await world.request("POST", "/orders/o-1")
        await world.settle()
        await world.crash("payment")
    gc.collect()
    assert asyncio.all_tasks() == before
    assert asyncio.get_running_loop().get_task_factory() is None


async def test_an_error_in_the_test_carries_the_timeline(shop: Shop) -> None:
    """Any exception that leaves the block has the timeline as a note, once."""
    with pytest.raises(ZeroDivisionError) as caught:
        async with shop.app.test() as world:
            await world.publish(OrderPlaced("o-1"))
            await world.settle()
            raise ZeroDivisionError
    (note,) = caught.value.__notes__
    assert "OrderPaid [o-1] by payment" in note
    with pytest.raises(WorldFailure) as failed:
        async with shop.app.test() as world:
            world.assert_published(OrderPaid)
    assert not hasattr(failed.value, "__notes__")


async def test_a_loop_s_own_task_factory_is_kept(shop: Shop) -> None:
    """A task factory that somebody else has set makes the tasks, and is there again afterwards."""
    made: list[Any] = []

    def factory(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        made.append(coroutine)
        return asyncio.Task(coroutine, loop=loop, **options)

    loop = asyncio.get_running_loop()
    loop.set_task_factory(factory)
    try:
        async with shop.app.test(), Shop().app.test():
            pass
        assert loop.get_task_factory() is factory
        assert made
    finally:
        loop.set_task_factory(None)
