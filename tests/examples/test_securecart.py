"""The securecart example in virtual time, with a bank and a mail server at real sockets; and crashes everywhere."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from antiphon import hours, seconds
from antiphon.cli.exits import Exit
from antiphon.cli.main import main
from antiphon.demo.audit import audit, questions
from antiphon.policy.choreography import check
from antiphon.testing import World
from examples.securecart import app
from examples.securecart.bank_stand_in import CLOSED, DECLINED, Books, Teller
from examples.securecart.demo import subject
from tests.examples.crashing import Life, crash_after_every_commit
from tests.examples.kit import Mailbox, mail_server
from tests.examples.test_demo import played

pytestmark = pytest.mark.anyio

LINES = [{"sku": "MUGS-0004", "quantity": 2}]
CENTS = 7_200
ORDER = {"account": "ada", "email": "ada@example.com", "card": "4242 4242 4242 4242", "country": "AT", "lines": LINES}
WINDOW = seconds(61)
CART = subject()


@dataclass
class Shop:
    """The running shop, the bank's books, and what the mail server got."""

    world: World
    books: Books
    mailbox: Mailbox

    async def order(self, **changes: Any) -> str:
        """Place an order and let what can happen at once happen; its id."""
        answer = await self.world.request("POST", "/orders", json={**ORDER, **changes})
        assert answer.status_code == 202, answer.text
        await self.world.settle()
        return str(answer.json()["order_id"])

    async def shown(self, order_id: str) -> dict[str, Any]:
        """What a customer sees of an order."""
        shown: dict[str, Any] = (await self.world.request("GET", f"/orders/{order_id}")).json()
        return shown

    async def status(self, order_id: str) -> str:
        """How far an order is."""
        return str((await self.shown(order_id))["status"])

    async def cancel(self, order_id: str) -> int:
        """Cancel an order; the status of the answer."""
        answer = await self.world.request("POST", f"/orders/{order_id}/cancel")
        await self.world.settle()
        return answer.status_code

    async def told(self, *arguments: str) -> Any:
        """What ``antiphon`` says of the databases, in JSON; it runs beside the shop, as an operator's would."""
        files = ("--data", str(self.world.data), "--json")
        code, text = await asyncio.to_thread(_command, [*arguments, *files])
        assert code == Exit.OK, text
        await self.world.advance(seconds(5))
        return json.loads(text)

    def left(self, sku: str = "MUGS-0004") -> list[tuple[Any, ...]]:
        """How many are free, and how many were ever received."""
        return self.world.rows("inventory", "SELECT free, received FROM stock WHERE sku = ?", sku)


def _command(arguments: list[str]) -> tuple[int, str]:
    import contextlib
    import io

    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = main(arguments)
    return code, said.getvalue()


@asynccontextmanager
async def outside(patch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Books, Mailbox]]:
    """The bank and the mail server."""
    books = Books()
    bank = await asyncio.get_running_loop().create_server(lambda: Teller(books), "127.0.0.1", 0)
    async with bank, mail_server() as (mailbox, port):
        patch.setenv("BANK_PORT", str(bank.sockets[0].getsockname()[1]))
        patch.setenv("SMTP_HOST", "127.0.0.1")
        patch.setenv("SMTP_PORT", str(port))
        yield books, mailbox


@pytest.fixture
async def shop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Shop]:
    """The shop, with nothing ordered yet."""
    async with outside(monkeypatch) as (books, mailbox), app.test(data=tmp_path) as world:
        yield Shop(world, books, mailbox)


async def test_an_order_is_fulfilled(shop: Shop) -> None:
    """Reserved, paid, and after the time to think better of it shipped; the customer is told, once."""
    order_id = await shop.order()
    assert await shop.status(order_id) == "PAID"
    assert (await shop.shown(order_id))["waits_for"] == "sleep sleep"
    assert shop.left() == [(1_498, 1_500)]
    await shop.world.advance(WINDOW)
    shown = await shop.shown(order_id)
    assert (shown["status"], shown["fulfilment"], shown["detail"]) == ("SHIPPED", "COMPLETED", "SC000000001AT")
    assert shop.books.cents == CENTS
    (message,) = shop.mailbox.messages
    assert (message["To"], "SC000000001AT" in message.get_content()) == ("ada@example.com", True)
    assert shop.world.rows("inventory", "SELECT state FROM reservations") == [("SHIPPED",)]
    shop.world.assert_no_dead_letters()


async def test_what_is_out_of_stock_fails_and_is_set_aside(shop: Shop) -> None:
    """Nothing is charged; the dead letter says why, and is done when the order was placed again and redriven."""
    lens = [{"sku": "LENS-0035", "quantity": 2}, *LINES]
    order_id = await shop.order(lines=lens)
    reason = "2 x LENS-0035 were ordered, 1 are left"
    shown = await shop.shown(order_id)
    assert (shown["status"], shown["detail"], shown["fulfilment"]) == ("FAILED", reason, "COMPENSATED")
    assert shop.books.booked == {}
    assert shop.left("LENS-0035") == [(1, 1)]
    (letter,) = shop.world.assert_dead_letter("orders.set_aside", reason=f"order {order_id} failed: {reason}")
    assert [message["Subject"] for message in shop.mailbox.messages] == [f"We are sorry about your order ({order_id})"]

    received = await shop.world.request("POST", "/stock/LENS-0035", json={"quantity": 5})
    assert received.json() == {"sku": "LENS-0035", "free": 6}
    again = (await shop.world.request("POST", f"/orders/{order_id}/again")).json()["order_id"]
    assert (await shop.world.request("POST", f"/orders/{order_id}/again")).status_code == 409
    await shop.told("dead", "redrive", letter.event_id)
    await shop.world.advance(WINDOW)
    assert await shop.status(again) == "SHIPPED"
    shop.world.assert_no_dead_letters()


async def test_a_declined_card_releases_what_was_reserved(shop: Shop) -> None:
    """The order fails with the bank's reason, and the stock is free again."""
    order_id = await shop.order(card=f"4000 0000 0000 {DECLINED}")
    shown = await shop.shown(order_id)
    assert (shown["status"], shown["detail"]) == ("FAILED", "the card ending in 0002 was declined")
    assert shop.left() == [(1_500, 1_500)]
    assert shop.books.booked == {}
    shop.world.assert_dead_letter("orders.set_aside", reason="the card ending in 0002 was declined")


async def test_where_no_carrier_goes_the_money_is_given_back(shop: Shop) -> None:
    """Shipping refuses the parcel; the charge is given back, and then the stock."""
    order_id = await shop.order(country="AQ")
    await shop.world.advance(WINDOW)
    assert await shop.status(order_id) == "FAILED"
    assert (len(shop.books.charges), len(shop.books.refunded), shop.books.cents) == (1, 1, 0)
    assert shop.left() == [(1_500, 1_500)]
    shop.world.assert_dead_letter("orders.set_aside", reason="no carrier goes to AQ")


async def test_a_depot_that_is_down_delays_the_parcel(shop: Shop) -> None:
    """The order waits at SHIPPING, for hours if it has to, and goes on when the service is back."""
    await shop.world.crash("shipping")
    order_id = await shop.order()
    await shop.world.advance(hours(3))
    assert await shop.status(order_id) == "SHIPPING"
    await shop.world.restart("shipping")
    await shop.world.advance(seconds(120))
    assert await shop.status(order_id) == "SHIPPED"
    assert shop.books.cents == CENTS


async def test_a_bank_that_is_away_is_asked_again(shop: Shop) -> None:
    """An attempt that the bank did not hear is made again, once it is back."""
    shop.books.away = True
    order_id = await shop.order()
    await shop.world.advance(seconds(30))
    assert await shop.status(order_id) == "RESERVED"
    shop.books.away = False
    await shop.world.advance(hours(1))
    assert await shop.status(order_id) == "SHIPPED"
    assert shop.books.cents == CENTS


async def test_an_answer_that_is_lost_charges_nobody_twice(shop: Shop) -> None:
    """The bank booked, and its answer never came: it is asked what it booked, and not to book again."""
    shop.books.silent = 1
    order_id = await shop.order()
    assert await shop.status(order_id) == "RESERVED"
    await shop.world.advance(hours(1))
    assert await shop.status(order_id) == "SHIPPED"
    assert len(shop.books.charges) == 1
    calls = shop.world.rows("payments", "SELECT state, calls FROM antiphon_effects WHERE name = 'charge'")
    assert calls == [("DONE", 1)]


async def test_a_customer_cancels_while_the_order_waits(shop: Shop) -> None:
    """Paid and reserved already: the money and the stock are given back, and the customer is told."""
    order_id = await shop.order()
    assert await shop.cancel(order_id) == 202
    shown = await shop.shown(order_id)
    assert (shown["status"], shown["fulfilment"]) == ("CANCELLED", "CANCELLED")
    assert (len(shop.books.charges), shop.books.cents) == (1, 0)
    assert shop.left() == [(1_500, 1_500)]
    assert await shop.cancel(order_id) == 202
    await shop.world.advance(WINDOW)
    assert [message["Subject"] for message in shop.mailbox.messages] == [f"Your order is cancelled ({order_id})"]
    assert shop.world.rows("shipping", "SELECT * FROM parcels") == []
    shop.world.assert_no_dead_letters()


@pytest.mark.parametrize("down", ["inventory", "payments"])
async def test_an_order_is_cancelled_while_a_service_is_down(shop: Shop, down: str) -> None:
    """What that service will do is not known; it is told to take it back, and does, in this order, when it is back."""
    await shop.world.crash(down)
    order_id = await shop.order()
    assert await shop.cancel(order_id) == 202
    await shop.world.advance(seconds(30))
    assert await shop.status(order_id) == "CANCELLING"
    await shop.world.restart(down)
    await shop.world.advance(seconds(120))
    assert await shop.status(order_id) == "CANCELLED"
    assert shop.books.cents == 0
    assert shop.left() == [(1_500, 1_500)]


async def test_what_is_shipped_cannot_be_cancelled(shop: Shop) -> None:
    """409, and nothing is undone; of an order that never was, 404."""
    order_id = await shop.order()
    await shop.world.advance(WINDOW)
    assert await shop.cancel(order_id) == 409
    assert await shop.cancel("nobody") == 404
    await shop.world.advance(WINDOW)
    assert await shop.status(order_id) == "SHIPPED"
    assert shop.books.cents == CENTS


async def test_an_operator_who_cancels_too_late_leaves_the_run_stuck(shop: Shop) -> None:
    """While the carrier has the parcel and nobody knows: the recall is refused, which a person has to see."""
    await shop.world.crash("shipping")
    order_id = await shop.order()
    await shop.world.advance(WINDOW)
    ((run_id,),) = shop.world.rows("orders", "SELECT id FROM antiphon_runs")
    await shop.told("workflow", "cancel", run_id, "--reason", "asked for by phone")
    await shop.world.restart("shipping")
    await shop.world.advance(seconds(120))
    assert (await shop.shown(order_id))["fulfilment"] == "STUCK"
    assert shop.books.cents == CENTS


async def test_an_account_pays_in_order_and_holds_up_nobody_else(shop: Shop) -> None:
    """While one charge of an account waits for its retry, the next one waits behind it; another account's does not."""
    shop.world.fail("payments.book")
    first = await shop.order()
    second = await shop.order(lines=[{"sku": "WOOL-0050"}])
    other = await shop.order(account="grace")
    assert [await shop.status(each) for each in (first, second, other)] == ["RESERVED", "RESERVED", "PAID"]
    await shop.world.advance(hours(1))
    booked = shop.world.rows("payments", "SELECT account, order_id FROM charges ORDER BY nr")
    assert booked == [("grace", other), ("ada", first), ("ada", second)]


@pytest.mark.parametrize("act", ["resume", "skip"])
async def test_a_refund_that_the_bank_refuses_leaves_the_run_stuck(shop: Shop, act: str) -> None:
    """It is seen with the reason; after the account was opened again it is resumed, or skipped and paid by hand."""
    order_id = await shop.order(card=f"4000 0000 0000 {CLOSED}", country="AQ")
    await shop.world.advance(WINDOW)
    (run,) = (await shop.told("workflow", "ls", "--state", "STUCK"))["runs"]
    assert run["key"] == order_id
    assert "undo ReturnCharge" in run["waiting"]
    assert "is closed" in run["waiting"]
    assert await shop.status(order_id) == "SHIPPING"
    assert shop.left() == [(1_498, 1_500)], "the stock is given back after the money, not before"
    if act == "resume":
        shop.books.closed.clear()
        await shop.told("workflow", "resume", run["id"])
    else:
        await shop.told("workflow", "skip", run["id"], "--reason", "paid back by bank transfer")
    assert await shop.status(order_id) == "FAILED"
    assert shop.left() == [(1_500, 1_500)]
    assert shop.books.cents == (0 if act == "resume" else CENTS)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"lines": []}, "lines"),
        ({"lines": [{"sku": "NONE-0000"}]}, "NONE-0000"),
        ({"lines": [{"sku": "MUGS-0004", "quantity": 0}]}, "quantity"),
        ({"country": "Austria"}, "country"),
        ({"card": "12"}, "card"),
        ({"email": "nobody"}, "email"),
        ({"account": " "}, "account"),
    ],
)
async def test_a_wrong_order_is_refused(shop: Shop, change: dict[str, Any], named: str) -> None:
    """It is said what is wrong, and nothing is kept."""
    answer = await shop.world.request("POST", "/orders", json={**ORDER, **change})
    assert answer.status_code == 422
    assert named in answer.text
    assert shop.world.rows("orders", "SELECT * FROM orders") == []


def test_nothing_is_wrong_with_the_choreography() -> None:
    """`antiphon check` finds nothing."""
    assert check(app.specs) == []


def test_the_demo_loses_nothing(tmp_path: Path) -> None:
    """Its processes are killed while it is fed; at the end the databases, the bank and the mail server agree."""
    facts = played("securecart", "--for", "3", "--kill", "1", cwd=tmp_path)
    assert facts["audit_ok"] is True
    assert facts["accepted"] == facts["shipped"] + facts["failed"] > 10
    assert facts["emails"] == facts["accepted"]
    assert facts["dead_letters"] >= facts["failed"] > 0
    assert facts["processes_killed"] > 0


@pytest.mark.parametrize(
    ("service", "damage", "finding"),
    [
        ("orders", "DELETE FROM orders", "lost: accepted and not kept"),
        ("orders", "UPDATE orders SET status = 'PAID'", "lost: neither shipped nor failed nor cancelled"),
        ("payments", "DELETE FROM charges", "lost: shipped without a charge that stands, of its amount"),
        ("payments", "DELETE FROM charges", "lost: booked by the bank and not by us, or the other way round"),
        (
            "payments",
            "UPDATE charges SET nr = -nr",
            "lost: an account's charges out of the order in which they were asked for",
        ),
        ("shipping", "DELETE FROM parcels", "lost: shipped without a parcel that holds all its pieces"),
        ("inventory", "UPDATE reservations SET state = 'RESERVED'", "lost: shipped, and its stock was not taken out"),
        ("inventory", "UPDATE stock SET free = free + 1", "lost: stock that is neither free nor taken"),
        ("notifications", "DELETE FROM emails", "lost: ended without an e-mail that arrived and says so"),
        (
            "orders",
            "UPDATE orders SET status = 'FAILED', detail = 'no reason'",
            "lost: given up, and something is still paid, reserved or on its way",
        ),
        (
            "orders",
            "UPDATE orders SET status = 'FAILED', detail = 'no reason'",
            "lost: failed, and not set aside with a reason",
        ),
    ],
)
async def test_the_audit_finds_what_is_wrong(shop: Shop, service: str, damage: str, finding: str) -> None:
    """Two orders of an account are shipped and sound; each way to lose something of them is found."""
    accepted = [await shop.order(), await shop.order()]
    await shop.world.advance(WINDOW)
    received = Counter(shop.books.times)
    received.update(str(message["Message-ID"]) for message in shop.mailbox.messages)
    assert audit(CART, shop.world.data, accepted, received).findings == {}

    with closing(sqlite3.connect(shop.world.data / f"{service}.db")) as connection, connection:
        connection.execute(damage)
    found = audit(CART, shop.world.data, accepted, received)
    assert found.findings[finding] >= 1
    assert finding in questions(CART)


# ---------------------------------------------------------------------- crashes


def everything(world: World) -> Any:
    """What has come of all orders and their runs, without ids and times."""
    return [world.rows("orders", "SELECT state FROM antiphon_runs ORDER BY started_ms"), *business(world)]


def business(world: World) -> list[Any]:
    """What has come of all orders."""
    return [
        world.rows("orders", "SELECT account, status, detail FROM orders ORDER BY placed_at, order_id"),
        world.rows("payments", "SELECT account, cents, refunded_at IS NULL FROM charges ORDER BY nr"),
        world.rows("inventory", "SELECT sku, free, received FROM stock ORDER BY sku"),
        world.rows("inventory", "SELECT sku, quantity, state FROM reservations ORDER BY sku, quantity"),
        world.rows("shipping", "SELECT number, country, pieces FROM parcels"),
        world.rows("notifications", "SELECT recipient, status FROM emails ORDER BY recipient"),
        Counter((letter.handler, letter.status) for letter in world.record().dead_letters()),
    ]


async def shipped(life: Life) -> None:
    """An order that is fulfilled."""
    await life.post("/orders", ORDER)
    await life.mend()
    await life.passes(WINDOW)


async def refunded(life: Life) -> None:
    """One that fails when everything is paid and reserved."""
    await life.post("/orders", {**ORDER, "country": "AQ"})
    await life.mend()
    await life.passes(WINDOW)


async def refunded_by_definition(life: Life) -> None:
    """The same, as the state machine does it."""
    await life.post("/orders", {**ORDER, "country": "AQ", "fulfilment": "definition"})
    await life.mend()
    await life.passes(WINDOW)


@pytest.mark.parametrize(
    ("play", "every"),
    [
        # Each life takes its time: some commits here, and each of them in `make soak`.
        (shipped, 5),
        (refunded, 8),
        *(pytest.param(play, 1, marks=pytest.mark.soak) for play in (shipped, refunded, refunded_by_definition)),
    ],
)
async def test_a_crash_after_any_commit_changes_nothing_at_the_end(
    monkeypatch: pytest.MonkeyPatch, play: Any, every: int
) -> None:
    """Whichever service dies after whichever commit: the same end, one charge, one refund, one parcel, one e-mail."""
    async with outside(monkeypatch) as (books, mailbox):

        def look(world: World) -> Any:
            booked = (len(books.charges), len(books.refunded), books.cents)
            messages = {str(message["Message-ID"]) for message in mailbox.messages}
            books.forget()
            mailbox.messages.clear()
            return booked, len(messages), everything(world)

        steps = await crash_after_every_commit(app, play, look, every=every)
        assert steps > 20


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, "SHIPPED"),
        ({"lines": [{"sku": "LENS-0035", "quantity": 2}]}, "FAILED"),
        ({"card": f"4000 0000 0000 {DECLINED}"}, "FAILED"),
        ({"country": "AQ"}, "FAILED"),
    ],
)
async def test_the_definition_comes_to_the_same_as_the_function(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], status: str
) -> None:
    """Side by side: the same answers asked of the services, rows, money, e-mails and dead letters."""
    seen = []
    for way in ("function", "definition"):
        async with outside(monkeypatch) as (books, mailbox), app.test() as world:
            shop = Shop(world, books, mailbox)
            order_id = await shop.order(**change, fulfilment=way)
            await world.advance(WINDOW)
            assert await shop.status(order_id) == status
            asked = [event.type for event in world.record().events if event.target not in (None, "orders")]
            subjects = [message["Subject"].partition(" (")[0] for message in mailbox.messages]
            said = [event.type for event in world.record().events if event.type in ("OrderFulfilled", "OrderFailed")]
            seen.append((asked, said, subjects, books.cents, len(books.refunded), business(world)))
    assert seen[0] == seen[1]


async def test_a_definition_hears_of_a_cancellation_when_it_goes_on(shop: Shop) -> None:
    """The customer cancels while the machine waits; before it ships it sees that, and takes all of it back."""
    order_id = await shop.order(fulfilment="definition")
    assert (await shop.shown(order_id))["waits_for"] == "sleep Time to think better of it"
    assert await shop.cancel(order_id) == 202
    await shop.world.advance(WINDOW)
    assert await shop.status(order_id) == "CANCELLED"
    assert shop.books.cents == 0
    assert shop.left() == [(1_500, 1_500)]
