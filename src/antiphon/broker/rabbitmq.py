"""RabbitMQ as the bus: a topic exchange, a quorum queue for each service that receives.

A message is a CloudEvent in structured JSON; others may send theirs with the attributes as application properties
``cloudEvents:...`` just as well, which cost the client twice as much. Its routing key is the event's type. Publishing
is confirmed, events of one key wait for each other's confirmation, messages are persistent. A queue has one active
consumer, so it comes in order, also where several processes run one service; the broker counts nothing and drops
nothing.

RabbitMQ has no positions: see ``numbered``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import aiormq
from aiormq.abc import AbstractChannel, AbstractConnection, DeliveredMessage
from aiormq.exceptions import AMQPError, ChannelInvalidStateError
from pamqp.commands import Basic

from antiphon.broker.amqp import OPTIONS, message_id, tolerate
from antiphon.broker.feed import AGAIN, Feed
from antiphon.broker.naming import checked, quoted, shown
from antiphon.broker.numbered import NumberedFeeds
from antiphon.broker.waves import waves
from antiphon.errors import BusError, InvalidEvent
from antiphon.model.envelope import Envelope
from antiphon.ports import Ability, Clock, LoggedEvent, Unreadable
from antiphon.wire import STRUCTURED, from_attributes, from_message, to_structured

_PREFETCH = 1_024
_PREFIXES = ("cloudEvents:", "cloudEvents_")
_PERSISTENT = 2
#: From this version on, a queue drops what came back twenty times unless it is told not to.
_LIMITS_DELIVERIES = 4
_ERRORS = (AMQPError, ChannelInvalidStateError)
tolerate()


class RabbitBus(NumberedFeeds[int]):
    """A bus on a RabbitMQ exchange (``ports.Bus``). What was taken is gone, whatever *keep* says."""

    abilities: frozenset[Ability] = frozenset({"order"})

    def __init__(self, url: str, *, name: str, clock: Clock, keep: timedelta) -> None:
        super().__init__(shown(url), clock)
        self._url = checked(url, OPTIONS)
        self._exchange = f"antiphon.{name}"
        self._connection: AbstractConnection | None = None
        self._publishing: AbstractChannel | None = None
        self._connecting = asyncio.Lock()
        self._channels: dict[str, AbstractChannel] = {}

    async def open(self) -> None:
        """Connect, again if the connection is gone. Raises BusError."""
        await self._channel()

    async def close(self) -> None:
        """Disconnect. Idempotent."""
        await self._close_feeds()
        connection, self._connection, self._publishing = self._connection, None, None
        if connection is not None:
            await connection.close()

    async def expect(self, receivers: Mapping[str, Sequence[str]]) -> None:
        """Make the exchange, and a queue for each receiver, bound to its types. Raises BusError."""
        channel = await self._channel()
        async with self._translated("cannot make the queues", *_ERRORS):
            await channel.exchange_declare(exchange=self._exchange, exchange_type="topic", durable=True)
            for receiver, types in receivers.items():
                queue = self._queue(receiver)
                await channel.queue_declare(queue=queue, durable=True, arguments=self._arguments())
                for type_ in types:
                    await channel.queue_bind(queue=queue, exchange=self._exchange, routing_key=quoted(type_))

    async def send(self, sender: str, after_seq: int, upto_seq: int, events: Sequence[Envelope]) -> int:
        """Publish all of *events*; returns when every queue holds each. Raises BusError."""
        channel = await self._channel()
        for wave in waves(events):
            async with self._translated("has not confirmed", *_ERRORS):
                confirms = await asyncio.gather(*(self._publish(channel, event) for event in wave))
            if refused := [each for each in confirms if not isinstance(each, Basic.Ack)]:
                raise BusError(f"it refused {len(refused)} of {len(wave)} events", where=self._where)
        return upto_seq

    async def destroy(self, receivers: Iterable[str]) -> None:
        """Remove the exchange and the queues of *receivers*, with all that they hold. Raises BusError."""
        channel = await self._channel()
        async with self._translated("cannot be removed", *_ERRORS):
            for receiver in receivers:
                await channel.queue_delete(self._queue(receiver))
            await channel.exchange_delete(self._exchange)

    # ------------------------------------------------------------------ inside

    async def _channel(self) -> AbstractChannel:
        """The channel to publish on. Raises BusError."""
        async with self._connecting:
            if self._publishing is None or self._publishing.is_closed:
                self._publishing = await self._new_channel()
            return self._publishing

    async def _new_channel(self) -> AbstractChannel:
        async with self._translated("cannot be reached", *_ERRORS):
            if self._connection is None or self._connection.is_closed:
                self._connection = await aiormq.connect(self._url)
            return await self._connection.channel(publisher_confirms=True)

    def _queue(self, receiver: str) -> str:
        return f"{self._exchange}.{receiver}"

    def _arguments(self) -> dict[str, Any]:
        arguments: dict[str, Any] = {"x-queue-type": "quorum", "x-single-active-consumer": True}
        version = str(getattr(self._connection, "server_properties", {}).get("version", "0"))
        if int(version.partition(".")[0]) >= _LIMITS_DELIVERIES:
            arguments["x-delivery-limit"] = -1
        return arguments

    async def _publish(self, channel: AbstractChannel, event: Envelope) -> Any:
        properties = Basic.Properties(
            content_type=STRUCTURED, delivery_mode=_PERSISTENT, message_id=message_id(event.id)
        )
        # It waits for the confirmation, but not for the socket to have taken each message before the next.
        return await channel.basic_publish(
            to_structured(event),
            exchange=self._exchange,
            routing_key=quoted(event.type),
            properties=properties,
            wait=False,  # type: ignore[call-arg]
        )

    async def _confirm(self, receiver: str, tags: Sequence[int]) -> None:
        async with self._translated("cannot take an acknowledgement", *_ERRORS):
            await self._channels[receiver].basic_ack(tags[-1], multiple=True)

    async def _fill(self, feed: Feed) -> None:
        # Who removed the queue had it ended here; whoever is to receive has it again, and not when it starts next.
        await self.expect({feed.receiver: sorted(feed.types)})
        channel = self._channels[feed.receiver] = await self._new_channel()
        self._begin(feed)
        came: asyncio.Queue[DeliveredMessage | None] = asyncio.Queue()
        channel.on_consumer_cancel_callbacks.add(lambda _: came.put_nowait(None))
        async with self._translated("cannot be consumed", *_ERRORS):
            await channel.basic_qos(prefetch_count=_PREFETCH)
            await channel.basic_consume(self._queue(feed.receiver), came.put)
        # The channel's own future must not be cancelled with this task.
        channel.closing.add_done_callback(lambda _: came.put_nowait(None))
        try:
            while (message := await came.get()) is not None:
                event = self._event(feed.position + 1, message, feed.types)
                await self._came(feed, message.delivery_tag or 0, event)
            raise BusError("the connection was lost, or the queue", where=self._where, mend=AGAIN)
        finally:
            if not channel.is_closed:
                await channel.close()

    def _event(self, seq: int, message: DeliveredMessage, types: frozenset[str]) -> LoggedEvent | Unreadable | None:
        """What a message is to a receiver of *types*."""
        headers = message.header.properties.headers or {}
        content_type = message.header.properties.content_type
        is_whole = (content_type or "").startswith("application/cloudevents")
        try:
            # The content type decides, whatever properties are beside it.
            if not is_whole and (attributes := dict(_attributes(headers))):
                if content_type:
                    attributes["datacontenttype"] = content_type
                event = from_attributes(attributes, message.body, received_ms=self._clock.now_ms())
            else:
                # A whole event as JSON, or headers as there are for HTTP: so Knative binds CloudEvents to RabbitMQ.
                texts = {
                    name: text for name, text in headers.items() if name.startswith("ce-") and isinstance(text, str)
                }
                texts["content-type"] = content_type or ""
                event = from_message(texts, message.body, received_ms=self._clock.now_ms())
        except InvalidEvent as error:
            return Unreadable(seq, message.body, error)
        return LoggedEvent(seq, event) if event.type in types else None


def _attributes(headers: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in headers.items():
        if name.startswith(_PREFIXES):
            attribute = name[len(_PREFIXES[0]) :]
            yield attribute, _time(value) if attribute == "time" else value


def _time(value: Any) -> Any:
    """A time of AMQP (milliseconds as its clients write it, or what a header holds) as text; anything else as it is."""
    with suppress(OverflowError, ValueError, OSError):
        if isinstance(value, int):
            value = datetime.fromtimestamp(value / 1000, UTC)
        if isinstance(value, datetime):
            return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()
    return value
