"""Apps: services checked against each other, named after their module, run in a directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from antiphon import AntiphonError, App, Event, InvalidEvent, Service, Transaction, days, minutes, seconds
from antiphon.errors import DeclarationError


class Placed(Event, key="order"):
    order: str


class Paid(Event, key="order"):
    order: str


def shop() -> tuple[Service, Service]:
    """Orders, which publishes Placed on a schedule, and payment, which answers with Paid."""
    orders = Service("orders", tables="CREATE TABLE paid (order_id TEXT)")
    payment = Service("payment")

    @orders.every(days(1))
    async def reorder() -> list[Placed]:
        return []

    @payment.on(Placed)
    async def pay(placed: Placed) -> Paid:
        return Paid(placed.order)

    @orders.on(Paid)
    async def record(paid: Paid, tx: Transaction) -> None:
        await tx.execute("INSERT INTO paid VALUES (?)", paid.order)

    return orders, payment


def test_an_app_knows_its_services_and_events() -> None:
    """Services by name, their specs in order, every event type by name."""
    app = App(*shop())
    assert list(app.services) == ["orders", "payment"]
    assert [spec.name for spec in app.specs] == ["orders", "payment"]
    assert app.event_types["Placed"].cls is Placed
    assert app.event_types["Paid"].cls is Paid
    assert (app.own_stores, app.retention, app.max_payload) == (False, days(7), 1 << 20)


@pytest.mark.parametrize(
    ("module", "file", "name"),
    [
        ("examples.enrollment", "examples/enrollment/__init__.py", "enrollment"),
        ("examples.enrollment.app", "examples/enrollment/app.py", "enrollment"),
        ("flights", "flights.py", "flights"),
        ("app", "app.py", "app"),
        ("__main__", "/home/me/My-Shop.py", "my_shop"),
        ("2024.main", "2024/main.py", "app_2024"),
    ],
)
def test_an_app_is_named_after_its_module(module: str, file: str, name: str) -> None:
    """The module's or package's name names the app, and so its database file."""
    scope: dict[str, Any] = {"__name__": module, "__file__": file}
    exec("from antiphon import App, Service\napp = App(Service('one'))", scope)
    assert scope["app"].name == name


def test_a_name_given_to_an_app_follows_the_rule() -> None:
    """The name becomes a file name."""
    assert App(Service("one"), name="shop").name == "shop"
    with pytest.raises(DeclarationError, match="cannot name an app"):
        App(Service("one"), name="../shop")


def test_two_services_of_one_name_fail() -> None:
    """Progress and files go by the service's name."""
    with pytest.raises(DeclarationError, match="two services are named 'one'"):
        App(Service("one"), Service("one"))


def test_an_app_needs_services() -> None:
    """An app without a service, or with something else in its place, is a mistake."""
    with pytest.raises(DeclarationError, match="needs a service"):
        App()
    with pytest.raises(DeclarationError, match="takes services, not 'one'"):
        App("one")  # type: ignore[arg-type]


def test_one_event_type_has_one_class() -> None:
    """Two classes of one type name would disagree about the data; both are named."""
    one, other = Service("one"), Service("other")
    one.on(Placed, name="handle")(nothing)
    other.on(type("Other", (Event,), {}, type="Placed"), name="handle")(nothing)
    with pytest.raises(DeclarationError, match=r"'Placed' is declared by .*Placed and by .*Other"):
        App(one, other)


async def nothing() -> None: ...


@pytest.mark.parametrize("options", [{"retention": seconds(0)}, {"max_payload": 0}, {"keep": 1}, {"own_store": True}])
def test_a_wrong_option_fails_where_the_app_is_declared(options: dict[str, Any]) -> None:
    """Values out of range and unknown options are told with their place."""
    with pytest.raises(DeclarationError, match=next(iter(options))) as caught:
        App(Service("one"), **options)
    assert __file__ in str(caught.value)


@pytest.mark.anyio
async def test_publishing_needs_a_running_app() -> None:
    """An app that does not run here says how to run it."""
    with pytest.raises(AntiphonError, match="does not run in this process"):
        await App(*shop()).publish(Placed("1"))


@pytest.mark.anyio
@pytest.mark.parametrize("own_stores", [False, True])
async def test_an_app_runs_in_a_directory(tmp_path: Path, own_stores: bool) -> None:
    """``run_in`` starts the services, attaches the runtime, and detaches it when the block ends."""
    app = App(*shop(), name="shop", own_stores=own_stores)
    async with app.run_in(tmp_path) as runtime:
        assert app.runtime is runtime
        await app.publish(Placed("1"))
    assert app.runtime is None
    files = {path.name for path in tmp_path.iterdir()}
    assert files >= ({"orders.db", "payment.db", "bus.db"} if own_stores else {"shop.db"})


@pytest.mark.anyio
async def test_an_app_runs_once_in_a_process(tmp_path: Path) -> None:
    """A second runtime of one app would have ``app.publish`` mean one of the two."""
    app = App(*shop())
    async with app.run_in(tmp_path / "one"):
        with pytest.raises(AntiphonError, match="runs in this process already"):
            async with app.run_in(tmp_path / "two"):
                pass


@pytest.mark.anyio
async def test_an_event_is_published_as_the_service_that_declares_it(tmp_path: Path) -> None:
    """The producer is the service that publishes the type, else one that handles it, else the one asked for."""
    app = App(*shop())
    async with app.run_in(tmp_path, services=["payment"]) as runtime:
        handled_here = await app.publish(Placed("1"))
        published_here = await app.publish(Paid("1"))
        log = {each.envelope.id: each.envelope.service for each in await runtime.stores["payment"].read_log(0, 100)}
        assert (log[handled_here], log[published_here]) == ("payment", "payment")
        with pytest.raises(DeclarationError, match="'orders' does not run here"):
            await app.publish(Paid("1"), service="orders")
    async with app.run_in(tmp_path) as runtime:
        declared = await app.publish(Placed("2"))
        asked = await app.publish(Placed("3"), service="payment")
        log = {each.envelope.id: each.envelope.service for each in await runtime.stores["orders"].read_log(0, 100)}
        assert (log[declared], log[asked]) == ("orders", "payment")


@pytest.mark.anyio
async def test_a_delayed_event_is_not_in_the_log_yet(tmp_path: Path) -> None:
    """``delay=`` hands the event to the timers; its id is known at once."""
    app = App(*shop())
    async with app.run_in(tmp_path) as runtime:
        later = await app.publish(Placed("1"), delay=minutes(5))
        assert later not in {each.envelope.id for each in await runtime.stores["orders"].read_log(0, 100)}
        async with runtime.transaction("orders") as tx:
            assert await tx.cancel(later)


@pytest.mark.anyio
async def test_the_payload_limit_of_the_app_holds(tmp_path: Path) -> None:
    """``max_payload`` bounds the data of what is published."""
    app = App(*shop(), max_payload=20)
    async with app.run_in(tmp_path):
        await app.publish(Placed("1"))
        with pytest.raises(InvalidEvent):
            await app.publish(Placed("x" * 20))
