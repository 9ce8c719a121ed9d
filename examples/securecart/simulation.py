"""What `antiphon simulate examples.securecart:app` is told: who orders what, and what must hold whatever goes wrong."""

from asyncio import BaseProtocol
from collections import defaultdict
from random import Random  # noqa: TID251  the simulator's, seeded
from typing import Any

import msgspec

from antiphon import Look

from .. import mail  # noqa: TID252  in a wheel the package above has another name
from . import app, bank
from .bank_stand_in import Books, Teller
from .events import ChargeCard
from .shoppers import account_of, order

_ACCOUNTS = 2
_GIVEN_UP = ("FAILED", "CANCELLED")


@app.traffic(weight=5)
def an_order(random: Random) -> tuple[str, str, dict[str, Any]]:
    """One of a few people orders something."""
    way = random.choice(("function", "function", "definition"))
    return "POST", "/orders", {**order(random, _ACCOUNTS), "fulfilment": way}


@app.traffic(weight=1)
def a_change_of_mind(random: Random) -> tuple[str, str, dict[str, Any]]:
    """One of them cancels all that is not on its way."""
    return "POST", f"/accounts/{account_of(random, _ACCOUNTS)}/cancel", {}


@app.stand_in(bank.HOST, bank.PORT)
def the_bank(memory: dict[str, Any]) -> BaseProtocol:
    """A bank with books."""
    return Teller(memory.setdefault("books", Books()))


app.stand_in("127.0.0.1", 1025)(mail.sink)


@app.invariant
def nothing_is_sold_that_is_not_there(look: Look) -> None:
    """What was received is free, or it is reserved or shipped for an order."""
    taken: dict[str, int] = defaultdict(int)
    for row in look.rows("inventory", "SELECT sku, quantity FROM reservations WHERE state <> 'RELEASED'"):
        taken[row["sku"]] += row["quantity"]
    for row in look.rows("inventory", "SELECT sku, free, received FROM stock"):
        sku, free, received = row
        assert free >= 0, f"{sku}: {free} are free"
        assert free + taken[sku] == received, f"{sku}: {received} received, {free} free, {taken[sku]} taken"


@app.invariant
def the_bank_and_we_agree(look: Look) -> None:
    """Every charge and refund of ours is in the bank's books, once and of that amount."""
    books = look.outside(bank.HOST, bank.PORT).get("books") or Books()
    for row in look.rows("payments", "SELECT number, cents, refunded_at FROM charges"):
        assert books.charges[row["number"]][1] == row["cents"], f"{row['number']}: not {row['cents']} cents"
        if row["refunded_at"] is not None:
            assert row["number"] in books.refunded, f"{row['number']} was not given back by the bank"


@app.invariant
def what_is_shipped_is_paid(look: Look) -> None:
    """An order is SHIPPED only if its charge stands, of its amount, and its parcel has all its pieces."""
    charges = {
        row["order_id"]: row["cents"]
        for row in look.rows("payments", "SELECT order_id, cents FROM charges WHERE refunded_at IS NULL")
    }
    parcels = {row["order_id"]: row["pieces"] for row in look.rows("shipping", "SELECT order_id, pieces FROM parcels")}
    for row in look.rows(
        "orders",
        "SELECT order_id, cents, total(quantity) AS pieces FROM orders JOIN order_lines USING (order_id) "
        "WHERE status = 'SHIPPED' GROUP BY order_id",
    ):
        id_ = row["order_id"]
        assert charges.get(id_) == row["cents"], f"{id_}: {row['cents']} cents owed, {charges.get(id_)} paid"
        assert parcels.get(id_) == row["pieces"], f"{id_}: {row['pieces']} pieces ordered, {parcels.get(id_)} sent"


@app.invariant
def what_is_given_up_leaves_nothing(look: Look) -> None:
    """An order is FAILED or CANCELLED only if nothing is paid, reserved or sent for it."""
    left: dict[str, str] = {}
    for service, sql in (
        ("payments", "SELECT order_id, 'paid' FROM charges WHERE refunded_at IS NULL"),
        ("inventory", "SELECT order_id, 'reserved' FROM reservations WHERE state <> 'RELEASED'"),
        ("shipping", "SELECT order_id, 'sent' FROM parcels"),
    ):
        left.update((row[0], row[1]) for row in look.rows(service, sql))
    for row in look.rows("orders", "SELECT order_id, status FROM orders"):
        if row["status"] in _GIVEN_UP:
            assert row["order_id"] not in left, f"{row['order_id']} is {row['status']}, and {left[row['order_id']]}"


@app.invariant
def an_account_pays_in_order(look: Look) -> None:
    """The charges of an account are booked in the order in which they were asked for."""
    asked: dict[str, list[str]] = defaultdict(list)
    for row in look.rows("payments", "SELECT data FROM antiphon_log WHERE type = 'ChargeCard' ORDER BY seq"):
        charge = msgspec.json.decode(row["data"], type=ChargeCard)
        asked[charge.account].append(charge.order_id)
    booked: dict[str, list[str]] = defaultdict(list)
    for row in look.rows("payments", "SELECT account, order_id FROM charges ORDER BY nr"):
        booked[row["account"]].append(row["order_id"])
    for account, ids in booked.items():
        wanted = [each for each in asked[account] if each in ids]
        assert ids == wanted, f"{account}: booked {ids}, asked for {wanted}"


@app.invariant(at="end")
def every_order_ends(look: Look) -> None:
    """At rest an order is SHIPPED, FAILED or CANCELLED, the customer knows, and a failed one is a dead letter; unless
    what moves it on became a dead letter itself, or its undoing did."""
    mailed = {row["order_id"]: row["status"] for row in look.rows("notifications", "SELECT * FROM emails")}
    aside = _dead(look, "orders", "set_aside")
    unmailed = _dead(look, "notifications", "notify")
    held_up = _dead(look, "orders", "fulfil", "fulfil.inbox", "fulfil_by_definition", "fulfil_by_definition.inbox")
    # Or it waits, visibly, for a person.
    held_up |= {row[0] for row in look.rows("orders", "SELECT key FROM antiphon_runs WHERE state = 'STUCK'")}
    for row in look.rows("orders", "SELECT order_id, status FROM orders"):
        id_, status = row["order_id"], row["status"]
        if id_ in held_up:
            continue
        assert status in ("SHIPPED", *_GIVEN_UP), f"{id_} is {status}"
        told = mailed.get(id_)
        assert told == status or id_ in unmailed, f"{id_} is {status}, and the customer was told {told}"
        assert (id_ in aside) == (status == "FAILED"), f"{id_} is {status}; set aside are {sorted(aside)}"


@app.invariant(at="end")
def all_money_is_accounted_for(look: Look) -> None:
    """At rest the bank has of our customers exactly what we know of, unless a booking became a dead letter."""
    books = look.outside(bank.HOST, bank.PORT).get("books") or Books()
    known = look.value("payments", "SELECT coalesce(sum(cents), 0) FROM charges WHERE refunded_at IS NULL")
    assert books.cents == known or _dead(look, "payments", "book"), f"the bank has {books.cents} cents, we know {known}"


def _dead(look: Look, service: str, *handlers: str) -> set[str]:
    """The orders that a service has dead letters of these handlers for."""
    sql = (
        "SELECT coalesce(r.key, l.key) FROM antiphon_deliveries AS d "
        "JOIN antiphon_handlers AS h ON h.id = d.handler_id JOIN antiphon_log AS l ON l.seq = d.seq "
        "LEFT JOIN antiphon_runs AS r ON r.correlation_id = l.correlation_id "
        "WHERE d.status IN ('ERROR', 'FAILED') AND h.name = ?"
    )
    return {str(row[0]) for handler in handlers for row in look.rows(service, sql, f"{service}.{handler}")}
