"""The systems beside an app, as those see them who work with them: each with its own library, none of ours."""

from __future__ import annotations

import json
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiormq
from pamqp.commands import Basic

from antiphon.testing.conformance.engines import ENGINES
from tests.channel.kit import body
from tests.servers import url_of


class Foreign(ABC):
    """A system with a place to send from and one to receive at, both of this object alone."""

    name: str
    #: Whether there is a line to it that can be cut.
    is_server = True
    #: The URL of the app's channel, and the place at which this receives.
    url: str
    out: str = ""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = uuid.uuid4().hex[:12]
        self.places = [f"in_{self.mark}"]

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
        for queue in (*self.places, self.out):
            await self._channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
        await self._channel.basic_consume(self.out, self._take, no_ack=True)

    async def close(self) -> None:
        if not hasattr(self, "_connection"):
            return
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


FOREIGN: tuple[type[Foreign], ...] = (RabbitMQ, Folder)


@asynccontextmanager
async def foreign(kind: type[Foreign], folder: Path) -> AsyncIterator[Foreign]:
    """A system, ready."""
    system = kind(folder)
    try:
        await system.open()
        yield system
    finally:
        await system.close()
