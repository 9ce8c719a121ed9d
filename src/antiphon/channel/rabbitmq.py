"""RabbitMQ: messages of queues that exist, and messages to exchanges or queues that exist.

A place of what comes in is a queue. A place of what goes out is ``<exchange>/<routing key>``, or a queue's name. A
CloudEvent has its attributes as application properties ``cloudEvents:...``, as in the AMQP binding. Messages that bear
no ``message_id`` have no name by which they would be known if they come twice.

Between regions the queues are the channel's own, and made when they are missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import aiormq
from aiormq.abc import AbstractChannel, AbstractConnection, DeliveredMessage
from aiormq.exceptions import AMQPError, ChannelInvalidStateError, PublishError
from pamqp.commands import Basic

from antiphon.broker.amqp import OPTIONS, message_id, tolerate
from antiphon.broker.naming import checked, shown
from antiphon.broker.waves import waves
from antiphon.channel.helping import split, text, translated
from antiphon.errors import BusError
from antiphon.model.channels import ChannelSpec, Message
from antiphon.ports import Clock

_PREFETCH = 512
_PERSISTENT = 2
_PREFIXES = ("cloudEvents:", "cloudEvents_")
_ERRORS = (AMQPError, ChannelInvalidStateError)
tolerate()


class _Connected:
    """A connection with one channel."""

    def __init__(self, channel: ChannelSpec, clock: Clock) -> None:
        self._spec = channel
        self._url = checked(channel.url, OPTIONS)
        self._where = shown(channel.url)
        self._clock = clock
        self._connection: AbstractConnection | None = None
        self._channel: AbstractChannel

    async def _connect(self, queues: Sequence[str]) -> None:
        async with translated(self._where, "cannot be reached", *_ERRORS):
            self._connection = await aiormq.connect(self._url)
            self._channel = await self._connection.channel(publisher_confirms=True, on_return_raises=True)
        for queue in queues:
            async with translated(self._where, f"cannot use queue {queue!r}", *_ERRORS):
                await self._see(queue)

    async def _see(self, queue: str) -> None:
        if self._spec.region is None:
            await self._channel.queue_declare(queue, passive=True)
        else:
            await self._channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})

    async def close(self) -> None:
        """Disconnect. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None and not connection.is_closed:
            try:
                async with asyncio.timeout(2):
                    await connection.close()
            except (*_ERRORS, OSError, TimeoutError):
                pass  # what was not acknowledged comes again


class ChannelSource(_Connected):
    """Consumes queues (``ports.Source``); what is not acknowledged comes again."""

    async def open(self, notes: Mapping[str, str]) -> None:
        """Connect and consume. Raises BusError."""
        queues = list(self._spec.inbound)
        await self._connect(queues)
        self._came: asyncio.Queue[tuple[str, DeliveredMessage] | None] = asyncio.Queue()
        # A queue that is removed, and may be made again, ends what consumes it, and not the connection.
        self._channel.on_consumer_cancel_callbacks.add(lambda _: self._came.put_nowait(None))
        async with translated(self._where, "cannot be consumed", *_ERRORS):
            await self._channel.basic_qos(prefetch_count=_PREFETCH)
            for queue in queues:
                await self._channel.basic_consume(queue, self._put_from(queue))
        self._channel.closing.add_done_callback(lambda _: self._came.put_nowait(None))

    def _put_from(self, queue: str) -> Any:
        async def put(message: DeliveredMessage) -> None:
            self._came.put_nowait((queue, message))

        return put

    async def receive(self, limit: int) -> Sequence[Message]:
        """What has come. Raises BusError when the connection is lost."""
        came = [await self._came.get()]
        while len(came) < limit and not self._came.empty():
            came.append(self._came.get_nowait())
        messages = [self._message(*each) for each in came if each is not None]
        if not messages:
            raise BusError("the connection was lost, or a queue", where=self._where)
        if None in came:
            self._came.put_nowait(None)
        return messages

    async def acknowledge(self, messages: Sequence[Message]) -> None:
        """Acknowledge all up to the last of *messages*. Raises BusError."""
        async with translated(self._where, "cannot take an acknowledgement", *_ERRORS):
            await self._channel.basic_ack(messages[-1].token, multiple=True)

    def _message(self, queue: str, came: DeliveredMessage) -> Message:
        properties = came.header.properties
        attributes, headers = split(properties.headers or {}, _PREFIXES)
        sent = properties.timestamp
        return Message(
            topic=queue,
            body=came.body,
            content_type=properties.content_type or "",
            attributes=attributes,
            headers=headers,
            id=None if properties.message_id is None else f"{queue}/{text(properties.message_id)}",
            time_ms=None if sent is None else int(sent.timestamp() * 1000),
            token=came.delivery_tag,
        )


class ChannelSink(_Connected):
    """Publishes with confirms (``ports.Sink``); what no queue would get is sent again until there is one."""

    async def open(self) -> None:
        """Connect. Raises BusError."""
        await self._connect([] if self._spec.region is None else list(self._spec.outbound))

    async def send(self, messages: Sequence[Message]) -> Mapping[int, str]:
        """Publish all; returns when each is held by every queue that it goes to. Raises BusError."""
        for wave in waves(messages):
            async with translated(self._where, "has not confirmed", *_ERRORS):
                # In order: a channel takes one after the other, in the order in which they were begun.
                confirms = await asyncio.gather(*map(self._publish, wave), return_exceptions=True)
                for message, confirm in zip(wave, confirms, strict=True):
                    if isinstance(confirm, PublishError):
                        raise BusError(f"no queue is bound to {message.topic!r}", where=self._where)
                    if isinstance(confirm, BaseException):
                        raise confirm
                    if not isinstance(confirm, Basic.Ack):
                        raise BusError(f"it refused a message to {message.topic!r}", where=self._where)
        return {}

    async def _publish(self, message: Message) -> Any:
        exchange, _, routing_key = message.topic.rpartition("/")
        headers: dict[str, Any] = {f"{_PREFIXES[0]}{name}": value for name, value in message.attributes.items()}
        properties = Basic.Properties(
            content_type=message.content_type,
            delivery_mode=_PERSISTENT,
            message_id=message_id(message.id),
            headers={**headers, **message.headers},
        )
        return await self._channel.basic_publish(
            message.body, exchange=exchange, routing_key=routing_key, properties=properties, mandatory=True
        )
