"""Kafka: records of topics, read by offset; and records to topics.

A place is a topic. A CloudEvent has its attributes as headers ``ce_...``, or is the value as structured JSON; the key
of a record is that of the event. Offsets lie in the channel's store: no consumer group is joined, so nothing is
rebalanced, and each partition is read on in order from what was taken. The producer is idempotent and every replica in
sync confirms. A partition that is added is seen within half a minute.

Between regions each direction has a topic of its own, made when it is missing; its retention is that of the brokers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as Record
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from antiphon.broker.librdkafka import Batch, Header, Sender, counts_in, settings_of
from antiphon.broker.naming import shown
from antiphon.channel.helping import PATIENCE_S, split, text, translated
from antiphon.errors import BusError
from antiphon.model.channels import ChannelSpec, Message
from antiphon.ports import Clock

log = logging.getLogger("antiphon.channel")

_PREFIX = "ce_"
_POLL_S = 0.25
_LOOK_EVERY_MS = 30_000
_PARTITIONS = 6
_ERRORS = (KafkaException, BufferError)


class _Connected:
    """What both directions know."""

    def __init__(self, channel: ChannelSpec, clock: Clock) -> None:
        self._channel = channel
        self._where = shown(channel.url)
        self._clock = clock
        self._trouble = ""
        self._settings = {**settings_of(channel.url), "client.id": f"antiphon.{channel.app}", "error_cb": self._failed}

    async def _topics(self, client: Any, wanted: Sequence[str]) -> dict[str, int]:
        """The number of partitions of each topic. Raises BusError for one that is not there."""
        async with translated(self._where, f"cannot be reached{self._trouble}", *_ERRORS):
            found = (await self._clock.run_blocking(lambda: client.list_topics(timeout=PATIENCE_S / 2))).topics
        counts = {name: len(found[name].partitions) if name in found else 0 for name in wanted}
        if missing := [name for name, count in counts.items() if not count]:
            raise BusError(f"there is no topic {', '.join(missing)}", where=self._where)
        return counts

    async def _make(self, topics: Sequence[str]) -> None:
        """Make the topics between regions."""
        if self._channel.region is None:
            return
        given = counts_in(self._channel.url)
        count, replicas = given.get("partitions", _PARTITIONS), given.get("replication", -1)
        admin = AdminClient(self._settings)
        new = [NewTopic(name, num_partitions=count, replication_factor=replicas) for name in topics]
        async with translated(self._where, "cannot make the topics", KafkaException):
            for future in admin.create_topics(new, operation_timeout=PATIENCE_S / 2).values():
                try:
                    await asyncio.wrap_future(future)
                except KafkaException as error:
                    known = (KafkaError.TOPIC_ALREADY_EXISTS, KafkaError._UNSUPPORTED_FEATURE)
                    if error.args[0].code() not in known:
                        raise

    def _failed(self, error: KafkaError) -> None:
        """Called in a thread of the library's: something is wrong with a connection, and it connects again."""
        self._trouble = f" ({error.str()})"


class ChannelSource(_Connected):
    """Reads topics from where they were left (``ports.Source``)."""

    _consumer: Consumer | None = None

    async def open(self, notes: Mapping[str, str]) -> None:
        """Connect, and go on from the noted offsets. Raises BusError."""
        topics = list(self._channel.inbound)
        await self._make(topics)
        settings = {
            **self._settings,
            "group.id": f"antiphon.{self._channel.app}.{self._channel.name}",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "queued.max.messages.kbytes": 16 * 1024,
            "check.crcs": True,
        }
        consumer = self._consumer = Consumer(settings)
        self._counts = await self._topics(consumer, topics)
        self._looked_ms = self._clock.boot_ms()
        places = [
            TopicPartition(topic, number, int(notes.get(f"{topic}/{number}", 0)))
            for topic, count in self._counts.items()
            for number in range(count)
        ]
        async with translated(self._where, "cannot be read", *_ERRORS):
            for place in places:
                await self._see_what_is_lost(consumer, place)
            consumer.assign(places)

    async def receive(self, limit: int) -> Sequence[Message]:
        """What has come; nothing after a moment. Raises BusError."""
        async with translated(self._where, "cannot be read", *_ERRORS):
            records: list[Record] = await self._clock.run_blocking(lambda: self._read(limit))
        if self._clock.boot_ms() - self._looked_ms >= _LOOK_EVERY_MS:
            self._looked_ms = self._clock.boot_ms()
            if await self._topics(self._consumer, list(self._counts)) != self._counts:
                raise BusError("it has other partitions than before", where=self._where)
        return [self._message(record) for record in records]

    async def acknowledge(self, messages: Sequence[Message]) -> None:
        """Nothing: the notes tell."""

    async def close(self) -> None:
        """Disconnect. Idempotent."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await self._clock.run_blocking(consumer.close)

    def _read(self, limit: int) -> list[Record]:
        consumer = self._consumer
        if consumer is None:
            return []
        first = consumer.poll(_POLL_S)
        found = [] if first is None else [first, *(consumer.consume(limit - 1, 0) if limit > 1 else [])]
        for each in found:
            if (error := each.error()) is not None and not error.retriable():
                raise KafkaException(error)
        return [each for each in found if each.error() is None]

    async def _see_what_is_lost(self, consumer: Consumer, place: TopicPartition) -> None:
        if not place.offset:
            return
        bounds = await self._clock.run_blocking(lambda: consumer.get_watermark_offsets(place, timeout=PATIENCE_S / 2))
        if bounds is not None and bounds[0] > place.offset:
            log.error(
                "%s: %s/%d is gone up to %d, and was read up to %d",
                self._where,
                place.topic,
                place.partition,
                bounds[0],
                place.offset,
            )

    def _message(self, record: Record) -> Message:
        topic, partition, offset = record.topic() or "", record.partition() or 0, record.offset() or 0
        attributes, headers = split(dict(record.headers() or ()), (_PREFIX,))
        content_type = headers.get("content-type", "")
        key, sent = record.key(), record.timestamp()
        return Message(
            topic=topic,
            body=record.value() or b"",
            content_type=content_type,
            attributes={} if content_type.startswith("application/cloudevents") else attributes,
            headers=headers,
            id=f"{topic}/{partition}/{offset}",
            key=text(key) if key else None,
            time_ms=sent[1] if sent[0] else None,
            note=(f"{topic}/{partition}", str(offset + 1)),
        )


class ChannelSink(_Connected):
    """Publishes records (``ports.Sink``)."""

    _sender: Sender | None = None

    async def open(self) -> None:
        """See that the topics are there. Raises BusError."""
        topics = list(self._channel.outbound)
        await self._make(topics)
        await self._topics(AdminClient(self._settings), topics)
        self._sender = Sender(self._settings)

    async def send(self, messages: Sequence[Message]) -> Mapping[int, str]:
        """Publish all; returns when each is confirmed. Raises BusError; then this sends nothing more."""
        if self._sender is None:
            raise BusError("it is not connected", where=self._where)
        refused: dict[int, str] = {}
        batch = Batch(len(messages))
        async with translated(self._where, f"has not confirmed{self._trouble}", *_ERRORS):
            for index, message in enumerate(messages):
                headers: list[Header] = [("content-type", message.content_type)]
                headers += [(f"{_PREFIX}{name}", text(value).encode()) for name, value in message.attributes.items()]
                key = (message.key or message.id or "").encode()
                try:
                    self._sender.publish(message.topic, key, message.body, headers, batch.told)
                except KafkaException as error:
                    if error.args[0].code() != KafkaError.MSG_SIZE_TOO_LARGE:
                        raise
                    refused[index] = f"{len(message.body):,} bytes are more than Kafka takes"
                    batch.told(None, None)  # type: ignore[arg-type]
            await batch.done
        self._trouble = ""
        return refused

    async def close(self) -> None:
        """Send nothing more. Idempotent."""
        sender, self._sender = self._sender, None
        if sender is not None:
            sender.end()
