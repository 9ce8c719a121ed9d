"""The upstream channel: takes payments from customers, hands them to service A, and keeps what it is answered."""

from decimal import Decimal
from typing import Annotated, Any

from fastapi import HTTPException
from pydantic import BaseModel, Field, StringConstraints

from antiphon import Service, Transaction

from . import retries
from .messages import InitiatePayment, PaymentAnswered

upstream = Service("upstream", tables="upstream.sql")

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=140)]


class NewPayment(BaseModel):
    """What a customer writes. Whether it can be paid is for others to say; the channel only delivers it."""

    debtor: Text
    creditor: Text
    amount: Annotated[Decimal, Field(max_digits=14, decimal_places=2)]
    currency: Text = "USD"
    reference: Text


@upstream.post("/payments")
async def deliver(new: NewPayment, tx: Transaction) -> InitiatePayment:
    """Take a payment; 202 once it is durable. It is answered later: see GET /payments/{payment_id}."""
    payment_id = tx.new_id()
    await tx.execute("INSERT INTO payments (payment_id, taken_at) VALUES (?, ?)", payment_id, tx.now.isoformat())
    return InitiatePayment(payment_id=payment_id, **new.model_dump())


@upstream.get("/payments/{payment_id}")
async def show(payment_id: str, tx: Transaction) -> dict[str, Any]:
    """A payment: IN_PROGRESS, COMPLETED, or REJECTED with the reason."""
    row = await tx.fetch_one("SELECT payment_id, status, reason FROM payments WHERE payment_id = ?", payment_id)
    if row is None:
        raise HTTPException(404, f"there is no payment {payment_id}")
    return dict(row)


@upstream.on(PaymentAnswered, retry=retries.DATABASE)
async def keep_answer(answered: PaymentAnswered, tx: Transaction) -> None:
    """Write down how the payment has ended, and that this was said once more."""
    await tx.execute(
        "UPDATE payments SET status = ?, reason = ?, answers = answers + 1 WHERE payment_id = ?",
        answered.outcome,
        answered.reason,
        answered.payment_id,
    )
