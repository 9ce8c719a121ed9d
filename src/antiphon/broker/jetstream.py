"""JetStream's protocol for publishing and pulling many messages, on a connection of nats-py.

The client's own calls make a task, a timer or a future for each message, which cost more than the message. And they
take a message of anybody's for the server's word, if its headers say so; here only what is no message of a stream is.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any, NamedTuple

from nats.aio.client import Client
from nats.aio.msg import Msg

from antiphon.broker.feed import AGAIN
from antiphon.errors import BusError

#: So many messages are asked for at once, and again when half of them have come.
_CHUNK = 256
_STATUS, _PENDING = "Status", "Nats-Pending-Messages"
#: How long the server may be silent beyond what it was asked to wait.
_SLACK_S = 5.0
_Sent = tuple[str, bytes, dict[str, str]]


class TolerantClient(Client):
    """A client that reads on behind headers that are none.

    nats-py ends its reading of the connection at them, without a word; and the message comes again on the next one.
    """

    async def _process_headers(self, headers: Any) -> dict[str, str] | None:
        try:
            return await super()._process_headers(headers)
        except (ValueError, IndexError):
            return None


async def connected(url: str, **options: Any) -> Client:
    """A client at *url*, with the options of nats-py. Raises what it does."""
    client = TolerantClient()
    await client.connect(url, **options)
    return client


class Place(NamedTuple):
    """Where a message lies: in the stream, and among those that its consumer has been sent."""

    stream: int
    consumer: int


def place_of(message: Msg) -> Place:
    """The place of a message that a consumer was sent, as its reply subject tells."""
    parts = message.reply.split(".")
    at = 5 if len(parts) == 9 else 7  # with domain and account, since version 2 of that subject
    return Place(int(parts[at]), int(parts[at + 1]))


class Confirmations:
    """Publishes, and counts what the server answers."""

    def __init__(self, client: Client, where: str) -> None:
        self._client = client
        self._where = where
        self._inbox = client.new_inbox()
        self._number = 0
        self._waiting: dict[str, _Waiting] = {}

    async def open(self) -> None:
        """Listen for answers."""
        await self._client.subscribe(f"{self._inbox}.*", cb=self._answered)

    async def publish(self, messages: Sequence[_Sent], patience_s: float) -> None:
        """Send subject, data and headers of each; returns when the stream holds all.

        Raises BusError for one that is refused, TimeoutError.
        """
        self._number += 1
        reply = f"{self._inbox}.{self._number}"
        waiting = self._waiting[reply] = _Waiting(len(messages))
        try:
            for subject, data, headers in messages:
                await self._client.publish(subject, data, reply=reply, headers=headers)
            async with asyncio.timeout(patience_s):
                await waiting.done
        finally:
            del self._waiting[reply]
            waiting.done.cancel()

    def lost(self) -> None:
        """The connection is lost, and with it every answer that was awaited."""
        for waiting in self._waiting.values():
            if not waiting.done.done():
                waiting.done.set_exception(BusError("the connection was lost", where=self._where, mend=AGAIN))

    async def _answered(self, message: Msg) -> None:
        waiting = self._waiting.get(message.subject)
        if waiting is None or waiting.done.done():
            return  # it is for what was given up
        if b'"error"' in message.data or not message.data:
            error = json.loads(message.data or b"{}").get("error", {})
            why = error.get("description", "no stream takes it")
            waiting.done.set_exception(BusError(f"it has refused an event: {why}", where=self._where, mend=AGAIN))
            return
        waiting.missing -= 1
        if not waiting.missing:
            waiting.done.set_result(None)


class _Waiting:
    """How many confirmations are missing, and what is told when none is."""

    def __init__(self, missing: int) -> None:
        self.missing = missing
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()


async def pulled(client: Client, stream: str, consumer: str, wait_s: float) -> AsyncGenerator[Msg, None]:
    """What *consumer* is sent, in order, for as long as it lives. Raises BusError when it does not any more."""
    inbox = client.new_inbox()
    came: asyncio.Queue[Msg] = asyncio.Queue()

    async def put(message: Msg) -> None:
        came.put_nowait(message)

    request = json.dumps({"batch": _CHUNK, "expires": int(wait_s * 1e9)}).encode()
    subscription = await client.subscribe(inbox, cb=put)
    asked = 0
    try:
        while True:
            if asked <= _CHUNK // 2:
                await client.publish(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}", request, reply=inbox)
                asked += _CHUNK
            if came.empty():
                async with asyncio.timeout(wait_s + _SLACK_S):
                    message = await came.get()
            else:
                message = came.get_nowait()
            status = (message.headers or {}).get(_STATUS)
            if message.reply or status is None:
                # It has a place in the stream, whatever its headers call it.
                asked -= 1
                yield message
            elif status in ("404", "408"):
                asked -= int((message.headers or {}).get(_PENDING, _CHUNK))
            else:
                raise BusError(f"the server has ended what it was asked for: {status}")
    finally:
        if not client.is_closed:
            await subscription.unsubscribe()
