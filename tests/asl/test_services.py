"""State machines over several services: commands, what takes them back, cancelling, and crashes at any moment."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from antiphon import Command, Event, Reject, Service, StateFailed, Transaction, Workflow
from antiphon.errors import DeclarationError
from tests.runtime.kit import World, running
from tests.workflow.crashes import after, moments

pytestmark = pytest.mark.anyio

TABLES = "CREATE TABLE IF NOT EXISTS effects (n INTEGER PRIMARY KEY, what TEXT NOT NULL)"


class OrderPlaced(Event, key="order_id"):
    order_id: str
    cents: int = 100


class OrderShipped(Event, key="order_id"):
    order_id: str


class Reserved(Event, key="order_id"):
    order_id: str
    shelf: int


class OutOfStock(Event, key="order_id"):
    order_id: str


class Released(Event, key="order_id"):
    order_id: str


class Reserve(Command[Reserved | OutOfStock], key="order_id", to="depot"):
    order_id: str


class Release(Command[Released], key="order_id", to="depot"):
    order_id: str


FULFIL: dict[str, Any] = {
    "StartAt": "Reserve",
    "States": {
        "Reserve": {"Type": "Task", "Resource": "reserve", "ResultPath": "$.stock", "Next": "Is there any"},
        "Is there any": {
            "Type": "Choice",
            "Choices": [{"Variable": "$.stock.type", "StringEquals": "OutOfStock", "Next": "None left"}],
            "Default": "Pay and pack",
        },
        "Pay and pack": {
            "Type": "Parallel",
            "Branches": [
                {
                    "StartAt": "Charge",
                    "States": {
                        "Charge": {
                            "Type": "Task",
                            "Resource": "charge",
                            "Retry": [{"ErrorEquals": ["Busy"], "IntervalSeconds": 2, "MaxAttempts": 2}],
                            "Next": "Settle",
                        },
                        "Settle": {"Type": "Wait", "Seconds": 5, "End": True},
                    },
                },
                {
                    "StartAt": "Parts",
                    "States": {
                        "Parts": {
                            "Type": "Map",
                            "ItemsPath": "$.parts",
                            "MaxConcurrency": 2,
                            "ItemProcessor": {
                                "StartAt": "Pack",
                                "States": {
                                    "Pack": {"Type": "Task", "Resource": "pack", "Next": "Dry"},
                                    "Dry": {"Type": "Wait", "Seconds": 3, "End": True},
                                },
                            },
                            "End": True,
                        }
                    },
                },
            ],
            "ResultPath": None,
            "Next": "Window",
        },
        "Window": {"Type": "Wait", "Seconds": 20, "Next": "Ship"},
        "Ship": {"Type": "Task", "Resource": "ship", "ResultPath": None, "Next": "Tell"},
        "Tell": {"Type": "Task", "Resource": "tell", "End": True},
        "None left": {"Type": "Fail", "Error": "OutOfStock", "Cause": "there is none"},
    },
}


class Depot:
    """The service that keeps the stock."""

    def __init__(self, stock: int = 100) -> None:
        self.stock = stock
        self.service = Service("depot", tables="CREATE TABLE IF NOT EXISTS kept (order_id TEXT PRIMARY KEY)")
        self.service.on(Reserve, name="reserve")(self.reserve)
        self.service.on(Release, name="release")(self.release)

    async def reserve(self, asked: Reserve, tx: Transaction) -> Reserved | OutOfStock:
        """Keep something for an order."""
        if asked.order_id == "odd":
            raise Reject("no such article")
        if not self.stock:
            return OutOfStock(asked.order_id)
        await tx.execute("INSERT INTO kept VALUES (?)", asked.order_id)
        return Reserved(asked.order_id, 7)

    async def release(self, asked: Release, tx: Transaction) -> Released:
        """Keep it no longer."""
        await tx.execute("DELETE FROM kept WHERE order_id = ?", asked.order_id)
        return Released(asked.order_id)


def orders(*, busy: int = 0, broken: bool = False, outside: bool = False) -> Service:
    """The service whose machine fulfils orders; charging fails so many times, shipping always if it is *broken*.

    With *outside* its tasks await the outside before they write.
    """
    made = Service("orders", tables=TABLES)

    async def note(tx: Transaction, what: str) -> None:
        if outside:
            await asyncio.sleep(0)
        await tx.execute("INSERT INTO effects (what) VALUES (?)", what)

    async def charge(order: OrderPlaced, tx: Transaction) -> str:
        await note(tx, "charge")
        tries = await tx.fetch_all("SELECT 1 FROM antiphon_journal WHERE name = 'Charge' AND mark = 'FAILED'")
        if len(tries) < busy:
            raise StateFailed("Busy")
        return f"receipt of {order.order_id}"

    async def refund(order: OrderPlaced, result: str, tx: Transaction) -> None:
        await note(tx, f"refund {result}")

    async def pack(part: int, tx: Transaction) -> int:
        await note(tx, f"pack {part}")
        return part

    async def ship(order: dict[str, Any], tx: Transaction) -> None:
        await note(tx, "ship")
        if broken:
            raise RuntimeError("no car")

    made.add(
        Workflow.from_asl(
            json.dumps(FULFIL),
            name="fulfil",
            starts=OrderPlaced,
            resources={"reserve": Reserve, "charge": charge, "pack": pack, "ship": ship, "tell": OrderShipped},
            undo={"reserve": Release, "charge": refund},
            input=lambda order: {"order_id": order.order_id, "cents": order.cents, "parts": [1, 2, 3]},
        )
    )
    return made


async def effects(world: World) -> list[str]:
    """What took effect in the service of the orders."""
    return [str(what) for (what,) in await world.rows("SELECT what FROM effects ORDER BY n")]


async def standing(world: World) -> tuple[Any, Any]:
    """The state of the one run, and its error."""
    ((state, error),) = await world.rows("SELECT state, error FROM antiphon_runs")
    return state, error


PACKED = ["charge", "pack 1", "pack 2", "pack 3"]


@pytest.mark.parametrize("own_stores", [True, False])
async def test_a_task_asks_another_service(tmp_path: Path, own_stores: bool) -> None:
    """A command class as the resource: the answer's type and data are the result; an event class is published."""
    depot = Depot()
    async with running(tmp_path, orders(), depot.service, own_stores=own_stores) as world:
        await world.publish("orders", OrderPlaced("o1"))
        await world.clock.advance(60)
        assert await standing(world) == ("COMPLETED", None)
        assert await effects(world) == [*PACKED, "ship"]
        assert await world.rows("SELECT key FROM antiphon_log WHERE type = 'OrderShipped'") == [("o1",)]


@pytest.mark.parametrize(
    ("order_id", "stock", "error"),
    [
        ("o1", 0, "StateFailed: OutOfStock: there is none."),
        ("odd", 9, "StateFailed: Refused: Reject: no such article."),
    ],
)
async def test_an_answer_may_be_a_refusal(tmp_path: Path, order_id: str, stock: int, error: str) -> None:
    """One that the command names is a result as any; that of a dead letter is the error Refused. Both are undone."""
    depot = Depot(stock)
    async with running(tmp_path, orders(), depot.service) as world:
        await world.publish("orders", OrderPlaced(order_id))
        await world.clock.advance(2)
        assert await standing(world) == ("COMPENSATED", error)
        assert await world.rows("SELECT type FROM antiphon_log WHERE type = 'Released'") == [("Released",)]


async def test_what_was_done_is_undone_when_the_machine_fails(tmp_path: Path) -> None:
    """The functions and commands of undo=, the last first, with the input and the result of their tasks."""
    depot = Depot()
    async with running(tmp_path, orders(broken=True), depot.service) as world:
        await world.publish("orders", OrderPlaced("o1"))
        await world.clock.advance(60)
        assert await standing(world) == ("COMPENSATED", "StateFailed: RuntimeError: no car.")
        assert await effects(world) == [*PACKED, "refund receipt of o1"]
        assert await world.rows("SELECT * FROM kept") == []


async def test_a_cancelled_run_is_undone(tmp_path: Path) -> None:
    """While it waits; what it had done is taken back, and it goes no further."""
    depot, service = Depot(), orders()
    async with running(tmp_path, service, depot.service) as world:
        await world.publish("orders", OrderPlaced("o1"))
        await world.clock.advance(15)
        async with world.runtime.transaction("orders") as tx:
            await service.workflows["fulfil"].cancel(tx, "not wanted", key="o1")
        await world.clock.advance(60)
        assert (await standing(world))[0] == "CANCELLED"
        assert await effects(world) == [*PACKED, "refund receipt of o1"]
        assert await world.rows("SELECT * FROM kept") == []


async def test_a_definition_can_catch_a_cancellation(tmp_path: Path) -> None:
    """By its own name only: no wildcard means it. The machine then goes on as it says."""
    work = Service("work", tables=TABLES)

    async def note(given: dict[str, Any], tx: Transaction) -> Any:
        await tx.execute("INSERT INTO effects (what) VALUES (?)", json.dumps(given))

    def inner(catch: list[dict[str, Any]]) -> dict[str, Any]:
        wait = {"StartAt": "Wait", "States": {"Wait": {"Type": "Wait", "Seconds": 600, "End": True}}}
        return {"Type": "Parallel", "Branches": [wait], "Catch": catch, "End": True}

    caught = {"ErrorEquals": ["Antiphon.Cancelled"], "ResultPath": "$.why", "Next": "Note"}
    definitions = {
        "named": {"P": inner([caught]), "Note": {"Type": "Task", "Resource": "note", "End": True}},
        "wild": {"P": inner([{**caught, "ErrorEquals": ["States.ALL"]}])}
        | {"Note": {"Type": "Task", "Resource": "note", "End": True}},
    }
    handles = {
        name: work.add(
            Workflow.from_asl(
                {"StartAt": "P", "States": states}, name=name, starts=OrderPlaced, resources={"note": note}
            )
        )
        for name, states in definitions.items()
    }
    async with running(tmp_path, work) as world:
        await world.publish("work", OrderPlaced("o1"))
        async with world.runtime.transaction("work") as tx:
            for handle in handles.values():
                await handle.cancel(tx, "enough", key="o1")
        await world.clock.advance(1)
        assert dict(await world.rows("SELECT workflow, state FROM antiphon_runs")) == {
            "work.named": "COMPLETED",
            "work.wild": "CANCELLED",
        }
        (told,) = await effects(world)
        assert json.loads(told)["why"] == {"Error": "Antiphon.Cancelled", "Cause": "cancelled: enough"}


async def play(world: World) -> None:
    """One order, up to its end."""
    await world.publish("orders", OrderPlaced("o1"))
    await world.clock.advance(45)


@pytest.mark.parametrize(
    ("make", "state", "counts"),
    [
        (lambda: orders(), "COMPLETED", {"charge": 1, "ship": 1}),
        (lambda: orders(busy=2), "COMPLETED", {"charge": 1, "ship": 1}),
        (lambda: orders(broken=True), "COMPENSATED", {"charge": 1, "refund receipt of o1": 1}),
        (lambda: orders(busy=1, outside=True), "COMPLETED", {"charge": 1, "ship": 1}),
        (lambda: orders(busy=3, outside=True), "COMPENSATED", {}),
        (lambda: orders(broken=True, outside=True), "COMPENSATED", {"charge": 1, "refund receipt of o1": 1}),
    ],
    ids=["completed", "retried", "undone", "retried-outside", "failed-outside", "undone-outside"],
)
async def test_a_crash_at_any_moment_changes_nothing_at_the_end(
    tmp_path: Path, make: Callable[[], Service], state: str, counts: dict[str, int]
) -> None:
    """Within Parallel, Map, Wait, Retry or undoing: the run ends as it would have, each effect once."""

    def services() -> tuple[Service, ...]:
        return make(), Depot().service

    found = await moments(tmp_path, services, play)
    assert len(found) > 8
    for number, moment in enumerate(found):
        async with after(moment, services) as world:
            await world.clock.advance(60)
            assert (await standing(world))[0] == state, f"after commit {number}"
            got = await effects(world)
            wanted = {**counts, "pack 1": 1, "pack 2": 1, "pack 3": 1}
            assert {what: got.count(what) for what in got} == wanted, f"after commit {number}"
            assert await world.rows("SELECT * FROM antiphon_dead_letters") == []


def invoking(name: str) -> dict[str, Any]:
    """A definition whose task calls the function of that name."""
    task = {"Type": "Task", "Resource": "arn:aws:states:::lambda:invoke", "End": True}
    return {"StartAt": "S", "States": {"S": {**task, "Parameters": {"FunctionName": name, "Payload.$": "$"}}}}


def test_what_cannot_be_added_is_said(tmp_path: Path) -> None:
    """A resource that is missing or of no use, a name that is taken, an undo of nothing."""
    good = {"StartAt": "S", "States": {"S": {"Type": "Task", "Resource": "x", "End": True}}}

    def declare(**options: Any) -> Any:
        return Workflow.from_asl(
            **{
                "definition": good,
                "name": "m",
                "starts": OrderPlaced,
                "resources": {"x": lambda given: given},
                **options,
            }
        )

    for options, told in (
        ({"resources": {}}, "its tasks call x, for which there is no function"),
        ({"resources": {"x": 3}}, "neither a function nor an event class"),
        ({"resources": {"x": lambda one, two: one}}, "a Task calls it with one argument"),
        ({"undo": {"y": Release}}, "undo names y"),
        ({"undo": {"x": Release}}, "the undo of x is no function"),
        ({"starts": ()}, "no event starts it"),
        ({"definition": invoking("arn:of:none")}, "its tasks call arn:of:none, for which there is no function"),
        ({"definition": "{"}, "not JSON"),
    ):
        with pytest.raises(DeclarationError, match=told):
            declare(**options)
    service = Service("orders")
    service.add(declare())
    service.add(declare(version=2))
    with pytest.raises(DeclarationError, match="has version 2 of workflow 'm' already"):
        service.add(declare(version=2))
    with pytest.raises(DeclarationError, match="key is 'other'"):
        service.add(declare(name="n", key="other"))
    with pytest.raises(DeclarationError, match="cannot name a state machine"):
        service.add(declare(name="Not So"))

    path = tmp_path / "machine.asl.json"
    path.write_text(json.dumps(good))
    assert [task.resource for task in declare(definition=path).machine.tasks] == ["x"]
