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

from antiphon.broker.amqp import Channel, Connection, Incoming, Outgoing, message_id
from antiphon.broker.amqp_url import parameters
from antiphon.broker.feed import AGAIN, Feed
from antiphon.broker.naming import quoted, shown
from antiphon.broker.numbered import NumberedFeeds
from antiphon.broker.waves import waves
from antiphon.errors import BusError, InvalidEvent
from antiphon.model.envelope import Envelope
from antiphon.ports import Ability, Clock, LoggedEvent, Unreadable
from antiphon.wire import STRUCTURED, from_attributes, from_message, to_structured

_PREFETCH = 1_024
_PREFIXES = ("cloudEvents:", "cloudEvents_")
#: From this version on, a queue drops what came back twenty times unless it is told not to.
_LIMITS_DELIVERIES = 4


class RabbitBus(NumberedFeeds[int]):
    """A bus on a RabbitMQ exchange (``ports.Bus``). What was taken is gone, whatever *keep* says."""

    abilities: frozenset[Ability] = frozenset({"order"})

    def __init__(self, url: str, *, name: str, clock: Clock, keep: timedelta) -> None:
        super().__init__(shown(url), clock)
        self._parameters = parameters(url)
        self._exchange = f"antiphon.{name}"
        self._connecting = asyncio.Lock()
        # Of two connections: a server that lacks memory reads no more from one that publishes.
        self._connections: dict[str, Connection] = {}
        self._publishing: Channel | None = None
        self._reading: dict[str, Channel] = {}

    async def open(self) -> None:
        """Connect, again if the connection is gone. Raises BusError."""
        await self._channel()

    async def close(self) -> None:
        """Disconnect. Idempotent."""
        await self._close_feeds()
        connections, self._connections = self._connections, {}
        for connection in connections.values():
            await connection.close()

    async def expect(self, receivers: Mapping[str, Sequence[str]]) -> None:
        """Make the exchange, and a queue for each receiver, bound to its types. Raises BusError."""
        channel = await self._channel()
        arguments = self._arguments()
        async with self._translated("cannot make the queues"):
            await channel.make_exchange(self._exchange)
            for receiver, types in receivers.items():
                queue = self._queue(receiver)
                await channel.make_queue(queue, arguments)
                for type_ in types:
                    await channel.bind(queue, self._exchange, quoted(type_))

    async def send(self, sender: str, after_seq: int, upto_seq: int, events: Sequence[Envelope]) -> int:
        """Publish all of *events*; returns when every queue holds each. Raises BusError."""
        channel = await self._channel()
        for wave in waves(events):
            async with self._translated("has not confirmed"):
                refused = await channel.publish(map(self._message, wave))
            if refused.number:
                raise BusError(f"it refused {refused.number} of {len(wave)} events", where=self._where)
        return upto_seq

    async def destroy(self, receivers: Iterable[str]) -> None:
        """Remove the exchange and the queues of *receivers*, with all that they hold. Raises BusError."""
        channel = await self._channel()
        async with self._translated("cannot be removed"):
            for receiver in receivers:
                await channel.delete_queue(self._queue(receiver))
            await channel.delete_exchange(self._exchange)

    # ------------------------------------------------------------------ inside

    async def _channel(self) -> Channel:
        """The channel to publish on. Raises BusError."""
        async with self._connecting:
            if self._publishing is None or self._publishing.is_closed:
                self._publishing = await self._new_channel("publishing")
            return self._publishing

    async def _new_channel(self, purpose: str) -> Channel:
        async with self._translated("cannot be reached"):
            connection = self._connections.get(purpose)
            if connection is None or connection.is_closed:
                connection = self._connections[purpose] = await Connection.to(self._parameters)
            return await connection.channel()

    def _queue(self, receiver: str) -> str:
        return f"{self._exchange}.{receiver}"

    def _arguments(self) -> dict[str, Any]:
        arguments: dict[str, Any] = {"x-single-active-consumer": True}
        if int(self._connections["publishing"].version.partition(".")[0]) >= _LIMITS_DELIVERIES:
            arguments["x-delivery-limit"] = -1
        return arguments

    def _message(self, event: Envelope) -> Outgoing:
        return Outgoing(to_structured(event), self._exchange, quoted(event.type), STRUCTURED, message_id(event.id))

    async def _confirm(self, receiver: str, tags: Sequence[int]) -> None:
        async with self._translated("cannot take an acknowledgement"):
            self._reading[receiver].acknowledge(tags[-1])

    async def _fill(self, feed: Feed) -> None:
        # Who removed the queue had it ended here; whoever is to receive has it again, and not when it starts next.
        await self.expect({feed.receiver: sorted(feed.types)})
        async with self._connecting:
            channel = self._reading[feed.receiver] = await self._new_channel("reading")
        self._begin(feed)
        came: asyncio.Queue[Incoming | None] = asyncio.Queue()
        channel.at_end(lambda: came.put_nowait(None))
        try:
            async with self._translated("cannot be consumed"):
                await channel.consume(
                    [self._queue(feed.receiver)], lambda _, message: came.put_nowait(message), prefetch=_PREFETCH
                )
            while (message := await came.get()) is not None:
                await self._came(feed, message.tag, self._event(feed.position + 1, message, feed.types))
            raise BusError("the connection was lost, or the queue", where=self._where, mend=AGAIN)
        finally:
            await channel.close()

    def _event(self, seq: int, message: Incoming, types: frozenset[str]) -> LoggedEvent | Unreadable | None:
        """What a message is to a receiver of *types*."""
        headers, content_type = message.headers, message.content_type
        is_whole = content_type.startswith("application/cloudevents")
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
                texts["content-type"] = content_type
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
