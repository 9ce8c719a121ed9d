"""Handling events: transactions, order, retries, dead letters."""

from datetime import timedelta
from pathlib import Path

import pytest

from antiphon import Delivery, Event, Reject, Retry, Service, Transaction, hours, seconds
from antiphon.errors import StoreError
from tests.runtime.kit import running

pytestmark = pytest.mark.anyio

NO_JITTER = Retry(attempts=3, first=seconds(10), jitter=False)


class Ordered(Event, key="customer"):
    customer: str
    n: int


class Billed(Event, key="customer"):
    customer: str
    n: int


def shop() -> Service:
    """A producer."""
    return Service("shop")


async def test_effects_publications_and_settling_commit_together(tmp_path: Path) -> None:
    """A handler's row, its follow-up event and its cursor are there after one commit; a failed one leaves nothing."""
    billing = Service("billing")
    billed: list[int] = []

    @billing.on(Ordered, retry=NO_JITTER)
    async def bill(event: Ordered, tx: Transaction) -> Billed:
        await tx.execute("CREATE TABLE IF NOT EXISTS bills (n INTEGER)")
        await tx.execute("INSERT INTO bills VALUES (?)", event.n)
        if event.n == 2:
            raise RuntimeError("no")
        return Billed(event.customer, event.n)

    @billing.on(Billed)
    async def note(event: Billed) -> None:
        billed.append(event.n)

    async with running(tmp_path, shop(), billing) as world:
        await world.publish("shop", *(Ordered(f"c{n}", n) for n in range(5)))
        assert await world.rows("SELECT n FROM bills ORDER BY n") == [(0,), (1,), (3,), (4,)]
        assert sorted(billed) == [0, 1, 3, 4]
        statuses = list((await world.statuses("billing.bill")).values())
        assert statuses == ["COMPLETED", "COMPLETED", "RETRY", "COMPLETED", "COMPLETED"]


async def test_order_by_key_holds_through_retries(tmp_path: Path) -> None:
    """Later events of a failing key wait for it, in order; other keys go on."""
    billing = Service("billing")
    handled: list[tuple[str, int]] = []
    failing = {("a", 1)}

    @billing.on(Ordered, retry=Retry(attempts=9, first=seconds(10), jitter=False))
    async def bill(event: Ordered) -> None:
        if (event.customer, event.n) in failing:
            raise RuntimeError("not yet")
        handled.append((event.customer, event.n))

    async with running(tmp_path, shop(), billing) as world:
        await world.publish("shop", *(Ordered(key, n) for n in range(4) for key in "ab"))
        assert handled == [("a", 0), ("b", 0), ("b", 1), ("b", 2), ("b", 3)]
        statuses = [status for status in (await world.statuses("billing.bill")).values() if status != "COMPLETED"]
        assert sorted(statuses) == ["RETRY", "UNPROCESSED", "UNPROCESSED"]
        await world.publish("shop", Ordered("a", 4), Ordered("b", 4))
        failing.clear()
        await world.until(lambda: ("a", 4) in handled)
        assert [n for key, n in handled if key == "a"] == [0, 1, 2, 3, 4]
        assert set((await world.statuses("billing.bill")).values()) == {"COMPLETED"}


async def test_attempts_used_up_make_a_dead_letter_and_the_key_goes_on(tmp_path: Path) -> None:
    """After its last attempt an event is FAILED with its attempts and traceback; what waited behind it runs."""
    billing = Service("billing")
    tries: list[int] = []

    @billing.on(Ordered, retry=NO_JITTER)
    async def bill(event: Ordered, delivery: Delivery) -> None:
        if event.n == 0:
            tries.append(delivery.attempt)
            raise ValueError(f"bad {event.n}")

    async with running(tmp_path, shop(), billing) as world:
        await world.publish("shop", Ordered("a", 0), Ordered("a", 1))
        await world.until(lambda: len(tries) == 3)
        assert tries == [1, 2, 3]
        assert list((await world.statuses("billing.bill")).values()) == ["FAILED", "COMPLETED"]
        dead = await world.rows("SELECT error_type, message, attempts, reason FROM antiphon_deliveries")
        assert dead == [("ValueError", "bad 0", 3, dead[0][3])]
        assert "3 attempts" in str(dead[0][3])
        attempts = await world.rows("SELECT number, outcome FROM antiphon_attempts WHERE seq = 1 ORDER BY id")
        assert attempts == [(1, "failed"), (2, "failed"), (3, "failed")]


async def test_a_refused_event_is_an_error_at_once(tmp_path: Path) -> None:
    """Reject ends in ERROR after one attempt."""
    billing = Service("billing")

    @billing.on(Ordered)
    async def bill(event: Ordered) -> None:
        raise Reject("cards of that kind are not taken")

    async with running(tmp_path, shop(), billing) as world:
        await world.publish("shop", Ordered("a", 0))
        assert list((await world.statuses("billing.bill")).values()) == ["ERROR"]
        assert await world.rows("SELECT failed_invocations FROM antiphon_handlers") == [(1,)]


async def test_a_publication_outside_the_annotation_is_an_error(tmp_path: Path) -> None:
    """What the return annotation does not name cannot be published; nothing of the attempt is kept."""
    billing = Service("billing")

    @billing.on(Ordered)
    async def bill(event: Ordered, tx: Transaction) -> None:
        tx.publish(Billed(event.customer, event.n))

    async with running(tmp_path, shop(), billing) as world:
        await world.publish("shop", Ordered("a", 0))
        assert list((await world.statuses("billing.bill")).values()) == ["ERROR"]
        assert await world.rows("SELECT count(*) FROM antiphon_log WHERE type = 'Billed'") == [(0,)]


async def test_retries_survive_a_restart(tmp_path: Path) -> None:
    """A waiting retry is there after a restart, at its time, with its number of attempt."""
    tries: list[int] = []
    clock_times: list[int] = []

    def billing() -> Service:
        service = Service("billing")

        @service.on(Ordered, retry=Retry(attempts=3, first=hours(1), cap=hours(2), jitter=False))
        async def bill(event: Ordered, delivery: Delivery) -> None:
            tries.append(delivery.attempt)
            if delivery.attempt < 2:
                raise RuntimeError("later")

        return service

    async with running(tmp_path, shop(), billing()) as world:
        clock = world.clock
        await world.publish("shop", Ordered("a", 0))
    assert tries == [1]
    async with running(tmp_path, shop(), billing(), clock=clock) as world:
        await clock.jump(timedelta(minutes=59).total_seconds())
        assert tries == [1]
        clock.set_wall(-7200)
        await clock.jump(61)
        await world.until(lambda: tries == [1, 2], seconds=5)
        clock_times.append(clock.now_ms())
        assert list((await world.statuses("billing.bill")).values()) == ["COMPLETED"]


async def test_a_handler_that_fails_on_everything_is_paused_and_resumes_by_itself(tmp_path: Path) -> None:
    """While everything fails, attempts are not burnt; once it works again all events complete."""
    billing = Service("billing")
    state = {"down": True, "calls": 0}

    @billing.on(Ordered, retry=Retry(attempts=2, first=seconds(1), jitter=False))
    async def bill(event: Ordered) -> None:
        state["calls"] += 1
        if state["down"]:
            raise ConnectionError("the ledger is down")

    async with running(tmp_path, shop(), billing) as world:
        await world.publish("shop", *(Ordered(f"c{n}", n) for n in range(50)))
        await world.clock.advance(1)
        paused = await world.rows("SELECT pause_reason FROM antiphon_handlers WHERE paused_until_ms IS NOT NULL")
        assert paused == [("ConnectionError: the ledger is down",)]
        await world.clock.advance(600)
        assert state["calls"] < 60
        state["down"] = False
        await world.clock.advance(60)
        statuses = list((await world.statuses("billing.bill")).values())
        assert statuses.count("COMPLETED") == 50
        assert await world.rows("SELECT count(*) FROM antiphon_handlers WHERE paused_until_ms IS NOT NULL") == [(0,)]


async def test_publishing_beside_an_open_transaction_is_refused_not_hung(tmp_path: Path) -> None:
    """A task that holds the writer and publishes past it would wait for itself: it is told instead."""
    async with running(tmp_path, shop()) as world:
        with pytest.raises(StoreError, match="wait for itself"):
            async with world.runtime.transaction("shop") as tx:
                await tx.execute("CREATE TABLE notes (n INTEGER)")
                await world.runtime.publish("shop", Ordered("a", 1))
        assert await world.publish("shop", Ordered("a", 2))
        assert await world.rows("SELECT name FROM sqlite_schema WHERE name = 'notes'") == []
