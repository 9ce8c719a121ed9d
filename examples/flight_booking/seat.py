"""The Seat service: sells the seats of each flight, from the front to the back, until it is full."""

from typing import Any

from antiphon import Service, Transaction

from . import retries
from .events import PaymentConfirmed, SeatAssigned, SeatUnavailable
from .timetable import seat_label, timetable

seat = Service("seat", tables="seat.sql")


@seat.on(PaymentConfirmed, retry=retries.DATABASE)
async def assign(paid: PaymentConfirmed, tx: Transaction) -> SeatAssigned | SeatUnavailable:
    """Sell the next seat. Two bookings never get the same one: taking it is one UPDATE."""
    flight = timetable().get(paid.flight)
    if flight is None:
        return SeatUnavailable(
            booking_id=paid.booking_id, flight=paid.flight, reason=f"flight {paid.flight} is not flown any more"
        )
    await tx.execute("INSERT INTO flights (flight, sold) VALUES (?, 0) ON CONFLICT DO NOTHING", flight.number)
    taken = await tx.execute(
        "UPDATE flights SET sold = sold + 1 WHERE flight = ? AND sold < ?", flight.number, flight.seats
    )
    if not taken:
        return SeatUnavailable(booking_id=paid.booking_id, flight=paid.flight, reason=f"flight {flight.number} is full")
    number = await tx.fetch_value("SELECT sold FROM flights WHERE flight = ?", flight.number)
    label = seat_label(number, flight.seats)
    await tx.execute(
        "INSERT INTO seats (flight, seat, booking_id) VALUES (?, ?, ?)", flight.number, label, paid.booking_id
    )
    return SeatAssigned(
        booking_id=paid.booking_id, flight=flight.number, seat=label, passenger=paid.passenger, email=paid.email
    )


@seat.get("/flights")
async def flights(tx: Transaction) -> list[dict[str, Any]]:
    """All flights, with the seats of the plane and those that are left."""
    sold = {row["flight"]: row["sold"] for row in await tx.fetch_all("SELECT flight, sold FROM flights")}
    return [
        {
            "flight": flight.number,
            "origin": flight.origin,
            "destination": flight.destination,
            "departs": flight.departs.isoformat(),
            "aircraft": flight.aircraft,
            "seats": flight.seats,
            "seats_left": flight.seats - sold.get(flight.number, 0),
        }
        for flight in timetable().values()
    ]
