"""NATS JetStream: messages of subjects, read by position in their stream; and messages to subjects.

A place is a subject that some stream holds; one of what comes in may have wildcards. A CloudEvent has its attributes
as headers ``ce-...``. A stream is only read, by consumers that acknowledge nothing and end by themselves; one whose
messages are removed by being acknowledged (work queue, interest) is not for them, and the server says so. What goes
out has the event's id as its message id, so the server drops what is sent again within some minutes.

Between regions each direction has a stream of the channel's own, from which the receiver removes what it has taken.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from contextlib import aclosing

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext, api

from antiphon.broker.jetstream import Confirmations, connected, place_of, pulled
from antiphon.broker.naming import checked, plain, shown
from antiphon.broker.waves import waves
from antiphon.channel.helping import PATIENCE_S, from_headers, to_headers, translated
from antiphon.errors import BusError
from antiphon.model.channels import ChannelSpec, Message
from antiphon.ports import Clock

_FETCH_S, _AHEAD = 30.0, 1_024
_TRIM_EVERY = 500
_CANCEL_AGAIN_S = 0.05
#: Left of the server's limit for the headers of a message.
_HEADERS = 16 * 1024


class _Connected:
    """A client, which is closed for good when its connection is lost."""

    def __init__(self, channel: ChannelSpec, clock: Clock) -> None:
        self._channel = channel
        self._url = checked(channel.url)
        self._where = shown(channel.url)
        self._clock = clock
        self._client: Client | None = None
        self._js: JetStreamContext

    async def _connect(self, subjects: Sequence[str]) -> None:
        trouble: list[str] = []

        async def failed(error: Exception) -> None:
            trouble.append(str(error) or type(error).__name__)

        async with translated(self._where, "cannot be reached", nats.errors.Error):
            try:
                self._client = await connected(
                    self._url,
                    name=f"{self._channel.app}.{self._channel.name}",
                    allow_reconnect=False,
                    connect_timeout=PATIENCE_S,
                    error_cb=failed,
                    disconnected_cb=self._lost,
                )
            except nats.errors.Error as error:
                # That no server is left says less than what the last one said.
                raise ConnectionError(trouble[-1] if trouble else str(error)) from error
            self._js = self._client.jetstream(timeout=PATIENCE_S)
            for subject in subjects if self._channel.region is not None else ():
                await self._js.add_stream(name=re.sub(r"[^A-Za-z0-9_-]", "_", subject), subjects=[subject])

    async def _lost(self) -> None:
        """The connection was lost."""

    async def close(self) -> None:
        """Disconnect. Idempotent."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()


class ChannelSource(_Connected):
    """Reads subjects from where they were left (``ports.Source``)."""

    _readers: tuple[asyncio.Task[None], ...] = ()

    async def open(self, notes: Mapping[str, str]) -> None:
        """Connect and read. Raises BusError."""
        subjects = list(self._channel.inbound)
        self._came: asyncio.Queue[Message | None] = asyncio.Queue(_AHEAD)
        self._broken: BaseException | None = None
        self._taken = 0
        await self._connect(subjects)
        self._readers = tuple(asyncio.create_task(self._read(each, int(notes.get(each, 0)))) for each in subjects)
        for reader in self._readers:
            reader.add_done_callback(self._broke)

    async def receive(self, limit: int) -> Sequence[Message]:
        """What has come. Raises BusError when the connection is lost."""
        found: list[Message] = []
        while not found or (len(found) < limit and not self._came.empty()):
            if self._came.empty() and self._broken is not None:
                raise BusError(f"it cannot be read: {self._broken}", where=self._where) from self._broken
            message = await self._came.get()
            if message is not None:
                found.append(message)
        return found

    async def acknowledge(self, messages: Sequence[Message]) -> None:
        """Nothing: the notes tell. What lies between regions is removed now and then. Raises BusError."""
        self._taken += len(messages)
        if self._channel.region is not None and self._taken >= _TRIM_EVERY:
            self._taken = 0
            stream, seq = messages[-1].token
            async with translated(self._where, "cannot remove what was taken", nats.errors.Error):
                await self._js.purge_stream(stream, seq=seq + 1)

    async def close(self) -> None:
        """Read no more, and disconnect. Idempotent."""
        await super().close()
        while running := [each for each in self._readers if not each.done()]:
            # More than once: the client may swallow a cancellation that comes together with an answer.
            for reader in running:
                reader.cancel()
            await asyncio.wait(running, timeout=_CANCEL_AGAIN_S)

    async def _read(self, subject: str, after: int) -> None:
        client = self._client
        assert client is not None
        stream = await self._js.find_stream_name_by_subject(subject)
        config = api.ConsumerConfig(
            deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=after + 1,
            ack_policy=api.AckPolicy.NONE,
            inactive_threshold=2 * _FETCH_S,
            filter_subject=subject,
        )
        consumer = (await self._js.add_consumer(stream, config)).name
        delivered = 0
        async with aclosing(pulled(client, stream, consumer, _FETCH_S)) as messages:
            async for message in messages:
                delivered += 1
                if place_of(message).consumer != delivered:
                    raise BusError("some of it was lost on its way; it is read again from there", where=self._where)
                await self._came.put(_message(subject, stream, message))

    async def _lost(self) -> None:
        for reader in self._readers:
            reader.cancel()

    def _broke(self, reader: asyncio.Task[None]) -> None:
        self._broken = ConnectionError("the connection was lost") if reader.cancelled() else reader.exception()
        if self._came.empty():
            self._came.put_nowait(None)


class ChannelSink(_Connected):
    """Publishes to streams (``ports.Sink``)."""

    _sending: Confirmations | None = None

    async def open(self) -> None:
        """Connect. Raises BusError."""
        await self._connect(list(self._channel.outbound))
        assert self._client is not None
        self._sending = Confirmations(self._client, self._where)
        async with translated(self._where, "cannot be listened to", nats.errors.Error):
            await self._sending.open()

    async def send(self, messages: Sequence[Message]) -> Mapping[int, str]:
        """Publish all; returns when each is held by its stream. Raises BusError."""
        sending = self._sending
        if sending is None or self._client is None or self._client.is_closed:
            raise BusError("the connection was lost", where=self._where)
        largest = self._client.max_payload - _HEADERS
        refused = {
            index: f"{len(message.body):,} bytes; the server takes {largest:,} in one message"
            for index, message in enumerate(messages)
            if len(message.body) > largest
        }
        for wave in waves(message for index, message in enumerate(messages) if index not in refused):
            async with translated(self._where, "has not confirmed", nats.errors.Error):
                await sending.publish(list(map(_outgoing, wave)), PATIENCE_S)
        return refused

    async def _lost(self) -> None:
        if self._sending is not None:
            self._sending.lost()


def _outgoing(message: Message) -> tuple[str, bytes, dict[str, str]]:
    """Subject, data and headers of a message."""
    headers = {"content-type": message.content_type, **to_headers(message.attributes)}
    if message.id is not None:
        # With its place: one event may go to two of them, and a stream hold both.
        headers[api.Header.MSG_ID.value] = f"{message.topic}/{plain(message.id)}"
    return message.topic, message.body, headers


def _message(subject: str, stream: str, message: Msg) -> Message:
    seq = message.metadata.sequence.stream
    attributes, headers = from_headers(message.headers or {})
    named = headers.get("nats-msg-id")
    return Message(
        topic=subject,
        body=message.data,
        content_type=headers.get("content-type", ""),
        attributes=attributes,
        headers={**headers, "subject": message.subject},
        # A stream knows its own ids alone; and one that is "5" is no name of the fifth message.
        id=f"{stream}/{seq}" if named is None else f"{stream}/id/{named}",
        time_ms=int(message.metadata.timestamp.timestamp() * 1000),
        token=(stream, seq),
        note=(subject, str(seq)),
    )
