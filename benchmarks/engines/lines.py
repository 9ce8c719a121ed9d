"""What the loop by hand sends and receives with: each broker's own client, used as well as we know how.

Events go in batches, each confirmed; what is received is acknowledged after the commit that took it. Nothing of ours
is used: no envelope, no codec, no reconnecting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, Protocol

from antiphon.bench.workload import BATCH

_PATIENCE_S = 30.0


class Message(NamedTuple):
    """An event on its way."""

    id: str
    key: str
    data: bytes


class Line(Protocol):
    """One service's way to the others."""

    async def open(self, receives: str | None) -> None:
        """Connect; *receives* is the type of the events that are taken."""

    async def send(self, type_: str, messages: Sequence[Message]) -> None:
        """Return when the broker has confirmed each, in order."""

    async def receive(self) -> list[Message]:
        """The next events, one at least, so many as there are at most."""

    async def acknowledge(self) -> None:
        """What was received is committed."""

    async def close(self) -> None:
        """Disconnect."""


class NatsLine:
    """JetStream: a stream in files, ``publish_async``, a durable pull consumer that confirms a batch by its last."""

    def __init__(self, url: str, name: str) -> None:
        self._url, self._name = url, name

    async def open(self, receives: str | None) -> None:
        """Connect, and make the stream and the consumer."""
        import nats
        from nats.js.api import AckPolicy, ConsumerConfig

        self._client = await nats.connect(self._url)
        self._js = self._client.jetstream(timeout=_PATIENCE_S)
        await self._js.add_stream(name=self._name, subjects=[f"{self._name}.>"])
        if receives is not None:
            config = ConsumerConfig(ack_policy=AckPolicy.ALL, max_ack_pending=4 * BATCH)
            self._pull = await self._js.pull_subscribe(f"{self._name}.{receives}", durable=receives, config=config)

    async def send(self, type_: str, messages: Sequence[Message]) -> None:
        """All at once; the server answers each."""
        subject = f"{self._name}.{type_}"
        headers = [{"Nats-Msg-Id": each.id, "key": each.key} for each in messages]
        acks = [
            await self._js.publish_async(subject, each.data, headers=head)
            for each, head in zip(messages, headers, strict=True)
        ]
        await asyncio.gather(*acks)

    async def receive(self) -> list[Message]:
        """A pull of a batch."""
        found = await self._pull.fetch(BATCH, timeout=_PATIENCE_S)
        self._last = found[-1]
        heads = [each.headers or {} for each in found]
        return [Message(head["Nats-Msg-Id"], head["key"], each.data) for each, head in zip(found, heads, strict=True)]

    async def acknowledge(self) -> None:
        """The last, and with it all before."""
        await self._last.ack()

    async def close(self) -> None:
        """Disconnect."""
        await self._client.close()

    async def remove(self) -> None:
        """Delete the stream."""
        await self._js.delete_stream(self._name)


class RedisLine:
    """A stream for each type; a batch is one pipeline in MULTI, the position is the reader's own."""

    def __init__(self, url: str, name: str) -> None:
        self._url, self._name = url, name

    async def open(self, receives: str | None) -> None:
        """Connect."""
        from redis.asyncio import Redis

        self._client: Any = Redis.from_url(self._url)
        self._receives, self._position = receives, b"0"

    async def send(self, type_: str, messages: Sequence[Message]) -> None:
        """One round trip."""
        async with self._client.pipeline(transaction=True) as pipe:
            for each in messages:
                pipe.xadd(f"{self._name}:{type_}", {"id": each.id, "key": each.key, "data": each.data})
            await pipe.execute()

    async def receive(self) -> list[Message]:
        """What lies after the position."""
        stream = f"{self._name}:{self._receives}"
        answer = await self._client.xread({stream: self._position}, count=BATCH, block=int(_PATIENCE_S * 1000))
        found = answer[0][1]
        self._next = found[-1][0]
        return [Message(each[b"id"].decode(), each[b"key"].decode(), each[b"data"]) for _, each in found]

    async def acknowledge(self) -> None:
        """The position is in the commit."""
        self._position = self._next

    async def close(self) -> None:
        """Disconnect."""
        await self._client.aclose()

    async def remove(self) -> None:
        """Delete the streams."""
        await self._client.delete(*[f"{self._name}:{type_}" for type_ in ("OrderPlaced", "OrderBilled")])


class RabbitLine:
    """pika's callbacks: quorum queues, publisher confirms, one acknowledgement for a batch."""

    def __init__(self, url: str, name: str) -> None:
        self._url, self._name = url, name
        self._left: set[int] = set()
        self._sent = self._upto = 0

    async def open(self, receives: str | None) -> None:
        """Connect, and make the queues."""
        from pika import URLParameters
        from pika.adapters.asyncio_connection import AsyncioConnection

        loop = asyncio.get_running_loop()
        url = URLParameters(self._url)
        self._connection = await _answer(lambda then: AsyncioConnection(url, then, custom_ioloop=loop))
        self._sending = await _answer(lambda then: self._connection.channel(on_open_callback=then))
        await _answer(lambda then: self._sending.confirm_delivery(self._confirmed, then))
        for type_ in ("OrderPlaced", "OrderBilled"):
            queue, kind = f"{self._name}.{type_}", {"x-queue-type": "quorum"}
            await _answer(partial(self._sending.queue_declare, queue, False, True, False, False, kind))
        if receives is not None:
            self._came: asyncio.Queue[Any] = asyncio.Queue()
            self._taking = await _answer(lambda then: self._connection.channel(on_open_callback=then))
            await _answer(partial(self._taking.basic_qos, 0, 4 * BATCH, False))
            self._taking.basic_consume(f"{self._name}.{receives}", lambda _, *came: self._came.put_nowait(came))

    async def send(self, type_: str, messages: Sequence[Message]) -> None:
        """All at once; the broker confirms each, or many with one answer."""
        from pika import BasicProperties

        if not messages:
            return
        self._all: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        for each in messages:
            properties = BasicProperties(delivery_mode=2, message_id=each.id, headers={"key": each.key})
            self._sending.basic_publish("", f"{self._name}.{type_}", each.data, properties)
            self._sent += 1
            self._left.add(self._sent)
        await self._all

    def _confirmed(self, answer: Any) -> None:
        tag, is_of_many = answer.method.delivery_tag, answer.method.multiple
        assert answer.method.NAME == "Basic.Ack"
        self._left.difference_update(range(self._upto + 1 if is_of_many else tag, tag + 1))
        if is_of_many:
            self._upto = tag
        if not self._left:
            self._all.set_result(None)

    async def receive(self) -> list[Message]:
        """What has come, up to a batch."""
        found = [await self._came.get()]
        while len(found) < BATCH and not self._came.empty():
            found.append(self._came.get_nowait())
        self._last = found[-1][0].delivery_tag
        return [Message(head.message_id, head.headers["key"], body) for _, head, body in found]

    async def acknowledge(self) -> None:
        """The last, and with it all before."""
        self._taking.basic_ack(self._last, multiple=True)

    async def close(self) -> None:
        """Disconnect."""
        self._connection.close()

    async def remove(self) -> None:
        """Delete the queues."""
        for type_ in ("OrderPlaced", "OrderBilled"):
            queue = f"{self._name}.{type_}"
            await _answer(partial(self._sending.queue_delete, queue, False, False))


async def _answer(ask: Callable[[Callable[[Any], None]], object]) -> Any:
    """What one of pika's methods calls back with."""
    answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    ask(answered.set_result)
    return await answered


class KafkaLine:
    """librdkafka: an idempotent producer that waits for all of a batch, a consumer that commits what was taken."""

    def __init__(self, url: str, name: str) -> None:
        self._servers, self._name = url.partition("://")[2], name

    async def open(self, receives: str | None) -> None:
        """Connect, and make the topics."""
        from confluent_kafka import Consumer, KafkaException, Producer
        from confluent_kafka.admin import AdminClient, NewTopic

        settings = {"bootstrap.servers": self._servers}
        topics = [NewTopic(f"{self._name}.{type_}", num_partitions=12) for type_ in ("OrderPlaced", "OrderBilled")]
        admin = AdminClient(settings)
        for made in admin.create_topics(topics).values():
            with suppress(KafkaException):  # another service has made it
                made.result(_PATIENCE_S)
        self._producer = Producer(settings | {"enable.idempotence": True, "acks": "all", "linger.ms": 1})
        if receives is not None:
            reading = {"group.id": f"{self._name}.{receives}", "auto.offset.reset": "earliest"}
            self._consumer = Consumer(settings | reading | {"enable.auto.commit": False})
            self._consumer.subscribe([f"{self._name}.{receives}"])

    async def send(self, type_: str, messages: Sequence[Message]) -> None:
        """All at once; the last confirmation is waited for in a thread."""
        topic = f"{self._name}.{type_}"
        refused: list[Any] = []

        def told(error: Any, _: Any) -> None:
            if error is not None:
                refused.append(error)

        for each in messages:
            self._producer.produce(topic, each.data, key=each.key, headers={"id": each.id}, on_delivery=told)
        left = await asyncio.to_thread(self._producer.flush, _PATIENCE_S)
        assert not left
        assert not refused

    async def receive(self) -> list[Message]:
        """What has come, up to a batch."""
        found: list[Any] = []
        while not found:
            first = await asyncio.to_thread(self._consumer.poll, 1.0)
            found = [] if first is None else [first, *self._consumer.consume(BATCH - 1, 0)]
            # A topic that is just being made is no error that lasts.
            found = [each for each in found if each.error() is None]
        return [Message(each.headers()[0][1].decode(), each.key().decode(), each.value()) for each in found]

    async def acknowledge(self) -> None:
        """Commit the offsets, without waiting: what comes twice is known by its id."""
        self._consumer.commit(asynchronous=True)

    async def close(self) -> None:
        """Disconnect."""
        if hasattr(self, "_consumer"):
            await asyncio.to_thread(self._consumer.close)

    async def remove(self) -> None:
        """Nothing: the cluster is the benchmark's own."""


LINES: dict[str, Any] = {"nats": NatsLine, "redis": RedisLine, "rabbitmq": RabbitLine, "kafka": KafkaLine}
