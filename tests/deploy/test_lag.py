"""The lag that KEDA is told to ask for: the very query of the manifests, on a real database."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from antiphon import App, Event, Retry, Service, hours
from antiphon.deploy.keda import lag_query
from antiphon.deploy.plan import Plan, plan_of
from tests.store.postgres import database

pytestmark = pytest.mark.anyio

PATIENCE_S = 30


class Ordered(Event, key="number"):
    """An order."""

    number: str


class Paid(Event, key="number"):
    """It was paid."""

    number: str


def shop(name: str, own_stores: bool) -> App:
    """Orders, and a till whose first order fails and waits an hour."""
    orders, till = Service("orders"), Service("till")

    @orders.on(Paid)
    async def close(paid: Paid) -> None:
        """An order is closed."""

    @till.on(Ordered, retry=Retry(attempts=9, first=hours(1), cap=hours(1), jitter=False))
    async def pay(ordered: Ordered) -> Paid:
        if ordered.number == "late":
            raise ValueError("not today")
        return Paid(ordered.number)

    return App(orders, till, name=name, own_stores=own_stores)


def reporting(name: str, own_stores: bool, folder: Path) -> App:
    """Orders, of which a channel tells in a file."""
    orders = Service("orders")

    @orders.on(Paid)
    async def order(paid: Paid) -> Ordered:
        return Ordered(paid.number)

    app = App(orders, name=name, own_stores=own_stores)
    app.channel(f"folder://{folder}", name="reports", outbound={"ordered.jsonl": Ordered})
    return app


@pytest.fixture
def url() -> Iterator[str]:
    """A database of the test's own."""
    with database() as found:
        yield found


def lag(plan: Plan, service: str) -> int:
    """What KEDA would be told of a service."""
    import psycopg

    (unit,) = [each for each in plan.units(one_machine=False) if [spec.name for spec in each.services] == [service]]
    with psycopg.connect(plan.store.url if plan.store else "", autocommit=True) as connection:
        connection.execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
        row = connection.execute(lag_query(plan, unit).encode()).fetchone()
    assert row is not None
    return int(row[0])


def changed(url: str, sql: str) -> None:
    """Run *sql* until it finds a row."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        while not connection.execute(sql.encode()).rowcount:
            pass


async def reached(plan: Plan, service: str, wanted: int) -> None:
    """Return when the lag is as *wanted*; fails if it never is."""
    async with asyncio.timeout(PATIENCE_S):
        while await asyncio.to_thread(lag, plan, service) != wanted:
            pass


@pytest.mark.parametrize("own_stores", [False, True], ids=["one schema", "a schema each"])
async def test_a_service_at_zero_is_woken_and_goes_to_zero_again(own_stores: bool, url: str, tmp_path: Path) -> None:
    """Events for a service that nobody runs count, over the bus too; when it has run, nothing does."""
    app = shop("lag_shop", own_stores)
    plan = plan_of(app, "shop:app", store=url, bus=None, image=None, grace_s=5)
    async with app.run_in(tmp_path, store=url):
        await reached(plan, "till", 0)
    async with app.run_in(tmp_path, store=url, services=["orders"]):
        for number in ("1", "2", "3"):
            await app.publish(Ordered(number), service="orders")
    await reached(plan, "till", 3)
    async with app.run_in(tmp_path, store=url, services=["till"]):
        await reached(plan, "till", 0)
    await reached(plan, "orders", 3)
    async with app.run_in(tmp_path, store=url, services=["orders"]):
        await reached(plan, "orders", 0)
    assert (lag(plan, "orders"), lag(plan, "till")) == (0, 0)


@pytest.mark.parametrize("own_stores", [False, True], ids=["one schema", "a schema each"])
async def test_a_channel_that_only_sends_is_woken_and_goes_to_zero_again(
    own_stores: bool, url: str, tmp_path: Path
) -> None:
    """What it has to send counts while nobody runs it; when it is sent, nothing does."""
    app = reporting("lag_shop", own_stores, tmp_path)
    plan = plan_of(app, "shop:app", store=url, bus=None, image=None, grace_s=5)
    async with app.run_in(tmp_path / "data", store=url):
        await reached(plan, "reports", 0)
    async with app.run_in(tmp_path / "data", store=url, services=["orders"]):
        for number in ("1", "2", "3"):
            await app.publish(Paid(number), service="orders")
        await reached(plan, "reports", 3)
    assert not (tmp_path / "ordered.jsonl").exists()
    async with app.run_in(tmp_path / "data", store=url, services=["reports"]):
        await reached(plan, "reports", 0)
    assert (tmp_path / "ordered.jsonl").read_bytes().count(b"\n") == 3


async def test_what_waits_for_its_retry_counts_when_it_is_due(url: str, tmp_path: Path) -> None:
    """An event that failed is not lost sight of: its next attempt brings somebody back to make it."""
    app = shop("lag_shop", False)
    plan = plan_of(app, "shop:app", store=url, bus=None, image=None, grace_s=5)
    async with app.run_in(tmp_path, store=url):
        await app.publish(Ordered("late"), service="orders")
        await asyncio.to_thread(changed, url, "SELECT FROM lag_shop.antiphon_deliveries WHERE status = 'RETRY'")
    assert lag(plan, "till") == 0
    changed(url, "UPDATE lag_shop.antiphon_deliveries SET due_ms = due_ms - 3600000")
    assert lag(plan, "till") == 1


async def test_a_timer_counts_when_it_is_due(url: str, tmp_path: Path) -> None:
    """What was published for later wakes its service then, and not before."""
    app = shop("lag_shop", False)
    plan = plan_of(app, "shop:app", store=url, bus=None, image=None, grace_s=5)
    async with app.run_in(tmp_path, store=url):
        await app.publish(Ordered("1"), service="orders", delay=hours(1))
    assert lag(plan, "orders") == 0
    changed(url, "UPDATE lag_shop.antiphon_timers SET due_ms = due_ms - 3600000")
    assert lag(plan, "orders") == 1


async def test_a_handler_that_is_divided_is_counted_once(url: str, tmp_path: Path) -> None:
    """Several partitions of a handler have each event before them once."""
    app = shop("lag_shop", False)
    plan = plan_of(app, "shop:app", store=url, bus=None, image=None, grace_s=5)
    async with app.run_in(tmp_path, store=url):
        await reached(plan, "till", 0)
    async with app.run_in(tmp_path, store=url, services=["orders"]) as runtime:
        store = runtime.store_of("orders")
        lease = await store.acquire("till.pay", runtime.owner)
        await store.split(lease, 4)
        for number in range(20):
            await app.publish(Ordered(str(number)), service="orders")
    assert lag(plan, "till") == 20
