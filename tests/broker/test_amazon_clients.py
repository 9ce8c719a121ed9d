"""Clients that know AWS and CloudEvents alone, beside a service on each of the buses, on both servers that stand in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from antiphon import App, Event, Service
from antiphon.testing.conformance.engines import Engine, named_bus
from antiphon.testing.emulators import MiniStack
from antiphon.wire import from_structured
from tests.broker.amazon import (
    EVENTBRIDGE,
    KINESIS,
    SQS,
    STANDARD,
    clients,
    cloud_event,
    on_each_emulator,
    url_on,
)

pytestmark = pytest.mark.anyio
on_each_bus = pytest.mark.parametrize("engine", [SQS, STANDARD, EVENTBRIDGE, KINESIS], ids=lambda engine: engine.name)


class Ordered(Event, key="order_id", type="test.Ordered"):
    """Somebody wants something."""

    order_id: str


class Shipped(Event, key="order_id", type="test.Shipped"):
    """It is on its way."""

    order_id: str


async def ship(ordered: Ordered) -> Shipped:
    """The handler of the service that the plain clients talk to."""
    return Shipped(order_id=ordered.order_id)


@on_each_bus
@on_each_emulator
async def test_plain_clients(emulator: type[MiniStack], engine: Engine, tmp_path: Path) -> None:
    """A service handles what a client published that knows AWS and CloudEvents alone, and such a client reads what it
    publishes."""
    shipping = Service("shipping")
    shipping.on(Ordered)(ship)
    app = App(shipping, own_stores=True)
    async with (
        named_bus(await url_on(emulator, engine), ["shipping"]) as url,
        app.run_in(tmp_path, bus=url),
        AsyncExitStack() as stack,
    ):
        publish, hear = await _CLIENT_OF[engine.name](emulator, stack, url.rpartition("name=")[2])
        found: list[tuple[str, dict[str, Any]]] = []
        tries = 0
        async with asyncio.timeout(30):
            while not found:
                # Until the service's queue is there, nobody hears it.
                tries += 1
                await publish(cloud_event("order-1", "test.Ordered", {"order_id": "o-1"}, "o-1"), tries)
                found = await hear()
        body, message = found[0]
        shipped = from_structured(body.encode(), received_ms=0)
        assert (shipped.type, shipped.key, shipped.service) == ("test.Shipped", "o-1", "shipping")
        assert json.loads(shipped.data) == {"order_id": "o-1"}
        assert shipped.causation_id == "order-1"
        if engine in (SQS, STANDARD):
            assert message["MessageAttributes"]["ce-type"]["StringValue"] == "test.Shipped"
        if engine is SQS:
            assert message["Attributes"]["MessageGroupId"] == "o-1"
        if engine is KINESIS:
            assert message["PartitionKey"] == "o-1"


Publish = Callable[[str, int], Awaitable[object]]
#: What came to a plain client: the CloudEvent, and all of the message.
Hear = Callable[[], Awaitable[list[tuple[str, dict[str, Any]]]]]


async def _queue_of_mine(sqs: Any, stack: AsyncExitStack, name: str, suffix: str) -> tuple[str, Hear]:
    """The ARN of a queue of a plain client's own, and how it reads it."""
    attributes = {"FifoQueue": "true"} if suffix else {}
    url = (await sqs.create_queue(QueueName=f"plain-{name}"[:70] + suffix, Attributes=attributes))["QueueUrl"]
    stack.push_async_callback(sqs.delete_queue, QueueUrl=url)
    arn = (await sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"]))["Attributes"]["QueueArn"]

    async def hear() -> list[tuple[str, dict[str, Any]]]:
        everything = {"MessageAttributeNames": ["All"], "MessageSystemAttributeNames": ["All"]}
        answer = await sqs.receive_message(QueueUrl=url, WaitTimeSeconds=1, **everything)
        return [(each["Body"], each) for each in answer.get("Messages", ())]

    return arn, hear


async def _client_of_sns(
    emulator: type[MiniStack], stack: AsyncExitStack, name: str, suffix: str
) -> tuple[Publish, Hear]:
    """How somebody publishes and hears who has the topic's name, and SNS and SQS."""
    sns, sqs = await stack.enter_async_context(clients(emulator, "sns", "sqs"))
    mine, hear = await _queue_of_mine(sqs, stack, name, suffix)
    topic = f"{mine.rpartition(':')[0].replace(':sqs:', ':sns:')}:antiphon-{name}{suffix}"
    async with asyncio.timeout(30):
        while topic not in [each["TopicArn"] for each in (await sns.list_topics())["Topics"]]:
            pass
    filtering = {"RawMessageDelivery": "true", "FilterPolicy": json.dumps({"ce-type": ["test.Shipped"]})}
    await sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=mine, Attributes=filtering)

    async def publish(body: str, number: int) -> None:
        of_group = {"MessageGroupId": "o-1", "MessageDeduplicationId": str(number)} if suffix else {}
        said = {"ce-type": {"DataType": "String", "StringValue": "test.Ordered"}}
        await sns.publish(TopicArn=topic, Message=body, MessageAttributes=said, **of_group)

    return publish, hear


async def _client_of_eventbridge(emulator: type[MiniStack], stack: AsyncExitStack, name: str) -> tuple[Publish, Hear]:
    """As `_client_of_sns`; the pattern looks into the data."""
    events, sqs = await stack.enter_async_context(clients(emulator, "events", "sqs"))
    mine, hear = await _queue_of_mine(sqs, stack, name, "")
    bus = f"antiphon-{name}"
    async with asyncio.timeout(30):
        while bus not in [each["Name"] for each in (await events.list_event_buses())["EventBuses"]]:
            pass
    pattern = json.dumps({"source": ["shipping"], "detail": {"data": {"order_id": ["o-1"]}}})
    await events.put_rule(Name="plain", EventBusName=bus, EventPattern=pattern)
    target = {"Id": "plain", "Arn": mine, "InputPath": "$.detail"}
    await events.put_targets(Rule="plain", EventBusName=bus, Targets=[target])

    async def publish(body: str, number: int) -> None:
        entry = {"EventBusName": bus, "Source": "warehouse", "DetailType": "test.Ordered", "Detail": body}
        await events.put_events(Entries=[entry])

    async def hear_detail() -> list[tuple[str, dict[str, Any]]]:
        # Moto passes on the whole of what EventBridge has, whatever part of it is asked for.
        bodies = [(json.loads(body), message) for body, message in await hear()]
        return [(json.dumps(body.get("detail", body)), message) for body, message in bodies]

    return publish, hear_detail


async def _client_of_kinesis(emulator: type[MiniStack], stack: AsyncExitStack, name: str) -> tuple[Publish, Hear]:
    """As `_client_of_sns`; it reads all shards from their beginnings."""
    (kinesis,) = await stack.enter_async_context(clients(emulator, "kinesis"))
    stream = f"antiphon-{name}"
    async with asyncio.timeout(30):
        while stream not in (await kinesis.list_streams())["StreamNames"]:
            pass

    async def publish(body: str, number: int) -> None:
        await kinesis.put_record(StreamName=stream, Data=body.encode(), PartitionKey="o-1")

    async def hear() -> list[tuple[str, dict[str, Any]]]:
        found = []
        for shard in (await kinesis.list_shards(StreamName=stream))["Shards"]:
            at = {"StreamName": stream, "ShardId": shard["ShardId"], "ShardIteratorType": "TRIM_HORIZON"}
            iterator = (await kinesis.get_shard_iterator(**at))["ShardIterator"]
            found += (await kinesis.get_records(ShardIterator=iterator))["Records"]
        return [(each["Data"].decode(), each) for each in found if b"test.Shipped" in each["Data"]]

    return publish, hear


_CLIENT_OF: dict[str, Callable[[type[MiniStack], AsyncExitStack, str], Awaitable[tuple[Publish, Hear]]]] = {
    "sqs": partial(_client_of_sns, suffix=".fifo"),
    "sqs-standard": partial(_client_of_sns, suffix=""),
    "eventbridge": _client_of_eventbridge,
    "kinesis": _client_of_kinesis,
}
