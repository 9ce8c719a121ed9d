"""A mail server on this machine that keeps nothing of an e-mail but how often it came."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email import message_from_bytes
from email.policy import default
from typing import Any

from aiosmtpd.smtp import SMTP, Envelope, Session


class Sink:
    """Takes every e-mail. *received* counts them by Message-ID."""

    def __init__(self) -> None:
        self.received: Counter[str] = Counter()
        self.port = 0

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802  aiosmtpd's
        """Count one e-mail."""
        content: Any = envelope.content
        message = message_from_bytes(content, policy=default)
        self.received[str(message["Message-ID"])] += 1
        return "250 Message accepted for delivery"


@asynccontextmanager
async def running_sink() -> AsyncIterator[Sink]:
    """A sink that listens on an ephemeral port of the loopback interface for the length of the block."""
    sink = Sink()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(sink, hostname="localhost", loop=loop), "127.0.0.1", 0)
    sink.port = server.sockets[0].getsockname()[1]
    try:
        yield sink
    finally:
        server.close()
        await server.wait_closed()
