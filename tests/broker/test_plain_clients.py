"""Services that are not Antiphon's take part, with their protocol's plain client and the library of CloudEvents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiormq
import nats
import pytest
from aiormq.abc import DeliveredMessage
from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.bindings import amqp, http, rabbitmq
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from nats.aio.msg import Msg
from pamqp.commands import Basic
from redis.asyncio import Redis

from antiphon import App, Event, Service
from antiphon.broker.connecting import bus_at
from antiphon.broker.naming import quoted, without_name
from antiphon.model.retry import days
from antiphon.runtime.clock import SystemClock
from antiphon.testing.conformance.engines import named_bus
from tests.broker.engines import required
from tests.servers import engine_called

pytestmark = pytest.mark.anyio
PATIENCE_S = 30
JSON = JSONFormat()


class OrderPlaced(Event, key="order", type="shop.OrderPlaced"):
    """Published by a shop that is written in another language."""

    order: str
    text: str


class OrderShipped(Event, key="order", type="depot.OrderShipped"):
    """What the shop waits for."""

    order: str
    text: str


depot = Service("depot")


@depot.on(OrderPlaced)
async def ship(placed: OrderPlaced) -> OrderShipped:
    """Ship it, and say so."""
    return OrderShipped(order=placed.order, text=placed.text)


app = App(depot, name="plain_clients", own_stores=True)


class Plain(NamedTuple):
    """A plain client: it publishes an event in one *form* of its protocol's binding, and consumes the depot's."""

    publish: Callable[[CloudEvent, str], Awaitable[None]]
    consume: Callable[[], Awaitable[BaseCloudEvent]]


@asynccontextmanager
async def plain_nats(url: str, name: str) -> AsyncIterator[Plain]:
    """nats-py. The binding for NATS names its headers as that for HTTP."""
    client = await nats.connect(url)
    subscription = await client.subscribe(f"antiphon.{name}.depot.>")
    await client.flush()

    async def publish(event: CloudEvent, form: str) -> None:
        message = (http.to_binary if form == "binary" else http.to_structured)(event, JSON)
        await client.jetstream().publish(f"antiphon.{name}.shop.placed", message.body, headers=message.headers)

    async def consume() -> BaseCloudEvent:
        message: Msg = await subscription.next_msg(timeout=PATIENCE_S)
        return http.from_http(http.HTTPMessage(dict(message.headers or {}), message.data), JSON)

    try:
        yield Plain(publish, consume)
    finally:
        await client.close()


@asynccontextmanager
async def plain_redis(url: str, name: str) -> AsyncIterator[Plain]:
    """redis-py. There is no binding for Redis: the field ``event`` holds structured JSON."""
    stream = f"antiphon:{{{name}}}:events"
    # What its commands return is typed as everything that it could be.
    connection: Any = Redis.from_url(url)
    async with connection as client:
        last: bytes | str = "0"

        async def publish(event: CloudEvent, form: str) -> None:
            fields = {"event": http.to_structured(event, JSON).body}
            await client.xadd(stream, fields if form == "structured" else {"type": event.get_type(), **fields})

        async def consume() -> BaseCloudEvent:
            nonlocal last
            while True:
                answer = await client.xread({stream: last}, count=1, block=4_000)
                ((_, ((last, fields),)),) = answer.items() if isinstance(answer, dict) else answer
                event = JSON.read(CloudEvent, fields[b"event"])
                if event.get_source() != "/shop":
                    return event

        yield Plain(publish, consume)


@asynccontextmanager
async def plain_rabbitmq(url: str, name: str) -> AsyncIterator[Plain]:
    """aiormq. There is a binding for AMQP 1.0, and one of Knative's for RabbitMQ."""
    connection = await aiormq.connect(url)
    channel = await connection.channel(publisher_confirms=True)
    came: asyncio.Queue[DeliveredMessage] = asyncio.Queue()
    queue = (await channel.queue_declare(exclusive=True)).queue or ""
    await channel.queue_bind(queue, f"antiphon.{name}", routing_key=quoted("depot.OrderShipped"))
    await channel.basic_consume(queue, came.put, no_ack=True)

    async def publish(event: CloudEvent, form: str) -> None:
        if form == "amqp":
            written = amqp.to_binary(event, JSON)
            body, headers = written.application_data, written.application_properties
            content_type = written.properties.get("content-type")
        else:
            message = (rabbitmq.to_binary if form == "binary" else rabbitmq.to_structured)(event, JSON)
            body, headers, content_type = message.body, dict(message.headers), message.content_type
        await channel.basic_publish(
            body,
            exchange=f"antiphon.{name}",
            routing_key=quoted("shop.OrderPlaced"),
            properties=Basic.Properties(content_type=content_type, headers=headers),
        )

    async def consume() -> BaseCloudEvent:
        async with asyncio.timeout(PATIENCE_S):
            message = await came.get()
        properties = message.header.properties
        about = {"content-type": properties.content_type}
        return amqp.from_amqp(amqp.AMQPMessage(about, dict(properties.headers or {}), message.body), JSON)

    try:
        yield Plain(publish, consume)
    finally:
        await connection.close()


CLIENTS = {"nats": plain_nats, "redis": plain_redis, "rabbitmq": plain_rabbitmq}
FORMS = [
    (name, form) for name in CLIENTS for form in ("binary", "structured", *(("amqp",) if name == "rabbitmq" else ()))
]


@pytest.mark.parametrize(("name", "form"), FORMS)
async def test_a_service_of_another_language_takes_part(name: str, form: str, tmp_path: Path) -> None:
    """Its event is handled, once however often it comes, and what is published then is an event to its library."""
    url = await required(engine_called(name))
    async with named_bus(url, ["depot"]) as bus_url:
        place, bus_name = without_name(bus_url)
        await made(bus_url)
        async with CLIENTS[name](place, bus_name or "") as plain, app.run_in(tmp_path, bus=bus_url):
            for number in (1, 1, 2):
                await plain.publish(placed(number), form)
            answers = [await plain.consume() for _ in range(2)]
    for number, answer in enumerate(answers, 1):
        assert (answer.get_type(), answer.get_source()) == ("depot.OrderShipped", "/depot")
        assert answer.get_subject() == f"order {number}"
        assert answer.get_data() == {"order": f"order {number}", "text": "ключ é"}
        assert answer.get_time() is not None


def placed(number: int) -> CloudEvent:
    """An order of the shop."""
    about = {"id": f"shop-{number}", "source": "/shop", "type": "shop.OrderPlaced", "specversion": "1.0"}
    about["datacontenttype"] = "application/json"
    return CloudEvent(about, {"order": f"order {number}", "text": "ключ é"})


async def made(url: str) -> None:
    """Make the bus, as the depot's processes do when they start."""
    bus = bus_at(url, "", keep=days(7))(Path(), clock=SystemClock(), owner="")
    await bus.open()
    await bus.expect({"depot": ["shop.OrderPlaced"]})
    await bus.close()
