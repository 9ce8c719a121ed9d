"""Hands e-mails to a mail server, which is said by environment variables: SMTP_HOST (127.0.0.1), SMTP_PORT (1025)."""

import os
from asyncio import BaseProtocol
from email.message import EmailMessage

import aiosmtplib


async def send(message: EmailMessage) -> None:
    """Hand a message to the mail server. Raises what aiosmtplib raises."""
    await aiosmtplib.send(
        message,
        hostname=os.environ.get("SMTP_HOST", "127.0.0.1"),
        port=int(os.environ.get("SMTP_PORT", "1025")),
        timeout=10,
    )


def sink() -> BaseProtocol:
    """A mail server that takes everything, for the simulator."""
    from aiosmtpd.handlers import Sink
    from aiosmtpd.smtp import SMTP

    return SMTP(Sink(), hostname="mail.example", enable_SMTPUTF8=True)
