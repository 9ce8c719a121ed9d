"""The same payments between message queues: upstream orders them over one system, downstream is told over another.

    upstream channel -> service A -> B -> the ledger C -> downstream channel

``PAYMENTS_UPSTREAM`` and ``PAYMENTS_DOWNSTREAM`` are the URLs of the two; what carries events between the services is
none of theirs (``--bus redis://...``, a file unless said). Without them both channels are a folder, ``exchange``: lines
that are added to ``payments.ordered.jsonl`` there are paid, and answers are added to files beside it.
"""

import os
from decimal import Decimal
from pathlib import Path

from antiphon import App, Event, Service, Transaction

from . import retries
from .downstream import write_down
from .messages import CURRENCY, InitiatePayment, Outcome, PaymentAdvised, PaymentAnswered
from .service_a import service_a
from .service_b import service_b
from .service_c import service_c

FOLDER = f"folder://{Path('exchange').absolute()}"
UPSTREAM = os.environ.get("PAYMENTS_UPSTREAM", FOLDER)
DOWNSTREAM = os.environ.get("PAYMENTS_DOWNSTREAM", FOLDER)
#: What the queues, topics or files are called.
PREFIX = os.environ.get("PAYMENTS_PREFIX", "payments")


class PaymentOrdered(Event, key="payment_id"):
    """What an upstream system sends: a payment under its own id."""

    payment_id: str
    debtor: str
    creditor: str
    amount: Decimal
    reference: str
    currency: str = CURRENCY


class OrderAnswered(Event, key="payment_id"):
    """What it is told, once. *reason* is that of a rejection."""

    payment_id: str
    outcome: Outcome
    reason: str | None


class PaymentReported(Event, key="payment_id"):
    """What the downstream system is told of a payment, once."""

    payment_id: str
    outcome: Outcome
    reason: str | None


upstream = Service("upstream", tables="upstream.sql")
downstream = Service("downstream", tables="downstream.sql")


@upstream.on(PaymentOrdered, retry=retries.DATABASE)
async def deliver(ordered: PaymentOrdered, tx: Transaction) -> InitiatePayment | None:
    """Hand a payment to A. An id that was ordered before, in another message, is not paid twice."""
    taken = await tx.execute(
        "INSERT INTO payments (payment_id, taken_at) VALUES (?, ?) ON CONFLICT DO NOTHING",
        ordered.payment_id,
        tx.now.isoformat(),
    )
    if not taken:
        return None
    return InitiatePayment(
        payment_id=ordered.payment_id,
        debtor=ordered.debtor,
        creditor=ordered.creditor,
        amount=ordered.amount,
        currency=ordered.currency,
        reference=ordered.reference,
    )


@upstream.on(PaymentAnswered, retry=retries.DATABASE)
async def answer(answered: PaymentAnswered, tx: Transaction) -> OrderAnswered:
    """Write down how the payment has ended, and tell the upstream system."""
    await tx.execute(
        "UPDATE payments SET status = ?, reason = ?, answers = answers + 1 WHERE payment_id = ?",
        answered.outcome,
        answered.reason,
        answered.payment_id,
    )
    return OrderAnswered(answered.payment_id, answered.outcome, answered.reason)


@downstream.on(PaymentAdvised, retry=retries.DATABASE)
async def report(advised: PaymentAdvised, tx: Transaction) -> PaymentReported:
    """Keep an advice, and send it downstream."""
    await write_down(advised, tx)
    return PaymentReported(advised.payment_id, advised.outcome, advised.reason)


def place(url: str, what: str) -> str:
    """What the system at *url* calls the place of *what*."""
    return f"{PREFIX}.{what}.jsonl" if url.startswith("folder:") else f"{PREFIX}.{what}"


app = App(upstream, service_a, service_b, service_c, downstream, name="payments_stp", own_stores=True)
app.channel(
    UPSTREAM,
    name="orders",
    inbound={place(UPSTREAM, "ordered"): PaymentOrdered},
    outbound={place(UPSTREAM, "answered"): OrderAnswered},
    identify=lambda message: message.id or message.body.decode(),
)
app.channel(DOWNSTREAM, name="reports", outbound={place(DOWNSTREAM, "reported"): PaymentReported})
