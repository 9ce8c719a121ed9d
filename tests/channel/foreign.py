"""The systems beside an app, as those see them who work with them: each with its own library, none of ours."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import aiomqtt
import aiormq
import asyncmy
import nats
import psycopg
from confluent_kafka import Consumer, Producer, TopicPartition
from pamqp.commands import Basic
from redis.asyncio import Redis

from antiphon.testing.conformance.engines import ENGINES
from antiphon.testing.kafka import KafkaServer
from antiphon.testing.line import line_to
from antiphon.testing.servers import listens_at
from tests.channel.kit import body
from tests.conftest import require
from tests.servers import url_of


class Cut(NamedTuple):
    """A URL, and how to break the connections to it and refuse new ones, and to let them through again."""

    url: str
    cut: Callable[[], Awaitable[None]]
    mend: Callable[[], Awaitable[None]]


class Foreign(ABC):
    """A system with a place to send from and one to receive at, both of this object alone."""

    name: str
    #: Whether there is a line to it that can be cut.
    is_server = True
    #: Whether a message is bytes, which are kept as they are.
    has_bytes = True
    #: The URL of the app's channel, and the place at which this receives.
    url: str
    out: str = ""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = uuid.uuid4().hex[:12]
        self.places = [f"in_{self.mark}"]
        #: What the app is called, which some systems know it by; and the options of its channel.
        self.app = f"relay_{self.mark}"
        self.options: dict[str, Any] = {}

    @abstractmethod
    async def open(self) -> None:
        """Make the places. Skips the test where the system is not there."""

    @abstractmethod
    async def close(self) -> None:
        """Leave nothing behind."""

    @abstractmethod
    async def put(self, numbers: Iterable[int]) -> None:
        """Send messages with these numbers, durably."""

    @abstractmethod
    async def put_raw(self, raw: bytes) -> None:
        """Send what is no event."""

    async def taken(self) -> list[dict[str, Any]]:
        """All CloudEvents that have come out so far."""
        raise NotImplementedError

    @asynccontextmanager
    async def line(self) -> AsyncIterator[Cut]:
        """A line to it that can be cut."""
        async with line_to(self.url) as line:
            yield Cut(line.url, line.cut, line.mend)
            assert line.broken > 0


async def listening(name: str) -> str:
    """The URL of a server on its standard port. Skips the test where there is none."""
    return await url_of(next(each for each in ENGINES if each.name == name))


class RabbitMQ(Foreign):
    """Two queues."""

    name = "rabbitmq"

    async def open(self) -> None:
        self.url = await listening("rabbitmq")
        self._connection = await aiormq.connect(self.url)
        self._channel = await self._connection.channel()
        self.out = f"out_{self.mark}"
        self._events: list[dict[str, Any]] = []
        await self.make()
        await self._channel.basic_consume(self.out, self._take, no_ack=True)

    async def make(self) -> None:
        """Make the queues that are not there."""
        for queue in (*self.places, self.out):
            await self._channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})

    async def count(self, queue: str) -> int:
        """How many messages lie in a queue."""
        declared = await self._channel.queue_declare(queue, passive=True)
        return declared.message_count or 0

    async def remove(self) -> None:
        """Remove the queues to send to."""
        for queue in self.places:
            await self._channel.queue_delete(queue)

    async def close(self) -> None:
        await self._connection.close()
        connection = await aiormq.connect(self.url)
        channel = await connection.channel()
        for queue in (*self.places, self.out):
            await channel.queue_delete(queue)
        await connection.close()

    async def put(self, numbers: Iterable[int]) -> None:
        for n in numbers:
            properties = Basic.Properties(message_id=f"m{n}", content_type="application/json", delivery_mode=2)
            await self._publish(json.dumps(body(n)).encode(), properties)

    async def put_raw(self, raw: bytes) -> None:
        await self._publish(raw, Basic.Properties(message_id="raw", delivery_mode=2))

    async def _publish(self, raw: bytes, properties: Basic.Properties) -> None:
        await self._channel.basic_publish(raw, routing_key=self.places[0], properties=properties)

    async def taken(self) -> list[dict[str, Any]]:
        return list(self._events)

    async def _take(self, message: Any) -> None:
        headers = message.header.properties.headers
        event = {name.removeprefix("cloudEvents:"): value for name, value in headers.items()}
        self._events.append({**event, "data": json.loads(message.body)})


class Folder(Foreign):
    """A folder of files that grow."""

    name = "folder"
    is_server = False

    async def open(self) -> None:
        self.url = f"folder://{self.folder / 'exchange'}"
        self._in = self.folder / "exchange" / f"orders-{self.mark}.jsonl"
        self._in.parent.mkdir(parents=True)
        self.places, self.out = ["orders-*.jsonl"], "passed.jsonl"

    async def close(self) -> None:
        """It lies in the test's own folder."""

    async def put(self, numbers: Iterable[int]) -> None:
        with self._in.open("a") as file:
            for n in numbers:
                file.write(json.dumps(body(n)) + "\n")

    async def put_raw(self, raw: bytes) -> None:
        with self._in.open("ab") as file:
            file.write(raw + b"\n")

    async def taken(self) -> list[dict[str, Any]]:
        path = self._in.parent / self.out
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        return [json.loads(line) for line in lines]


class RedisStreams(Foreign):
    """Two streams."""

    name = "redis"

    async def open(self) -> None:
        self.url = await listening("redis")
        self.out = f"out_{self.mark}"
        self._client: Any = Redis.from_url(self.url)

    async def close(self) -> None:
        await self._client.delete(*self.places, self.out)
        await self._client.aclose()

    async def put(self, numbers: Iterable[int]) -> None:
        for n in numbers:
            await self._client.xadd(self.places[0], {"data": json.dumps(body(n))})

    async def put_raw(self, raw: bytes) -> None:
        await self._client.xadd(self.places[0], {"data": raw})

    async def taken(self) -> list[dict[str, Any]]:
        return [json.loads(fields[b"event"]) for _, fields in await self._client.xrange(self.out)]

    async def count(self, stream: str) -> int:
        """How many entries a stream has."""
        return int(await self._client.xlen(stream))

    async def make_none(self, stream: str) -> None:
        """Have something else at the place of a stream."""
        await self._client.set(stream, "none")


class Nats(Foreign):
    """Subjects of one stream."""

    name = "nats"

    async def open(self) -> None:
        self.url = await listening("nats")
        self.places, self.out = [f"{self.mark}.in.*"], f"{self.mark}.out"
        self._client = await nats.connect(self.url)
        self._js = self._client.jetstream()
        await self._js.add_stream(name=f"s_{self.mark}", subjects=[f"{self.mark}.>"])
        self._events: list[dict[str, Any]] = []
        self._subscription = await self._js.subscribe(self.out, cb=self._take, ordered_consumer=True)

    async def count(self, subject: str) -> int:
        """How many messages the stream of a subject has."""
        return (await self._js.stream_info(await self._js.find_stream_name_by_subject(subject))).state.messages

    async def close(self) -> None:
        await self._js.delete_stream(f"s_{self.mark}")
        await self._client.close()

    async def put(self, numbers: Iterable[int]) -> None:
        for n in numbers:
            await self.put_raw(json.dumps(body(n)).encode())

    async def put_raw(self, raw: bytes) -> None:
        await self._js.publish(f"{self.mark}.in.orders", raw)

    async def taken(self) -> list[dict[str, Any]]:
        return list(self._events)

    async def _take(self, message: Any) -> None:
        event = {name.removeprefix("ce-"): value for name, value in message.headers.items()}
        self._events.append({**event, "data": json.loads(message.data)})


class Kafka(Foreign):
    """Two topics of several partitions, of a cluster that can take no connections for a while."""

    name = "kafka"

    async def open(self) -> None:
        require("Kafka's mock cluster", KafkaServer.is_there())
        self._cluster = KafkaServer()
        await self._cluster.start()
        self.url = self._cluster.url
        self.out = f"out_{self.mark}"
        servers: dict[str, Any] = {"bootstrap.servers": self.url.partition("://")[2]}
        for topic in (*self.places, self.out):
            await self._cluster.make_topic(topic, 3)
        self._producer = Producer({**servers, "enable.idempotence": True})
        self._consumer = Consumer({**servers, "group.id": self.mark, "auto.offset.reset": "earliest"})
        self._consumer.assign([TopicPartition(self.out, number, 0) for number in range(3)])
        self._events: list[dict[str, Any]] = []

    async def close(self) -> None:
        await asyncio.to_thread(self._consumer.close)
        del self._producer  # or it goes on looking for the cluster
        self._cluster.close()

    @asynccontextmanager
    async def line(self) -> AsyncIterator[Cut]:
        yield Cut(self.url, self._cluster.kill, self._cluster.start)

    async def put(self, numbers: Iterable[int]) -> None:
        for n in numbers:
            self._producer.produce(self.places[0], json.dumps(body(n)).encode(), key=body(n)["about"])
        await asyncio.to_thread(self._producer.flush)

    async def put_raw(self, raw: bytes) -> None:
        self._producer.produce(self.places[0], raw)
        await asyncio.to_thread(self._producer.flush)

    async def taken(self) -> list[dict[str, Any]]:
        for record in await asyncio.to_thread(self._consumer.consume, 500, 0.05):
            if record.error() is not None:
                continue
            headers: dict[str, Any] = dict(record.headers() or ())
            event = {name.removeprefix("ce_"): value.decode() for name, value in headers.items()}
            self._events.append({**event, "data": json.loads(record.value() or b"")})
        return list(self._events)


class Mqtt(Foreign):
    """Topics of a broker that keeps a session for the app."""

    name = "mqtt"

    async def open(self) -> None:
        self.url = "mqtt://127.0.0.1:1883"
        require("mosquitto at 127.0.0.1:1883", await listens_at(self.url))
        self.places = [f"{self.mark}/+/orders"]
        async with self._session():
            pass
        self._client = aiomqtt.Client("127.0.0.1")
        await self._client.__aenter__()

    async def close(self) -> None:
        await self._client.__aexit__(None, None, None)
        async with aiomqtt.Client("127.0.0.1", identifier=self._identifier, clean_session=True):
            """The session ends."""

    def _session(self) -> aiomqtt.Client:
        return SubscribedSession(self.places[0], "127.0.0.1", identifier=self._identifier, clean_session=False)

    @property
    def _identifier(self) -> str:
        return f"antiphon-{self.app}-upstream"

    async def put(self, numbers: Iterable[int]) -> None:
        for n in numbers:
            await self.put_raw(json.dumps(body(n)).encode())

    async def put_raw(self, raw: bytes) -> None:
        await self._client.publish(f"{self.mark}/here/orders", raw, qos=1)


class SubscribedSession(aiomqtt.Client):
    """A session that holds what is published from now on."""

    def __init__(self, place: str, *where: Any, **options: Any) -> None:
        super().__init__(*where, **options)
        self._place = place

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        await self.subscribe(self._place, qos=1)
        return self


class Table(Foreign):
    """A table that grows."""

    has_bytes = False

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._next = 0
        self.options = {"column": "line"}

    @abstractmethod
    async def execute(self, sql: str) -> None:
        """Run a statement, and commit."""

    async def make(self) -> None:
        """The table."""
        await self.execute(f"CREATE TABLE {self.places[0]} (line INTEGER PRIMARY KEY, n VARCHAR(9), about VARCHAR(9))")

    async def put(self, numbers: Iterable[int]) -> None:
        for n in numbers:
            self._next += 1
            await self.execute(f"INSERT INTO {self.places[0]} VALUES ({self._next}, '{n}', '{body(n)['about']}')")

    async def put_raw(self, raw: bytes) -> None:
        self._next += 1
        await self.execute(f"INSERT INTO {self.places[0]} VALUES ({self._next}, 'what?', '')")


class SqliteTable(Table):
    """In a file."""

    name = "table-sqlite"
    is_server = False

    async def open(self) -> None:
        path = self.folder / "legacy.db"
        self.url = f"table+sqlite://{path}"
        self._connection = sqlite3.connect(path, isolation_level=None)
        await self.make()

    async def close(self) -> None:
        self._connection.close()

    async def execute(self, sql: str) -> None:
        self._connection.execute(sql)


class PostgresTable(Table):
    """In the tests' database."""

    name = "table-postgresql"

    async def open(self) -> None:
        url = await listening("postgres")
        self.url = f"table+{url}"
        self._connection = await psycopg.AsyncConnection.connect(url, autocommit=True)
        await self.make()

    async def close(self) -> None:
        await self.execute(f"DROP TABLE {self.places[0]}")
        await self._connection.close()

    async def execute(self, sql: str) -> None:
        await self._connection.execute(sql)


class MariaTable(Table):
    """In a database of its own."""

    name = "table-mariadb"

    async def open(self) -> None:
        self.url = f"table+mariadb://root@127.0.0.1:3306/legacy_{self.mark}"
        require("mariadb at 127.0.0.1:3306", await listens_at("mariadb://127.0.0.1:3306"))
        self._connection = await asyncmy.connect(host="127.0.0.1", user="root", password="", autocommit=True)
        await self.execute(f"CREATE DATABASE legacy_{self.mark}")
        await self.execute(f"USE legacy_{self.mark}")
        await self.make()

    async def close(self) -> None:
        await self.execute(f"DROP DATABASE legacy_{self.mark}")
        self._connection.close()

    async def execute(self, sql: str) -> None:
        async with self._connection.cursor() as cursor:
            await cursor.execute(sql)


FOREIGN: tuple[type[Foreign], ...] = (
    RabbitMQ,
    RedisStreams,
    Nats,
    Kafka,
    Mqtt,
    Folder,
    SqliteTable,
    PostgresTable,
    MariaTable,
)


@asynccontextmanager
async def foreign(kind: type[Foreign], folder: Path) -> AsyncIterator[Foreign]:
    """A system, ready."""
    system = kind(folder)
    await system.open()
    try:
        yield system
    finally:
        await system.close()
