"""RabbitMQ: messages of queues that exist, and messages to exchanges or queues that exist.

A place of what comes in is a queue. A place of what goes out is ``<exchange>/<routing key>``, or a queue's name. A
CloudEvent has its attributes as application properties ``cloudEvents:...``, as in the AMQP binding. Messages that bear
no ``message_id`` have no name by which they would be known if they come twice.

Between regions the queues are the channel's own, and made when they are missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from antiphon.broker.amqp import Channel, Connection, Incoming, Outgoing, message_id
from antiphon.broker.amqp_url import parameters
from antiphon.broker.naming import shown
from antiphon.broker.waves import waves
from antiphon.channel.helping import split, translated
from antiphon.errors import BusError
from antiphon.model.channels import ChannelSpec, Message
from antiphon.ports import Clock

_PREFETCH = 512
_PREFIXES = ("cloudEvents:", "cloudEvents_")


class _Connected:
    """A connection with one channel."""

    def __init__(self, channel: ChannelSpec, clock: Clock) -> None:
        self._spec = channel
        self._parameters = parameters(channel.url)
        self._where = shown(channel.url)
        self._clock = clock
        self._connection: Connection | None = None
        self._channel: Channel

    async def _connect(self, queues: Sequence[str]) -> None:
        async with translated(self._where, "cannot be reached"):
            self._connection = await Connection.to(self._parameters)
            self._channel = await self._connection.channel()
        for queue in queues:
            async with translated(self._where, f"cannot use queue {queue!r}"):
                await self._see(queue)

    async def _see(self, queue: str) -> None:
        if self._spec.region is None:
            await self._channel.find_queue(queue)
        else:
            await self._channel.make_queue(queue)

    async def close(self) -> None:
        """Disconnect; what was not acknowledged comes again. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


class ChannelSource(_Connected):
    """Consumes queues (``ports.Source``); what is not acknowledged comes again."""

    async def open(self, notes: Mapping[str, str]) -> None:
        """Connect and consume. Raises BusError."""
        queues = list(self._spec.inbound)
        await self._connect(queues)
        self._came: asyncio.Queue[tuple[str, Incoming] | None] = asyncio.Queue()
        # A queue that is removed, and may be made again, ends what consumes it, and not the connection.
        self._channel.at_end(lambda: self._came.put_nowait(None))
        async with translated(self._where, "cannot be consumed"):
            await self._channel.consume(
                queues, lambda queue, message: self._came.put_nowait((queue, message)), prefetch=_PREFETCH
            )

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
        async with translated(self._where, "cannot take an acknowledgement"):
            self._channel.acknowledge(messages[-1].token)

    def _message(self, queue: str, came: Incoming) -> Message:
        attributes, headers = split(came.headers, _PREFIXES)
        return Message(
            topic=queue,
            body=came.body,
            content_type=came.content_type,
            attributes=attributes,
            headers=headers,
            id=None if came.message_id is None else f"{queue}/{came.message_id}",
            time_ms=None if came.time_s is None else came.time_s * 1000,
            token=came.tag,
        )


class ChannelSink(_Connected):
    """Publishes with confirms (``ports.Sink``); what no queue would get is sent again until there is one."""

    async def open(self) -> None:
        """Connect. Raises BusError."""
        await self._connect([] if self._spec.region is None else list(self._spec.outbound))

    async def send(self, messages: Sequence[Message]) -> Mapping[int, str]:
        """Publish all; returns when each is held by every queue that it goes to. Raises BusError."""
        for wave in waves(messages):
            async with translated(self._where, "has not confirmed"):
                refused = await self._channel.publish(map(_outgoing, wave))
            if refused.unroutable:
                raise BusError(f"no queue is bound to {min(refused.unroutable)!r}", where=self._where)
            if refused.number:
                raise BusError(f"it refused {refused.number} of {len(wave)} messages", where=self._where)
        return {}


def _outgoing(message: Message) -> Outgoing:
    exchange, _, routing_key = message.topic.rpartition("/")
    attributes = {f"{_PREFIXES[0]}{name}": value for name, value in message.attributes.items()}
    headers = {**attributes, **message.headers}
    named = message_id(message.id)
    return Outgoing(message.body, exchange, routing_key, message.content_type, named, headers, is_mandatory=True)
