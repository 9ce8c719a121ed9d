"""The Notifications service: tells customers by e-mail how their orders ended. SMTP_FROM is the sender."""

import os
from email.message import EmailMessage

from antiphon import Delivery, Effects, Service, Transaction, seconds

from ..mail import send  # noqa: TID252  in a wheel the package above has another name
from . import retries
from .events import CustomerNotified, NotifyCustomer

notifications = Service("notifications", tables="notifications.sql")

_SUBJECTS = {
    "SHIPPED": "Your order is on its way",
    "FAILED": "We are sorry about your order",
    "CANCELLED": "Your order is cancelled",
}


@notifications.on(NotifyCustomer, retry=retries.MAIL, concurrency=8, timeout=seconds(30))
async def notify(asked: NotifyCustomer, tx: Transaction, delivery: Delivery, effects: Effects) -> CustomerNotified:
    """Send the e-mail, then write down that it was sent.

    A crash in between sends it again, as SMTP can promise no more. Its Message-ID is made of the
    command's id and stays the same, so that the repetition is recognised as one.
    """
    message = message_of(asked, f"<{delivery.envelope.id}@securecart.example>")
    await effects.once("mail", send, message, idempotent=True)
    await tx.execute(
        "INSERT INTO emails (order_id, message_id, recipient, status, sent_at) VALUES (?, ?, ?, ?, ?)",
        asked.order_id,
        message["Message-ID"],
        message["To"],
        asked.status,
        tx.now.isoformat(),
    )
    return CustomerNotified(asked.order_id, str(message["Message-ID"]))


def message_of(asked: NotifyCustomer, message_id: str) -> EmailMessage:
    """The e-mail."""
    message = EmailMessage()
    message["From"] = os.environ.get("SMTP_FROM", "orders@securecart.example")
    message["To"] = asked.email
    message["Subject"] = f"{_SUBJECTS[asked.status]} ({asked.order_id})"
    message["Message-ID"] = message_id
    message.set_content(f"Order {asked.order_id}: {asked.status.lower()}.\n\n{asked.detail}\n")
    return message
