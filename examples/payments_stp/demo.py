"""The payments as ``antiphon demo`` shows them: purchases that were really made, some mistyped, some refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from antiphon.demo.chance import Chance
from antiphon.demo.subject import Subject

from . import app
from .accounts import account_number, merchant_account
from .purchases import purchases

SHOP = merchant_account(0)
#: The shop's account at another bank, which the ledger does not hold.
SHOP_ELSEWHERE = account_number(0, bank="ELSE")
MISTYPED_SHARE, ELSEWHERE_SHARE = 0.05, 0.03


def payment(chance: Chance, number: int) -> dict[str, Any]:
    """The *number*-th request; after the last purchase the first comes again."""
    purchase = purchases()[number % len(purchases())]
    debtor = account_number(purchase.customer)
    if chance.of("mistyped", number) < MISTYPED_SHARE:
        debtor = debtor[:-1] + str((int(debtor[-1]) + 1) % 10)
    elsewhere = chance.of("elsewhere", number) < ELSEWHERE_SHARE
    return {
        "debtor": debtor,
        "creditor": SHOP_ELSEWHERE if elsewhere else SHOP,
        "amount": str(purchase.dollars),
        "currency": "USD",
        "reference": f"CDNOW {purchase.day}, {purchase.discs} CDs",
    }


def subject() -> Subject:
    """What the demo is told. Raises AntiphonError if the purchases are not installed."""
    purchases()
    return Subject(
        app=app,
        noun="payment",
        path="/payments",
        id_field="payment_id",
        request=payment,
        progress=("upstream", "SELECT status, count(*) FROM payments GROUP BY status"),
        statuses=("IN_PROGRESS", "COMPLETED", "REJECTED"),
        ends={"COMPLETED": "green", "REJECTED": "yellow"},
        last_events=("RS_A_INIT",),
        audit_sql=Path(__file__).with_name("audit.sql").read_text(encoding="utf-8"),
        summary=_summary,
        addresses=(("/advices", "what the downstream channel was told"),),
        hint="post a payment in the API with a wrong digit in an account number: RQ_B_REJ is seen in tail",
        counters={
            "postings": ("service_c", "SELECT count(*) FROM postings"),
            "advices": ("downstream", "SELECT count(*) FROM advices"),
        },
        at_rest=lambda statuses, counters: counters["advices"] >= sum(statuses.values()),
        kill_every_s=3.0,
    )


def _summary(facts: Mapping[str, Any]) -> list[str]:
    return [
        f"{facts['accepted']} payments accepted in {facts['seconds']:.1f} s: {facts['completed']} completed, "
        f"{facts['rejected']} rejected, of these {facts['invalid']} by A's validation and {facts['refused']} by the "
        "ledger.",
        f"The ledger: {facts['postings']} postings, debits {_dollars(facts['debit_cents'])}, credits "
        f"{_dollars(facts['credit_cents'])}, their sum {_dollars(facts['credit_cents'] - facts['debit_cents'])}.",
    ]


def _dollars(cents: int) -> str:
    return f"{cents // 100:,}.{cents % 100:02d} USD"
