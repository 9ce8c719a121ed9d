"""Given, when, then: one handler, in a real transaction, without a runtime."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from antiphon import Delivery, Event, InvalidEvent, Reject, Service, SyncTransaction, Transaction, minutes
from antiphon.errors import DeclarationError, NotAnnotated
from antiphon.testing import given


class Opened(Event, key="account"):
    """An account was opened."""

    account: str


class Deposited(Event, key="account"):
    """Money came in."""

    account: str
    amount: Decimal


class Withdrawn(Event, key="account"):
    """Money went out."""

    account: str
    amount: Decimal


class Overdrawn(Event, key="account"):
    """There was not enough."""

    account: str
    missing: Decimal


bank = Service("bank", tables="CREATE TABLE accounts (account TEXT PRIMARY KEY, cents INTEGER CHECK (cents < 1000))")


@bank.on(Opened)
async def open_account(opened: Opened, tx: Transaction) -> None:
    """Open it."""
    await tx.execute("INSERT INTO accounts VALUES (?, 0)", opened.account)


@bank.on(Deposited)
async def deposit(deposited: Deposited, tx: Transaction) -> None:
    """Put money in."""
    changed = await tx.execute(
        "UPDATE accounts SET cents = cents + ? WHERE account = ?", int(deposited.amount * 100), deposited.account
    )
    if not changed:
        raise Reject(f"there is no account {deposited.account}")


@bank.on(Deposited)
async def note(deposited: Deposited, delivery: Delivery) -> None:
    """A second handler of the same event."""
    assert delivery.attempt == 1


@bank.on(Withdrawn)
def withdraw(withdrawn: Withdrawn, tx: SyncTransaction) -> list[Withdrawn | Overdrawn]:
    """Take money out, if there is enough."""
    cents = tx.fetch_value("SELECT cents FROM accounts WHERE account = ?", withdrawn.account)
    missing = withdrawn.amount - Decimal(cents) / 100
    return [Overdrawn(withdrawn.account, missing)] if missing > 0 else []


RICH = given(bank, Opened("a"), Deposited("a", Decimal(5)))


def test_what_came_before_is_handled_first() -> None:
    """Earlier events have been handled by all handlers of the service, in order, and can be built upon twice."""
    RICH.when(Withdrawn("a", Decimal(5))).then()
    RICH.when(Withdrawn("a", Decimal(7))).then(Overdrawn("a", Decimal(2)))
    RICH.when(Deposited("a", Decimal(1)), handler=deposit).then().then_rows("SELECT * FROM accounts", ("a", 600))


def test_rows_can_be_put_there() -> None:
    """What no event of the service makes is put there by SQL."""
    outcome = given(bank).having("INSERT INTO accounts VALUES (?, ?)", "b", 100).when(Withdrawn("b", Decimal(3)))
    outcome.then(Overdrawn)
    assert outcome.published == [Overdrawn("b", Decimal(2))]


def test_what_fails_leaves_nothing() -> None:
    """A handler that refuses or raises is told apart by type and text; its writes are undone."""
    given(bank).when(Deposited("x", Decimal(1)), handler="deposit").then_rejected("no account x")
    outcome = RICH.when(Deposited("a", Decimal(10)), handler="bank.deposit").then_raises(Exception, "CHECK")
    outcome.then_rows("SELECT cents FROM accounts", (500,))
    assert outcome.published == []


@pytest.mark.anyio
async def test_a_handler_with_a_session_in_a_loop_that_runs() -> None:
    """SQLAlchemy sessions are given; a test that is a coroutine can claim as well."""
    service = Service("orm", tables="CREATE TABLE t (n INTEGER)")

    @service.on(Opened)
    async def write(opened: Opened, session: AsyncSession, tx: Transaction) -> Withdrawn | Opened:
        await session.execute(text("INSERT INTO t VALUES (1)"))
        await tx.publish_later(opened, delay=minutes(1))
        return Withdrawn(opened.account, Decimal(1))

    given(service).when(Opened("a")).then(Withdrawn("a", Decimal(1))).then_rows("SELECT n FROM t", (1,))


def test_a_publication_that_is_not_annotated_is_an_error() -> None:
    """The contract of the annotation holds here too."""
    service = Service("liar")

    @service.on(Opened)
    async def lie(opened: Opened, tx: Transaction) -> None:
        tx.publish(Withdrawn("a", Decimal(1)))

    given(service).when(Opened("a")).then_raises(NotAnnotated)


def said(claim: Callable[[], object]) -> list[str]:
    """The lines of a claim that must fail."""
    with pytest.raises(AssertionError) as caught:
        claim()
    return str(caught.value).splitlines()


def test_a_claim_that_does_not_hold_says_what_was() -> None:
    """Other events, another number, an error instead, no error, another error, other rows."""
    poor = RICH.when(Withdrawn("a", Decimal(7)))
    overdrawn = "Overdrawn(account='a', missing=Decimal('2'))"
    assert said(lambda: poor.then(Overdrawn("a", Decimal(3)))) == [
        "bank.withdraw published otherwise",
        f"  1. {overdrawn}",
        "     not Overdrawn(account='a', missing=Decimal('3'))",
    ]
    assert said(lambda: poor.then(Overdrawn, Withdrawn)) == [
        "bank.withdraw published otherwise",
        f"  1. {overdrawn}",
        "  2. nothing",
        "     not Withdrawn",
    ]
    assert said(poor.then)[1:] == [f"  1. {overdrawn}", "     not nothing"]
    assert said(lambda: poor.then_rejected()) == [f"bank.withdraw raised no Reject, but published {overdrawn}"]
    rejected = given(bank).when(Deposited("x", Decimal(1)), handler=deposit)
    assert said(rejected.then) == ["bank.deposit raised Reject: there is no account x."]
    assert said(lambda: rejected.then_rejected("locked")) == [
        "bank.deposit raised Reject: there is no account x., not Reject with 'locked'"
    ]
    assert said(lambda: rejected.then_raises(KeyError))[0].endswith("not KeyError")
    assert said(lambda: poor.then_rows("SELECT cents FROM accounts", (1,))) == [
        "SELECT cents FROM accounts",
        "  finds [(500,)]",
        "  not   [(1,)]",
    ]


def test_what_cannot_be_is_refused() -> None:
    """An event that could not have been published, that nobody handles, or that several do; a broken past."""
    with pytest.raises(InvalidEvent, match="amount"):
        given(bank).when(Withdrawn("a", Decimal("NaN")))
    with pytest.raises(DeclarationError, match="0 handlers of service 'bank' take Overdrawn"):
        given(bank).when(Overdrawn("a", Decimal(1)))
    with pytest.raises(DeclarationError, match=r"2 handlers .*: bank.deposit, bank.note. Say handler="):
        given(bank).when(Deposited("a", Decimal(1)))
    with pytest.raises(DeclarationError, match=r"no handler .*takes Overdrawn.*having"):
        given(bank, Overdrawn("a", Decimal(1))).when(Opened("b"))
    assert said(lambda: given(bank, Deposited("x", Decimal(1))).when(Opened("b"))) == [
        "given Deposited(account='x', amount=Decimal('1')): bank.deposit raised Reject: there is no account x."
    ]
