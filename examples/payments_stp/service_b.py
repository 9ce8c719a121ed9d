"""Service B: processes a payment, or rejects it, and tells both channels what became of it."""

from antiphon import Refused, Service, Transaction, Workflow

from . import retries
from .messages import (
    Outcome,
    PaymentAdvised,
    PaymentRejected,
    PaymentSettled,
    PostCredit,
    PostDebit,
    ProcessPayment,
    RejectPayment,
    SidePosted,
    SideRefused,
    VoidAnswered,
    VoidPosting,
)

service_b = Service("service_b", tables="service_b.sql")


class Unposted(Exception):
    """The ledger has posted nothing of the payment, and never will."""


class Undecided(Exception):
    """One side became a dead letter: the ledger has not decided yet."""


@service_b.workflow(
    starts=(ProcessPayment, RejectPayment),
    awaits=(SidePosted, SideRefused, VoidAnswered, Refused),
    publishes=(PostDebit, PostCredit, VoidPosting, PaymentSettled, PaymentRejected, PaymentAdvised),
    retry=retries.DATABASE,
)
async def process(asked: ProcessPayment | RejectPayment, wf: Workflow) -> None:
    """Post both sides of the payment, or none; then answer upstream and downstream."""
    reason = None
    if isinstance(asked, RejectPayment):
        reason = asked.reason
    else:
        wf.state = {"phase": "posting", "amount": str(asked.amount)}
        try:
            await post(asked, wf)
        except Unposted as refused:
            reason = str(refused)
    await wf.step(answer, wf.id, asked.payment_id, reason)
    wf.state = {"phase": "answered", "reason": reason}


async def post(payment: ProcessPayment, wf: Workflow) -> None:
    """Have the ledger post both sides. Raises Unposted when it has posted neither, and will not."""
    told = (payment.amount, payment.currency)
    try:
        await wf.gather(
            side(PostDebit(payment.payment_id, payment.debtor, *told), wf),
            side(PostCredit(payment.payment_id, payment.creditor, *told), wf),
        )
    except Undecided as error:
        # The dead letter may be redriven some day: what is told now must stay true then. A void that becomes one
        # itself is waited for, until somebody has mended it.
        voided = await wf.request(VoidPosting(payment.payment_id, str(error)), VoidAnswered)
        if not voided.posted:
            raise Unposted(str(error)) from error


async def side(command: PostDebit | PostCredit, wf: Workflow) -> None:
    """Ask for one side. Raises Unposted, Undecided."""
    answered = await wf.request(command, SidePosted, SideRefused, Refused)
    if isinstance(answered, SideRefused):
        raise Unposted(answered.reason)
    if isinstance(answered, Refused):
        raise Undecided(answered.reason)


async def answer(request_id: str, payment_id: str, reason: str | None, tx: Transaction) -> None:
    """Tell both channels, and write down what."""
    outcome = Outcome.COMPLETED if reason is None else Outcome.REJECTED
    await tx.execute(
        "INSERT INTO payments (payment_id, outcome, reason, answered_at) VALUES (?, ?, ?, ?)",
        payment_id,
        outcome,
        reason,
        tx.now.isoformat(),
    )
    tx.publish(PaymentAdvised(payment_id, outcome, reason))
    await tx.reply(request_id, PaymentSettled(payment_id) if reason is None else PaymentRejected(payment_id, reason))
