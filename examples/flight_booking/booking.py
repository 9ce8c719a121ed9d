"""The Booking service: takes bookings, and follows what the others make of them."""

import re
from decimal import Decimal
from typing import Annotated, Any

from fastapi import HTTPException
from pydantic import BaseModel, Field, SecretStr, StringConstraints

from antiphon import Service, Transaction

from . import retries
from .events import (
    BookingCreated,
    PaymentConfirmed,
    PaymentFailed,
    PaymentRefunded,
    SeatAssigned,
    TicketIssued,
)
from .timetable import timetable

booking = Service("booking", tables="booking.sql")

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
_CARD_NUMBER = re.compile(r"[0-9]{4,19}")


class NewBooking(BaseModel):
    """What a passenger asks for. *email* is where the ticket goes; without it, to the airline's desk."""

    flight: Annotated[Text, StringConstraints(to_upper=True)]
    passenger: Text
    card: SecretStr
    price: Annotated[Decimal, Field(gt=0, max_digits=10, decimal_places=2)]
    email: Annotated[Text, StringConstraints(pattern=r"^[^@\s]+@[^@\s]+$")] | None = None


@booking.post("/bookings")
async def book(new: NewBooking, tx: Transaction) -> BookingCreated:
    """Take a booking. The flight is one of GET /flights; a card that ends in 0002 is declined later."""
    if new.flight not in timetable():
        raise HTTPException(422, f"flight: there is no flight {new.flight}; GET /flights lists those there are")
    created = BookingCreated(
        booking_id=tx.new_id(),
        flight=new.flight,
        passenger=new.passenger,
        email=new.email,
        card_last4=_last_four(new.card),
        price=new.price,
    )
    await tx.execute(
        "INSERT INTO bookings (booking_id, flight, passenger, price, card_last4, created_at) VALUES (?, ?, ?, ?, ?, ?)",
        created.booking_id,
        created.flight,
        created.passenger,
        str(created.price),
        created.card_last4,
        tx.now.isoformat(),
    )
    return created


@booking.get("/bookings/{booking_id}")
async def show(booking_id: str, tx: Transaction) -> dict[str, Any]:
    """A booking: CREATED, PAID, SEATED, TICKETED, or CANCELLED with the reason."""
    row = await tx.fetch_one(
        "SELECT booking_id, flight, passenger, price, status, reason, seat, ticket FROM bookings WHERE booking_id = ?",
        booking_id,
    )
    if row is None:
        raise HTTPException(404, f"there is no booking {booking_id}")
    return dict(row)


@booking.on(PaymentConfirmed, PaymentFailed, SeatAssigned, PaymentRefunded, TicketIssued, retry=retries.DATABASE)
async def follow(
    step: PaymentConfirmed | PaymentFailed | SeatAssigned | PaymentRefunded | TicketIssued, tx: Transaction
) -> None:
    """Write down how far the booking has come.

    One handler for all the steps: the order of a booking's events holds within a handler, whatever is tried again,
    and not between two. CANCELLED means that the passenger has all the money, and is final, as TICKETED is.
    """
    changes: dict[str, str]
    match step:
        case PaymentConfirmed():
            changes = {"status": "PAID"}
        case SeatAssigned(seat=seat):
            changes = {"status": "SEATED", "seat": seat}
        case TicketIssued(ticket=ticket, seat=seat):
            # With the seat: on a bus that keeps no order it may come before SeatAssigned, and is final.
            changes = {"status": "TICKETED", "ticket": ticket, "seat": seat}
        case PaymentFailed(reason=reason) | PaymentRefunded(reason=reason):
            changes = {"status": "CANCELLED", "reason": reason}
    await tx.execute(
        "UPDATE bookings SET status = ?, seat = coalesce(?, seat), ticket = ?, reason = ? "
        "WHERE booking_id = ? AND status NOT IN ('TICKETED', 'CANCELLED')",
        changes["status"],
        changes.get("seat"),
        changes.get("ticket"),
        changes.get("reason"),
        step.booking_id,
    )


def _last_four(card: SecretStr) -> str:
    """All of a card number that may be kept. Raises HTTPException, which does not repeat what is wrong."""
    digits = re.sub(r"[ -]", "", card.get_secret_value())
    if not _CARD_NUMBER.fullmatch(digits):
        raise HTTPException(422, "card: a card number has up to 19 digits, perhaps with spaces or hyphens")
    return digits[-4:]
