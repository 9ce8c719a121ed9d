"""Kafka as the bus: one topic, events of one key in one partition, a consumer group for each service that receives.

A record is what CloudEvents says for Kafka: attributes as headers ``ce_...``, the data as value, the event's key as
key; an event without a key has its id there. The producer is idempotent and every replica in sync confirms. Keys
are spread as Java's client does it, so that whoever else publishes keeps the order of a key.

Kafka numbers what lies in each partition, the receiver's store has one position: see ``numbered``. A group's offset
is committed when what lies before it is in the receiver's store, so a partition that moves to another process, or
comes back, is read on from a place that lies in the store; whatever comes again is known by its id, and nothing comes
for the first time after a later event of its key. No transactions: nothing here depends on them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, TypeVar

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, OffsetSpec  # type: ignore[attr-defined]

from antiphon.broker.feed import AGAIN, PATIENCE_S, Feed
from antiphon.broker.librdkafka import LARGEST, Batch, Reader, Sender, call, counts_in, settings_of
from antiphon.broker.naming import shown
from antiphon.broker.numbered import NumberedFeeds
from antiphon.broker.records import from_record, to_record, type_in
from antiphon.errors import BusError, InvalidEvent
from antiphon.model.envelope import Envelope
from antiphon.model.retry import milliseconds
from antiphon.ports import Ability, Clock, LoggedEvent, Unreadable

log = logging.getLogger("antiphon.broker")

_T = TypeVar("_T")
_PURGE_EVERY_MS = 600_000
#: How long the library may take to ask for the topics: a little less than what waits for it.
_ASK_S = PATIENCE_S - 1
_PARTITIONS = 12
_UNKNOWN = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.GROUP_ID_NOT_FOUND)
#: What makes topics as they are asked for, and removes none, says so.
_NOT_THERE = KafkaError._UNSUPPORTED_FEATURE
_NO_ANSWER = KafkaError._TRANSPORT
_EARLIEST: OffsetSpec = OffsetSpec.earliest()  # type: ignore[no-untyped-call]


class KafkaBus(NumberedFeeds[tuple[int, int]]):
    """A bus on a Kafka topic (``ports.Bus``). *keep*: what was taken stays in the topic for so long."""

    abilities: frozenset[Ability] = frozenset({"order"})

    def __init__(self, url: str, *, name: str, clock: Clock, keep: timedelta) -> None:
        super().__init__(shown(url), clock)
        self._topic = f"antiphon.{name}"
        self._counts = {"partitions": _PARTITIONS, "replication": -1, **counts_in(url)}
        self._settings = {**settings_of(url), "client.id": self._topic, "error_cb": self._failed}
        self._keep_ms = milliseconds(keep)
        self._purged_ms = clock.now_ms()
        self._admin: AdminClient | None = None
        self._sender: Sender | None = None
        self._readers: dict[str, Reader] = {}
        self._leaving: set[asyncio.Future[None]] = set()
        # What the library said last that is wrong with its connections; None when it has not, or all was well since.
        self._trouble: str | None = None

    async def open(self) -> None:
        """See that a broker answers. Raises BusError."""
        self._loop = asyncio.get_running_loop()
        await self._topics()

    async def close(self) -> None:
        """Disconnect. Idempotent."""
        await self._close_feeds()
        self._discard(self._sender)
        if self._leaving:
            await asyncio.wait(self._leaving, timeout=PATIENCE_S)
        self._admin = None

    async def expect(self, receivers: Mapping[str, Sequence[str]]) -> None:
        """Make the topic, and a group for each receiver that begins with what the topic holds. Raises BusError."""
        topics = await self._topics()
        async with self._told("cannot make the topic"):
            if self._topic in topics:
                count = len(topics[self._topic].partitions)
                if count != self._counts["partitions"]:
                    log.info("%s: %s has %d partitions, and they stay as they are", self._where, self._topic, count)
                await self._look_at_retention()
            else:
                count = await self._make_topic()
            partitions = [TopicPartition(self._topic, number) for number in range(count)]
            await asyncio.gather(*(self._keep_for(receiver, partitions) for receiver in receivers))

    async def send(self, sender: str, after_seq: int, upto_seq: int, events: Sequence[Envelope]) -> int:
        """Publish all of *events*; returns when each is confirmed. Raises BusError."""
        if self._sender is None:
            self._sender = Sender(self._settings)
        producer = self._sender
        batch = Batch(len(events))
        try:
            async with self._told("has not confirmed", None):
                for event in events:
                    producer.publish(self._topic, *to_record(event), batch.told)
                await batch.confirmed(PATIENCE_S)
        except BaseException:
            # Whatever of it is still on its way ends here: of what is sent again, nothing may come before what is
            # before it.
            self._discard(producer)
            raise
        self._trouble = None
        return upto_seq

    async def receive(self, receiver: str, after: Mapping[str, int], limit: int) -> Sequence[LoggedEvent | Unreadable]:
        """Commit what lies before *after*, which the receiver has; what comes next. Raises BusError."""
        found = await super().receive(receiver, after, limit)
        if not found and self._trouble is not None:
            # The library connects again by itself, and says nothing when it has.
            await self._topics()
        return found

    async def report(self, receiver: str, seq: int) -> None:
        """Now and then remove what is old and taken by all."""
        if self._clock.now_ms() - self._purged_ms >= _PURGE_EVERY_MS:
            self._purged_ms = self._clock.now_ms()
            try:
                await self.purge(self._clock.now_ms() - self._keep_ms)
            except BusError as error:
                log.warning("what is old stays: %s", error)

    async def purge(self, before_ms: int) -> None:
        """Remove what was sent before a time (Unix milliseconds) and has been taken by every receiver."""
        admin = self._administration()
        async with self._told("cannot remove what is old"):
            listed = await _done(admin.list_consumer_groups())
            if listed.errors:
                # Those that are not told may have taken less.
                raise KafkaException(listed.errors[0])
            groups = [each.group_id for each in listed.valid if each.group_id.startswith(f"{self._topic}.")]
            offsets = {group: await self._committed(group, None) for group in groups}
            for group, places in offsets.items():
                # Kafka forgets the offsets of a group that has had no member for long; of this, it has just heard.
                await self._commit(group, places)
            taken = [{place.partition: place.offset for place in places} for places in offsets.values()]
            time = OffsetSpec.for_timestamp(before_ms)
            asked = {TopicPartition(self._topic, number): time for each in taken[:1] for number in each}
            young = {place.partition: (await _done(f)).offset for place, f in admin.list_offsets(asked).items()}
            old = [TopicPartition(self._topic, number, upto) for number, upto in removable(taken, young).items()]
            if old:
                await asyncio.gather(*map(_done, admin.delete_records(old).values()))

    async def destroy(self, receivers: Iterable[str]) -> None:
        """Remove the topic and the groups of *receivers*. Raises BusError."""
        admin = self._administration()
        async with self._told("cannot be removed"):
            if not await _was_there(admin.delete_topics([self._topic])[self._topic]):
                return
            groups = [self._group(receiver) for receiver in receivers]
            await asyncio.gather(*map(_was_there, admin.delete_consumer_groups(groups).values()))

    # ------------------------------------------------------------------ inside

    def _group(self, receiver: str) -> str:
        return f"{self._topic}.{receiver}"

    def _administration(self) -> AdminClient:
        if self._admin is None:
            self._admin = AdminClient(self._settings)
        return self._admin

    async def _topics(self) -> Mapping[str, Any]:
        """The topics that there are. Raises BusError if no broker answers."""
        admin = self._administration()

        def ask() -> Any:
            try:
                return admin.list_topics(timeout=_ASK_S)
            finally:
                # Why it cannot comes to `_failed` by this.
                admin.poll(0)

        async with self._told("cannot be reached"):
            found = await self._clock.run_blocking(ask)
        self._trouble = None
        return dict(found.topics)

    async def _make_topic(self) -> int:
        count, replicas = self._counts["partitions"], self._counts["replication"]
        config = {"retention.ms": "-1", "retention.bytes": "-1", "cleanup.policy": "delete"}
        config |= {"max.message.bytes": str(LARGEST), "message.timestamp.type": "LogAppendTime"}
        if replicas > 1:
            config["min.insync.replicas"] = str(replicas // 2 + 1)
        topic = NewTopic(self._topic, num_partitions=count, replication_factor=replicas, config=config)
        admin = self._administration()
        try:
            await _done(admin.create_topics([topic], operation_timeout=PATIENCE_S)[self._topic])
        except KafkaException as error:
            if code_of(error) not in (KafkaError.TOPIC_ALREADY_EXISTS, _NOT_THERE):
                raise
            found = await self._clock.run_blocking(lambda: admin.list_topics(self._topic, timeout=PATIENCE_S))
            return len(found.topics[self._topic].partitions)
        return count

    async def _look_at_retention(self) -> None:
        """Say so where the topic forgets by itself: it was made by somebody else."""
        asked = ConfigResource(ConfigResource.Type.TOPIC, self._topic)
        try:
            settings = await _done(self._administration().describe_configs([asked])[asked])
        except KafkaException:
            return  # a cluster does not tell everybody
        kept = {name: settings[name].value for name in ("retention.ms", "retention.bytes") if name in settings}
        if set(kept.values()) != {"-1"}:
            log.warning("%s may forget what a service has not taken: %s has %s", self._where, self._topic, kept)

    async def _keep_for(self, receiver: str, partitions: Sequence[TopicPartition]) -> None:
        """Have the receiver's group begin with the earliest event, where it has not begun yet."""
        admin = self._administration()
        begun = {place.partition for place in await self._committed(self._group(receiver), partitions)}
        new = [place for place in partitions if place.partition not in begun]
        if not new:
            return
        earliest = admin.list_offsets(dict.fromkeys(new, _EARLIEST))
        places = [TopicPartition(self._topic, each.partition, (await _done(f)).offset) for each, f in earliest.items()]
        await self._commit(self._group(receiver), places)

    async def _commit(self, group: str, places: list[TopicPartition]) -> None:
        """Commit offsets of a group that does not run: one that does commits its own."""
        asked = ConsumerGroupTopicPartitions(group, places)
        try:
            await _done(self._administration().alter_consumer_group_offsets([asked])[group])
        except KafkaException as error:
            if code_of(error) not in (KafkaError.UNKNOWN_MEMBER_ID, KafkaError.REBALANCE_IN_PROGRESS):
                raise

    async def _committed(self, group: str, partitions: Sequence[TopicPartition] | None) -> list[TopicPartition]:
        asked = ConsumerGroupTopicPartitions(group, None if partitions is None else list(partitions))
        found = await _done(self._administration().list_consumer_group_offsets([asked])[group])
        return [each for each in found.topic_partitions if each.topic == self._topic and each.offset >= 0]

    def _discard(self, sender: Sender | None) -> None:
        if sender is not None:
            sender.end()
            if self._sender is sender:
                self._sender = None

    def _failed(self, error: KafkaError) -> None:
        """Called in a thread of the library's calls: something is wrong with a connection, and it connects again."""
        if self._trouble is None:
            log.warning("%s: %s", self._where, error.str())
        if self._trouble is None or error.code() != KafkaError._ALL_BROKERS_DOWN:
            self._trouble = error.str()
        call(self._loop, self._wake)

    @asynccontextmanager
    async def _told(self, what: str, patience_s: float | None = PATIENCE_S) -> AsyncIterator[None]:
        """Raise BusError for what the library raises, and when nothing comes: with what was wrong last."""
        try:
            async with asyncio.timeout(patience_s):
                yield
        except (OSError, TimeoutError, BufferError, KafkaException) as error:
            reason = str(error) or type(error).__name__
            if self._trouble is not None and not (isinstance(error, KafkaException) and code_of(error) != _NO_ANSWER):
                reason = self._trouble
            raise BusError(f"it {what}: {reason}", where=self._where, mend=AGAIN) from error

    async def _confirm(self, receiver: str, tags: Sequence[tuple[int, int]]) -> None:
        self._readers[receiver].store(dict(tags))

    async def _fill(self, feed: Feed) -> None:
        if self._leaving:
            # The one before shall have left its group, or this one waits for what was given to it.
            await asyncio.wait(self._leaving, timeout=PATIENCE_S)
        reader = self._readers[feed.receiver] = Reader(self._settings, self._group(feed.receiver), self._topic)
        self._begin(feed)
        try:
            while True:
                for message in await self._clock.run_blocking(reader.read):
                    place = (message.partition(), message.offset() + 1)
                    await self._came(feed, place, self._event(feed.position + 1, message, feed.types))
        finally:
            # Nothing is waited for here: this task may be cancelled more than once.
            leaving = asyncio.ensure_future(self._clock.run_blocking(reader.close))
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)

    def _event(self, seq: int, message: Message, types: frozenset[str]) -> LoggedEvent | Unreadable | None:
        """What a record is to a receiver of *types*."""
        # The library types its headers as what may be sent, too.
        headers: dict[str, Any] = dict(message.headers() or ())
        body = message.value() or b""
        if type_in(headers) not in ("", *types):
            return None
        try:
            event = from_record(headers, body, self._clock.now_ms())
        except InvalidEvent as error:
            return Unreadable(seq, body, error)
        return LoggedEvent(seq, event) if event.type in types else None


def removable(taken: Sequence[Mapping[int, int]], young: Mapping[int, int]) -> dict[int, int]:
    """Up to which offset each partition can be removed: *taken* are the groups' offsets by partition, *young* the first
    ones that are too young for it (-1: none is)."""
    found = {}
    for partition, youngest in young.items():
        limits = [each.get(partition, 0) for each in taken]
        upto = min([*limits, youngest] if youngest >= 0 else limits)
        if upto > 0:
            found[partition] = upto
    return found


def code_of(error: KafkaException) -> int:
    """What kind of error it is."""
    code: int = error.args[0].code()
    return code


async def _was_there(removal: Future[Any]) -> bool:
    """Whether what is removed was there, and can be removed."""
    try:
        await _done(removal)
    except KafkaException as error:
        if code_of(error) not in (*_UNKNOWN, _NOT_THERE):
            raise
        return False
    return True


async def _done(future: Future[_T]) -> _T:
    return await asyncio.wrap_future(future)
