"""The Payment service: charges cards, and gives the money back when there is no seat."""

from decimal import Decimal

from antiphon import Reject, Service, Transaction

from . import retries
from .events import BookingCreated, PaymentConfirmed, PaymentFailed, PaymentRefunded, SeatUnavailable

payment = Service("payment", tables="payment.sql")

DECLINED = "0002"


@payment.on(BookingCreated, retry=retries.CHARGE)
async def charge(booking: BookingCreated, tx: Transaction) -> PaymentConfirmed | PaymentFailed:
    """Charge the card, unless its bank declines."""
    if booking.card_last4 == DECLINED:
        return PaymentFailed(booking_id=booking.booking_id, reason=f"the card ending in {DECLINED} was declined")
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


@payment.on(SeatUnavailable, retry=retries.REFUND)
async def refund(unavailable: SeatUnavailable, tx: Transaction) -> PaymentRefunded:
    """Compensate: what `charge` took is given back."""
    amount = await tx.fetch_value(
        "UPDATE charges SET refunded_at = ? WHERE booking_id = ? AND refunded_at IS NULL RETURNING amount",
        tx.now.isoformat(),
        unavailable.booking_id,
    )
    if amount is None:
        raise Reject(f"booking {unavailable.booking_id} has no charge that could be given back")
    return PaymentRefunded(booking_id=unavailable.booking_id, amount=Decimal(amount), reason=unavailable.reason)
