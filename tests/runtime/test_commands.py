"""Commands and their replies: one target, one answer that counts, a time-out as an outcome, on either layout."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from antiphon import App, Command, Delivery, Event, Reject, Retry, Service, Transaction, command, seconds
from antiphon.errors import DeclarationError, NotFound, StoreError
from antiphon.model.commands import Refused, TimedOut
from antiphon.model.events import event_type_of
from antiphon.runtime.runtime import Runtime
from antiphon.testing.clock import VirtualClock
from tests.runtime.kit import World, running

pytestmark = pytest.mark.anyio

ONCE = Retry(attempts=1)


class OrderPlaced(Event, key="order_id"):
    """Begins an order."""

    order_id: str
    patience_s: float = 10.0


class StockReserved(Event, key="order_id"):
    """The stock is there."""

    order_id: str


class StockShort(Event, key="order_id"):
    """The stock is not there."""

    order_id: str


class ReserveStock(Command[StockReserved | StockShort], key="order_id", to="inventory"):
    """Asks for stock."""

    order_id: str


def shop(inventory: Service | None = None) -> tuple[Service, Service, list[Any]]:
    """Orders that ask an inventory for stock, and the outcomes that they were told."""
    orders = Service("orders")
    inventory = inventory or Service("inventory", tables="CREATE TABLE taken (order_id TEXT PRIMARY KEY);")
    told: list[Any] = []

    @orders.on(OrderPlaced)
    async def place(placed: OrderPlaced, tx: Transaction) -> ReserveStock | None:
        await tx.request(ReserveStock(placed.order_id), timeout=seconds(placed.patience_s))
        return None

    @orders.on(StockReserved, StockShort, Refused, TimedOut)
    async def hear(outcome: StockReserved | StockShort | Refused | TimedOut, delivery: Delivery) -> None:
        assert delivery.envelope.request_id is not None
        told.append(outcome)

    return orders, inventory, told


def answering(inventory: Service) -> Service:
    """An inventory that answers by the order's name."""

    @inventory.on(ReserveStock, retry=ONCE)
    async def reserve(asked: ReserveStock, tx: Transaction) -> StockReserved | StockShort:
        if asked.order_id.startswith("wrong"):
            raise Reject("there is no such order")
        if asked.order_id.startswith("broken"):
            raise ValueError("shelf 3 has fallen")
        await tx.execute("INSERT INTO taken VALUES (?)", asked.order_id)
        return StockShort(asked.order_id) if asked.order_id.startswith("short") else StockReserved(asked.order_id)

    return inventory


async def views(world: World, service: str = "orders") -> tuple[list[Any], list[Any]]:
    """What the request and the response view of a service's store show."""
    store = world.runtime.stores[service]
    requests = "SELECT MESSAGE_TYPE, STATUS, SOURCE_SERVICE, TARGET_SERVICE FROM antiphon_requests ORDER BY EVENT_KEY"
    responses = "SELECT MESSAGE_TYPE, STATUS, LATE, TARGET_SERVICE FROM antiphon_responses ORDER BY LATE"
    return [tuple(row) for row in await store.fetch_all(requests)], [
        tuple(row) for row in await store.fetch_all(responses)
    ]


@pytest.mark.parametrize("own_stores", [False, True])
async def test_a_command_is_answered_to_its_requester(tmp_path: Path, own_stores: bool) -> None:
    """The handler's return value comes back as the reply, with the request's correlation, on either layout."""
    orders, inventory, told = shop()
    async with running(tmp_path, orders, answering(inventory), own_stores=own_stores) as world:
        (event_id,) = await world.publish("orders", OrderPlaced("a1"))
        await world.until(lambda: bool(told))
        assert told == [StockReserved("a1")]
        requests, responses = await views(world)
        assert requests == [("ReserveStock", "ANSWERED", "orders", "inventory")]
        assert responses == [("StockReserved", "ANSWERED", 0, "orders")]
        correlations = await world.runtime.stores["orders"].fetch_all(
            "SELECT DISTINCT coalesce(correlation_id, id) FROM antiphon_log"
        )
        assert [tuple(row) for row in correlations] == [(event_id,)]
        assert await world.runtime.stores["orders"].next_timer_ms() is None, "the time-out ended with the answer"
        await world.clock.advance(60)
        assert told == [StockReserved("a1")]


@pytest.mark.parametrize("own_stores", [False, True])
@pytest.mark.parametrize(
    ("order_id", "status", "reason"),
    [("wrong", "ERROR", "there is no such order"), ("broken", "FAILED", "shelf 3 has fallen")],
)
async def test_a_command_that_dies_is_refused(
    tmp_path: Path, own_stores: bool, order_id: str, status: str, reason: str
) -> None:
    """A command that becomes a dead letter is answered with why, in the same transaction."""
    orders, inventory, told = shop()
    async with running(tmp_path, orders, answering(inventory), own_stores=own_stores) as world:
        await world.publish("orders", OrderPlaced(order_id))
        await world.until(lambda: bool(told))
        (refused,) = told
        assert isinstance(refused, Refused)
        assert (refused.command, refused.status) == ("ReserveStock", status)
        assert reason in refused.reason
        requests, responses = await views(world)
        assert requests[0][1] == responses[0][1] == "REFUSED"
        dead = await world.runtime.stores["inventory"].fetch_all("SELECT STATUS FROM antiphon_dead_letters")
        assert [tuple(row) for row in dead] == [(status,)]


@pytest.mark.parametrize("own_stores", [False, True])
async def test_a_late_reply_is_recorded_and_no_second_answer(tmp_path: Path, own_stores: bool) -> None:
    """After the time-out the requester is told once; a reply that comes later stands beside it, as late."""
    inventory = Service("inventory")
    may_end = asyncio.Event()

    @inventory.on(ReserveStock)
    async def reserve(asked: ReserveStock) -> StockReserved:
        await may_end.wait()
        return StockReserved(asked.order_id)

    orders, inventory, told = shop(inventory)
    async with running(tmp_path, orders, inventory, own_stores=own_stores) as world:
        await world.publish("orders", OrderPlaced("a1", patience_s=5))
        await world.until(lambda: bool(told), seconds=10)
        assert [type(each) for each in told] == [TimedOut]
        may_end.set()
        await world.until(lambda: len(told) == 2)
        assert told[1] == StockReserved("a1"), "handlers see it, with the id of the request that is over"
        requests, responses = await views(world)
        assert requests == [("ReserveStock", "TIMED_OUT", "orders", "inventory")]
        assert responses == [
            ("antiphon.timed-out", "TIMED_OUT", 0, "orders"),
            ("StockReserved", "ANSWERED", 1, "orders"),
        ]


async def test_a_command_is_not_started_after_its_requester_has_given_up(tmp_path: Path) -> None:
    """The time-out is the command's deadline too: whoever comes up later does not begin the work."""
    orders, inventory, told = shop()
    answering(inventory)
    async with running(tmp_path, orders, inventory, only=["orders"], own_stores=True) as world:
        await world.publish("orders", OrderPlaced("a1", patience_s=5))
        await world.until(lambda: bool(told), seconds=10)
        await world.clock.advance(1)
        clock = world.clock
    async with running(tmp_path, orders, inventory, own_stores=True, clock=clock) as world:
        await world.until(lambda: len(told) == 2)
        assert [type(each) for each in told] == [TimedOut, Refused]
        assert told[1].status == "FAILED"
        assert "deadline passed" in told[1].reason
        taken = await world.runtime.stores["inventory"].fetch_all("SELECT count(*) FROM taken")
        assert taken[0][0] == 0


async def test_only_the_requester_is_told(tmp_path: Path) -> None:
    """A reply is its requester's: a handler of another service that is bound to its type gets none."""
    orders, inventory, told = shop()
    spy, seen = Service("spy"), []

    @spy.on(StockReserved, Refused, TimedOut)
    async def see(outcome: StockReserved | Refused | TimedOut) -> None:
        seen.append(outcome)

    async with running(tmp_path, orders, answering(inventory), spy) as world:
        await world.publish("orders", OrderPlaced("a1"), OrderPlaced("wrong"))
        assert len(told) == 2
        assert seen == []
        await world.publish("spy", StockReserved("public"))
        assert seen == [StockReserved("public")], "published as an event, it is everybody's"


async def test_a_reply_may_come_from_a_later_handler(tmp_path: Path) -> None:
    """A handler that returns None has not answered; another one answers by the id of the request."""
    orders, _, told = shop()
    inventory = Service("inventory")

    class Counted(Event):
        request_id: str

    @inventory.on(ReserveStock)
    async def ask_clerk(asked: ReserveStock, delivery: Delivery) -> Counted | StockReserved | None:
        return Counted(delivery.envelope.id)

    @inventory.on(Counted)
    async def answer(counted: Counted, tx: Transaction) -> StockReserved | None:
        await tx.reply(counted.request_id, StockReserved("a1"))
        with pytest.raises(NotFound):
            await tx.reply("no such request", StockReserved("a1"))
        return None

    async with running(tmp_path, orders, inventory) as world:
        await world.publish("orders", OrderPlaced("a1"))
        assert told == [StockReserved("a1")]
        assert (await views(world))[0] == [("ReserveStock", "ANSWERED", "orders", "inventory")]


async def test_one_reply_alone_answers(tmp_path: Path) -> None:
    """Of several events of a reply's type the first is the reply; the others are plain events."""
    orders, *_ = shop()
    inventory = Service("inventory")

    @inventory.on(ReserveStock)
    async def reserve(asked: ReserveStock) -> list[StockReserved]:
        return [StockReserved("first"), StockReserved("second")]

    async with running(tmp_path, orders, inventory) as world:
        await world.publish("orders", OrderPlaced("a1"))
        rows = await world.rows("SELECT target, request_id IS NOT NULL FROM antiphon_log WHERE type = 'StockReserved'")
        assert rows == [("orders", 1), (None, 0)]


@pytest.mark.parametrize("own_stores", [False, True])
async def test_an_app_asks_and_gets_what_answers(tmp_path: Path, own_stores: bool) -> None:
    """``app.request`` returns the reply, the refusal or the time-out, each as the event that it is."""
    orders, inventory, _ = shop()
    app = App(orders, answering(inventory), name="asking", own_stores=own_stores)
    async with app.run_in(tmp_path):
        asked = [app.request(ReserveStock(name), timeout=seconds(30)) for name in ("a1", "short", "wrong")]
        reserved, short, wrong = await asyncio.gather(*asked)
        assert reserved == StockReserved("a1")
        assert short == StockShort("short")
        assert isinstance(wrong, Refused)
    silent, _ = Service("orders"), None
    app = App(silent, name="silent", own_stores=own_stores)
    async with app.run_in(tmp_path / "silent"):
        assert isinstance(await app.request(ReserveStock("a2"), timeout=seconds(0.05)), TimedOut)


async def test_an_event_cannot_be_requested(tmp_path: Path) -> None:
    """Nobody answers an event, so asking for an answer is a mistake that is told at once."""
    orders, inventory, _ = shop()
    async with App(orders, answering(inventory), name="asking").run_in(tmp_path) as runtime:
        with pytest.raises(DeclarationError, match="nobody answers"):
            await runtime.request("orders", OrderPlaced("a1"), seconds(1))


async def test_asking_inside_a_transaction_that_has_written_is_refused(tmp_path: Path) -> None:
    """The answer could not be committed while the asker holds the writer: said at once, not by a time-out."""
    orders, inventory, _ = shop()
    app = App(orders, answering(inventory), name="asking")
    async with app.run_in(tmp_path) as runtime, runtime.transaction("inventory") as tx:
        await tx.execute("INSERT INTO taken VALUES ('x')")
        with pytest.raises(StoreError, match="wait for itself"):
            await app.request(ReserveStock("a1"), timeout=seconds(1))


def test_a_command_has_one_handler_in_its_target() -> None:
    """A handler elsewhere, a second one, and one that never answers are refused where they are declared."""
    inventory, other = Service("inventory"), Service("other")
    with pytest.raises(DeclarationError, match="goes to service 'inventory'"):

        @other.on(ReserveStock)
        async def elsewhere(asked: ReserveStock) -> StockReserved:
            return StockReserved(asked.order_id)

    with pytest.raises(DeclarationError, match="answers ReserveStock"):

        @inventory.on(ReserveStock)
        async def silent(asked: ReserveStock) -> None: ...

    for name in ("one", "two"):

        @inventory.on(ReserveStock, name=name)
        async def reserve(asked: ReserveStock) -> StockReserved:
            return StockReserved(asked.order_id)

    with pytest.raises(DeclarationError, match=r"inventory\.one handles already"):
        App(inventory, name="twice")


def test_a_command_says_where_it_goes_and_what_answers_it() -> None:
    """Without a target or a reply, with a reply that is no event, or kept inside: each is refused by name."""
    with pytest.raises(DeclarationError, match="to one service"):

        class Nowhere(Command[StockReserved]):
            """Goes nowhere."""

    with pytest.raises(DeclarationError, match="no event is named"):

        class Unanswered(Command, to="inventory"):  # type: ignore[type-arg]
            """Has no answer."""

    with pytest.raises(DeclarationError, match="cannot answer"):

        class Odd(Command[int], to="inventory"):
            """Is answered by a number."""

    with pytest.raises(DeclarationError, match="stay inside"):

        class Kept(Command[StockReserved], to="inventory", domain=True):
            """Stays inside."""


def test_a_dataclass_may_be_a_command() -> None:
    """The decorator gives a dataclass what the class statement gives a struct."""
    import dataclasses

    @command(to="inventory", reply=StockReserved | StockShort, key="order_id")
    @dataclasses.dataclass
    class Count:
        order_id: str

    declared = event_type_of(Count)
    assert (declared.target, declared.key_field) == ("inventory", "order_id")
    assert [reply.name for reply in declared.replies] == ["StockReserved", "StockShort"]
    assert declared.decode(declared.encode(Count("a")), 1) == Count("a")


async def test_each_command_is_answered_once_across_a_restart(tmp_path: Path) -> None:
    """A stop between any of request, relay, handling and reply asks and answers each command once."""
    orders, inventory, told = shop()
    answering(inventory)
    names = [f"o{n}" for n in range(300)]
    clock = VirtualClock()
    for _ in range(3):
        runtime = Runtime(
            "app", [orders.spec, inventory.spec], data=tmp_path, own_stores=True, clock=clock, owner=clock.new_id()
        )
        await runtime.start()
        if names:
            await runtime.publish("orders", *(OrderPlaced(name, patience_s=600) for name in names))
            names = []
        for _ in range(40):
            await asyncio.sleep(0)
        await runtime.stop(grace_s=0)
    async with running(tmp_path, orders, inventory, own_stores=True, clock=clock) as world:
        await world.until(lambda: len(told) >= 300)
        store = world.runtime.stores["orders"]
        rows = await store.fetch_all("SELECT STATUS, count(*) FROM antiphon_requests GROUP BY 1")
        assert [tuple(row) for row in rows] == [("ANSWERED", 300)]
        assert (await store.fetch_all("SELECT count(*) FROM antiphon_responses"))[0][0] == 300
    assert len({each.order_id for each in told}) == len(told) == 300
