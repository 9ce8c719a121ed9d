"""The Ticket service: issues the ticket of a seat."""

from antiphon import Reject, Service, Transaction

from . import retries
from .events import SeatAssigned, TicketIssued
from .timetable import timetable

ticket = Service("ticket", tables="ticket.sql")


@ticket.on(SeatAssigned, retry=retries.DATABASE)
async def issue(seated: SeatAssigned, tx: Transaction) -> TicketIssued:
    """Issue the ticket, with what has to be printed on it."""
    flight = timetable().get(seated.flight)
    if flight is None:
        raise Reject(f"flight {seated.flight} is not in the timetable")
    number = await tx.fetch_value(
        "INSERT INTO tickets (booking_id, flight, seat, passenger, issued_at) VALUES (?, ?, ?, ?, ?) RETURNING number",
        seated.booking_id,
        seated.flight,
        seated.seat,
        seated.passenger,
        tx.now.isoformat(),
    )
    return TicketIssued(
        booking_id=seated.booking_id,
        ticket=f"TKT-{number:08d}",
        flight=flight.number,
        seat=seated.seat,
        origin=flight.origin,
        destination=flight.destination,
        departs=flight.departs,
        passenger=seated.passenger,
        email=seated.email,
    )
