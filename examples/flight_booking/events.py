"""The events of a booking. Each carries what the next service needs, so that nobody has to ask back.

All are keyed by the booking: its events reach every handler in the order in which they happened.
"""

from datetime import datetime
from decimal import Decimal

from antiphon import Event


class BookingCreated(Event, key="booking_id"):
    """A passenger wants a seat on a flight. Of the card only its last four digits go further."""

    booking_id: str
    flight: str
    passenger: str
    email: str | None
    card_last4: str
    price: Decimal


class PaymentConfirmed(Event, key="booking_id"):
    """The card was charged."""

    booking_id: str
    flight: str
    passenger: str
    email: str | None
    amount: Decimal


class PaymentFailed(Event, key="booking_id"):
    """The card was declined; nothing was charged."""

    booking_id: str
    reason: str


class SeatAssigned(Event, key="booking_id"):
    """The passenger has a seat."""

    booking_id: str
    flight: str
    seat: str
    passenger: str
    email: str | None


class SeatUnavailable(Event, key="booking_id"):
    """The flight is full; the payment has to be given back."""

    booking_id: str
    flight: str
    reason: str


class PaymentRefunded(Event, key="booking_id"):
    """The charge was given back, since *reason*."""

    booking_id: str
    amount: Decimal
    reason: str


class TicketIssued(Event, key="booking_id"):
    """The passenger may fly. *departs* has the zone of the airport that the flight leaves from."""

    booking_id: str
    ticket: str
    flight: str
    seat: str
    origin: str
    destination: str
    departs: datetime
    passenger: str
    email: str | None
