"""What `antiphon simulate examples.payments_stp:app` is told: who pays whom, and what must hold whatever goes wrong."""

from random import Random  # noqa: TID251  the simulator's, seeded
from typing import Any

from antiphon import Look

from . import app
from .accounts import account_number, merchant_account

_CUSTOMERS = [account_number(number) for number in range(4)]
_MERCHANTS = [merchant_account(number) for number in range(2)]


@app.traffic(weight=4)
def payment(random: Random) -> tuple[str, str, dict[str, Any]]:
    """A customer pays a merchant; whoever pays often comes to the end of the credit."""
    return _payment(random, random.choice(_MERCHANTS), f"{random.randrange(100, 9_000) / 100:.2f}")


@app.traffic
def payment_that_is_invalid(random: Random) -> tuple[str, str, dict[str, Any]]:
    """A digit is mistyped, or nothing is paid."""
    merchant = random.choice(_MERCHANTS)
    mistyped = merchant[:-1] + str((int(merchant[-1]) + 1) % 10)
    return _payment(random, *random.choice([(mistyped, "10.00"), (merchant, "0.00")]))


@app.traffic
def payment_that_the_ledger_refuses(random: Random) -> tuple[str, str, dict[str, Any]]:
    """The creditor's account is at another bank, or the amount is more than anybody has."""
    foreign = account_number(7, bank="ELSE")
    return _payment(random, *random.choice([(foreign, "10.00"), (random.choice(_MERCHANTS), "1000.00")]))


@app.invariant
def the_sum_of_the_ledger_is_zero(look: Look) -> None:
    """After every commit debits and credits are equal, of each payment too, and balances are their sums."""
    total = look.value("service_c", "SELECT total(amount) FROM postings")
    assert total == 0, f"the sum is {total}"
    sides = "SELECT payment_id, count(*), sum(amount) FROM postings GROUP BY payment_id"
    for payment_id, count, amount in look.rows("service_c", sides):
        assert (count, amount) == (2, 0), f"{payment_id}: {count} sides, sum {amount}"
    balances = (
        "SELECT account, balance, (SELECT coalesce(sum(amount), 0) FROM postings AS p WHERE p.account = a.account)"
        " FROM accounts AS a"
    )
    for account, balance, posted in look.rows("service_c", balances):
        assert balance == posted, f"{account}: the balance is {balance}, the postings are {posted}"


@app.invariant
def what_is_told_is_what_is_posted(look: Look) -> None:
    """A payment is told to be COMPLETED only if it is posted, and REJECTED only if it is not and will not be."""
    posted = {row["payment_id"] for row in look.rows("service_c", "SELECT payment_id FROM entries")}
    told = {
        "service_b": "SELECT payment_id, outcome FROM payments",
        "upstream": "SELECT payment_id, status FROM payments WHERE status <> 'IN_PROGRESS'",
        "downstream": "SELECT payment_id, outcome FROM advices",
    }
    for service, sql in told.items():
        for payment_id, outcome in look.rows(service, sql):
            assert (outcome == "COMPLETED") == (payment_id in posted), (
                f"{service}: {payment_id} is {outcome}, and {'is' if payment_id in posted else 'is not'} posted"
            )


@app.invariant
def nobody_is_told_twice(look: Look) -> None:
    """The upstream channel is answered once."""
    for row in look.rows("upstream", "SELECT payment_id, answers FROM payments WHERE answers > 1"):
        raise AssertionError(f"{row['payment_id']} was answered {row['answers']} times")


@app.invariant(at="end")
def every_payment_is_answered(look: Look) -> None:
    """At rest both channels know of each payment, and A keeps none; unless one of its messages is a dead letter."""
    dead = look.dead_keys()
    advised = {row["payment_id"] for row in look.rows("downstream", "SELECT payment_id FROM advices")}
    kept = {row["payment_id"] for row in look.rows("service_a", "SELECT payment_id FROM working_data")}
    for row in look.rows("upstream", "SELECT payment_id, status FROM payments"):
        payment_id = row["payment_id"]
        if payment_id in dead:
            continue
        assert row["status"] != "IN_PROGRESS", f"{payment_id} was never answered"
        assert payment_id in advised, f"{payment_id} was not advised"
        assert payment_id not in kept, f"A still waits for B's answer to {payment_id}"


def _payment(random: Random, creditor: str, amount: str) -> tuple[str, str, dict[str, Any]]:
    body = {"debtor": random.choice(_CUSTOMERS), "creditor": creditor, "amount": amount, "reference": "simulated"}
    return "POST", "/payments", body
