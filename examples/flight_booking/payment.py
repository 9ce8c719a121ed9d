"""The Payment service: charges cards, and gives the money back when there is no seat."""

from decimal import Decimal

from antiphon import Effects, Reject, Service, Transaction

from . import bank, retries
from .events import BookingCreated, PaymentConfirmed, PaymentFailed, PaymentRefunded, SeatUnavailable

payment = Service("payment", tables="payment.sql")


@payment.on(BookingCreated, retry=retries.CHARGE, concurrency=16)
async def charge(booking: BookingCreated, tx: Transaction, effects: Effects) -> PaymentConfirmed | PaymentFailed:
    """Charge the card, unless its bank declines.

    The call is recorded before it is made. After a crash it is made again with the same key, which the bank
    recognises: the card is charged once.
    """
    key = effects.key("charge")
    answer = await effects.once("charge", bank.charge, key, booking.card_last4, booking.price, idempotent=True)
    if answer.declined is not None:
        return PaymentFailed(booking_id=booking.booking_id, reason=answer.declined)
    await tx.execute(
        "INSERT INTO charges (booking_id, amount, card_last4, charged_at) VALUES (?, ?, ?, ?)",
        booking.booking_id,
        str(booking.price),
        booking.card_last4,
        tx.now.isoformat(),
    )
    return PaymentConfirmed(
        booking_id=booking.booking_id,
        flight=booking.flight,
        passenger=booking.passenger,
        email=booking.email,
        amount=booking.price,
    )


@payment.on(SeatUnavailable, retry=retries.REFUND, compensates=charge)
async def refund(unavailable: SeatUnavailable, tx: Transaction) -> PaymentRefunded:
    """Compensate: what `charge` took is given back."""
    given_back = await tx.execute(
        "UPDATE charges SET refunded_at = ? WHERE booking_id = ? AND refunded_at IS NULL",
        tx.now.isoformat(),
        unavailable.booking_id,
    )
    if not given_back:
        raise Reject(f"booking {unavailable.booking_id} has no charge that could be given back")
    amount = await tx.fetch_value("SELECT amount FROM charges WHERE booking_id = ?", unavailable.booking_id)
    return PaymentRefunded(booking_id=unavailable.booking_id, amount=Decimal(amount), reason=unavailable.reason)
