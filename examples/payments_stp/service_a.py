"""Service A: validates what the upstream channel delivers, has B process it, and hands B's answer back."""

from collections.abc import Iterator

from antiphon import Delivery, Service, Transaction

from . import retries
from .accounts import is_valid
from .messages import (
    CURRENCY,
    InitiatePayment,
    Outcome,
    PaymentAnswered,
    PaymentRejected,
    PaymentSettled,
    ProcessPayment,
    RejectPayment,
)

service_a = Service("service_a", tables="service_a.sql")


@service_a.on(InitiatePayment, retry=retries.DATABASE)
async def initiate(
    init: InitiatePayment, tx: Transaction, delivery: Delivery
) -> ProcessPayment | RejectPayment | PaymentAnswered | None:
    """Ask B: RQ_B_STP for a valid payment, RQ_B_REJ for any other. It answers later, when B has."""
    reason = "; ".join(faults_of(init))
    asked: ProcessPayment | RejectPayment
    if reason:
        asked = RejectPayment(init.payment_id, reason)
    else:
        asked = ProcessPayment(init.payment_id, init.debtor, init.creditor, init.amount, init.currency, init.reference)
    await tx.execute(
        "INSERT INTO working_data (request_id, payment_id, asked_by) VALUES (?, ?, ?)",
        await tx.request(asked),
        init.payment_id,
        delivery.envelope.id,
    )
    return None


@service_a.on(PaymentSettled, PaymentRejected, retry=retries.DATABASE)
async def answer(
    outcome: PaymentSettled | PaymentRejected, tx: Transaction, delivery: Delivery
) -> PaymentAnswered | None:
    """Answer upstream's request with what B has answered to ours."""
    asked_by = await tx.fetch_value(
        "DELETE FROM working_data WHERE request_id = ? RETURNING asked_by", delivery.envelope.request_id
    )
    if isinstance(outcome, PaymentSettled):
        answered = PaymentAnswered(outcome.payment_id, Outcome.COMPLETED, None)
    else:
        answered = PaymentAnswered(outcome.payment_id, Outcome.REJECTED, outcome.reason)
    await tx.reply(asked_by, answered)
    return None


def faults_of(init: InitiatePayment) -> Iterator[str]:
    """What is wrong with a payment, in words."""
    for role, account in (("debtor", init.debtor), ("creditor", init.creditor)):
        if not is_valid(account):
            yield f"the {role}'s account number is wrong"
    if init.debtor == init.creditor:
        yield "debtor and creditor are the same"
    if not init.amount > 0:
        yield "the amount is not above zero"
    elif init.amount != round(init.amount, 2):
        yield "the amount has fractions of a cent"
    if init.currency != CURRENCY:
        yield f"the currency is not {CURRENCY}"
