"""The messages of a payment, by the types that stand in the event tables. All are keyed by the payment.

``RQ_`` asks, ``RS_`` answers; ``DR_`` and ``CR_`` are the two sides of a posting. Each is addressed to one service, and
what answers it goes back to the one that asked.
"""

from decimal import Decimal
from enum import StrEnum

from antiphon import Command, Event

#: What all accounts are in.
CURRENCY = "USD"


class Outcome(StrEnum):
    """How a payment ends."""

    COMPLETED = "COMPLETED"
    REJECTED = "REJECTED"


# ---------------------------------------------------------------------- upstream and A


class PaymentAnswered(Event, type="RS_A_INIT", key="payment_id"):
    """What the upstream channel is told, once. *reason* is that of a rejection."""

    payment_id: str
    outcome: Outcome
    reason: str | None


class InitiatePayment(Command[PaymentAnswered], type="RQ_A_INIT", key="payment_id", to="service_a"):
    """The upstream channel delivers a payment as its customer wrote it."""

    payment_id: str
    debtor: str
    creditor: str
    amount: Decimal
    currency: str
    reference: str


# ---------------------------------------------------------------------- A and B


class PaymentSettled(Event, type="RS_B_STP", key="payment_id"):
    """Both sides of the payment are posted."""

    payment_id: str


class PaymentRejected(Event, type="RS_B_REJ", key="payment_id"):
    """The payment was rejected; nothing is posted, and nothing will be."""

    payment_id: str
    reason: str


class ProcessPayment(Command[PaymentSettled | PaymentRejected], type="RQ_B_STP", key="payment_id", to="service_b"):
    """A valid payment, to be passed straight through."""

    payment_id: str
    debtor: str
    creditor: str
    amount: Decimal
    currency: str
    reference: str


class RejectPayment(Command[PaymentRejected], type="RQ_B_REJ", key="payment_id", to="service_b"):
    """A payment that did not pass A's validation, to be answered as rejected."""

    payment_id: str
    reason: str


# ---------------------------------------------------------------------- B and the ledger C


class SidePosted(Event, type="RS_C_POST", key="payment_id"):
    """This side of the payment is posted, and so is the other."""

    payment_id: str


class SideRefused(Event, type="RS_C_REF", key="payment_id"):
    """Neither side of the payment is posted, and neither will be."""

    payment_id: str
    reason: str


class PostDebit(Command[SidePosted | SideRefused], type="DR_C_POST", key="payment_id", to="service_c"):
    """Take an amount from an account, provided that the credit of the same payment is posted with it."""

    payment_id: str
    account: str
    amount: Decimal
    currency: str


class PostCredit(Command[SidePosted | SideRefused], type="CR_C_POST", key="payment_id", to="service_c"):
    """Give an amount to an account, provided that the debit of the same payment is posted with it."""

    payment_id: str
    account: str
    amount: Decimal
    currency: str


class VoidAnswered(Event, type="RS_C_VOID", key="payment_id"):
    """What is final now: the payment *posted* as a whole, or not at all."""

    payment_id: str
    posted: bool


class VoidPosting(Command[VoidAnswered], type="RQ_C_VOID", key="payment_id", to="service_c"):
    """One side cannot be handled: post nothing of this payment from now on, unless all of it is posted already."""

    payment_id: str
    reason: str


# ---------------------------------------------------------------------- B and downstream


class PaymentAdvised(Event, type="NT_D_ADVICE", key="payment_id"):
    """What the downstream channel is told of a payment, once."""

    payment_id: str
    outcome: Outcome
    reason: str | None
