"""The Notification service: sends the ticket by e-mail.

The mail server is said by environment variables: SMTP_HOST (127.0.0.1), SMTP_PORT (1025), SMTP_FROM and
SMTP_DESK, the mailbox for tickets of passengers who left no address.
"""

import os
from email.message import EmailMessage

from antiphon import Delivery, Effects, Service, Transaction, seconds

from ..mail import send  # noqa: TID252  in a wheel the package above has another name
from . import retries
from .events import TicketIssued

notification = Service("notification", tables="notification.sql")


@notification.on(TicketIssued, retry=retries.MAIL, concurrency=8, timeout=seconds(30))
async def send_ticket(issued: TicketIssued, tx: Transaction, delivery: Delivery, effects: Effects) -> None:
    """Send the e-mail, then write down that it was sent; no lock is held while the mail server is waited for.

    A crash while it is sent sends it again. Its Message-ID is made of the event's id, so that the repetition
    is recognised as one.
    """
    message = ticket_message(issued, f"<{delivery.envelope.id}@flights.example>")
    await effects.once("ticket", send, message, idempotent=True)
    await tx.execute(
        "INSERT INTO emails (event_id, booking_id, message_id, recipient, sent_at) VALUES (?, ?, ?, ?, ?)",
        delivery.envelope.id,
        issued.booking_id,
        message["Message-ID"],
        message["To"],
        tx.now.isoformat(),
    )


def ticket_message(issued: TicketIssued, message_id: str) -> EmailMessage:
    """The e-mail that carries a ticket."""
    message = EmailMessage()
    message["From"] = os.environ.get("SMTP_FROM", "tickets@flights.example")
    message["To"] = issued.email or os.environ.get("SMTP_DESK", "desk@flights.example")
    message["Subject"] = f"Your ticket {issued.ticket} for flight {issued.flight}"
    message["Message-ID"] = message_id
    message.set_content(
        f"Dear {issued.passenger},\n\n"
        f"flight {issued.flight} from {issued.origin} to {issued.destination}\n"
        f"leaves on {issued.departs:%d %B %Y at %H:%M} local time. Your seat is {issued.seat}.\n\n"
        f"Ticket  {issued.ticket}\nBooking {issued.booking_id}\n"
    )
    return message
