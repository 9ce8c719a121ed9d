"""SNS and SQS as the bus: a topic, and a queue for each service that receives, subscribed to its types.

A message is a CloudEvent as structured JSON, with the attributes ``ce-type`` and ``ce-source`` to filter by. Topic and
queues are FIFO: a message's group is the event's key, its deduplication id the event's, so a key keeps its order, and
what a sender repeats within five minutes is dropped. Of a key only one message is on its way to the topic at a time,
since AWS may take some of a batch and refuse others.

With ``order=none`` they are standard ones, which keep no order.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from antiphon.broker.amazon import (
    ERRORS,
    batches,
    group_of,
    legal,
    place_at,
    refused,
    shortened,
    unless,
    wait_for_all,
    waves,
)
from antiphon.broker.feed import AGAIN
from antiphon.broker.naming import plain, shown
from antiphon.broker.queues import BATCH, QueueFeeds
from antiphon.errors import BusError, DeclarationError
from antiphon.model.envelope import Envelope
from antiphon.model.retry import milliseconds, minutes
from antiphon.ports import Ability, Clock

#: What SNS takes, in one message and in a batch of them.
_LARGEST = 256 * 1024
#: Left of that for a message's attributes.
_ATTRIBUTES = 8 * 1024
#: How many values SNS has a filter hold.
_MOST_TYPES = 150
#: For so long after a filter was widened, SNS may still go by what it was before.
_SETTLES_MS = milliseconds(minutes(15))
_WIDENED = "antiphon-filter-widened-ms"
_NO_TOPIC = frozenset({"NotFound", "NotFoundException"})
_TOPIC_NAME_LONGEST = 250


class SqsBus(QueueFeeds):
    """A bus on an SNS topic and SQS queues (``ports.Bus``). What was taken is gone, whatever *keep* says."""

    abilities: frozenset[Ability] = frozenset({"order"})

    def __init__(self, url: str, *, name: str, clock: Clock, keep: timedelta) -> None:
        place = place_at(url, {"order"})
        order = place.options.get("order", "key")
        if order not in ("key", "none"):
            raise DeclarationError(f"{shown(url)} knows no order {order!r}", mend="There are: key, none")
        super().__init__(shown(url), place, name=name, clock=clock, fifo=order == "key")
        if order == "none":
            self.abilities = frozenset()
        self._topic_arn: str | None = None
        self._settles_ms = 0 if place.endpoint else _SETTLES_MS

    async def open(self) -> None:
        """See that AWS is there, and make the topic. Raises BusError."""
        async with self._translated("cannot be reached", *ERRORS):
            await self._topic()

    async def expect(self, receivers: Mapping[str, Sequence[str]]) -> None:
        """Make a queue for each receiver, subscribed to its types. Raises BusError, for a quarter of an hour too after
        AWS was told of more types than it knew: until then it may pass them over."""
        async with self._translated("cannot make the queues", *ERRORS):
            undelivered = await self._queue_for(self._undelivered)
        waiting = []
        for receiver, types in receivers.items():
            async with self._translated(f"cannot make the queue of {receiver}", *ERRORS):
                arn = await self._queue_for(self._queue(receiver))
                await self._subscribe(self._queue(receiver), arn, undelivered, types)
                if await self._settles(self._queue(receiver)):
                    waiting.append(receiver)
        if waiting:
            raise BusError(
                f"SNS was told of new types of {', '.join(waiting)} less than a quarter of an hour ago",
                where=self._where,
                mend="It may pass them over until then; nothing is sent meanwhile",
            )

    async def send(self, sender: str, after_seq: int, upto_seq: int, events: Sequence[Envelope]) -> int:
        """Publish all of *events*; returns when the topic holds each. Raises BusError."""
        for wave in waves(events) if self._suffix else [events]:
            async with self._translated("has not confirmed", *ERRORS):
                entries = await wait_for_all(self._entry(number, event) for number, event in enumerate(wave))
                await wait_for_all(
                    self._publish(batch) for batch in batches(entries, _size, most=BATCH, largest=_LARGEST)
                )
        return upto_seq

    async def destroy(self, receivers: Iterable[str]) -> None:
        """Remove the topic and the queues of *receivers*, with all that they hold. Raises BusError."""
        async with self._translated("cannot be removed", *ERRORS):
            for queue in (*map(self._queue, receivers), self._undelivered):
                await self._remove_queue(queue)
            with unless(_NO_TOPIC):
                sns = await self._clients.of("sns")
                await sns.delete_topic(TopicArn=await self._topic())
        async with self._translated("cannot be removed", *ERRORS):
            await self._large.destroy()

    # ------------------------------------------------------------------ inside

    async def _topic(self) -> str:
        if self._topic_arn is None:
            # The topic's own key of AWS: what lies there is encrypted, and nobody has to be given a right to it.
            attributes = {"KmsMasterKeyId": "alias/aws/sns"}
            if self._suffix:
                attributes |= {"FifoTopic": "true", "FifoThroughputScope": "MessageGroup"}
            name = shortened(f"antiphon-{self._name}", _TOPIC_NAME_LONGEST) + self._suffix
            sns = await self._clients.of("sns")
            self._topic_arn = (await sns.create_topic(Name=name, Attributes=attributes))["TopicArn"]
        return self._topic_arn

    async def _queue_for(self, queue: str) -> str:
        """Make a queue that the topic may fill; its ARN."""
        topic = await self._topic()
        arn = ":".join([*topic.replace(":sns:", ":sqs:", 1).split(":")[:-1], queue])
        await self._make_queue(queue, arn, "sns.amazonaws.com", topic)
        return arn

    async def _subscribe(self, queue: str, arn: str, undelivered: str, types: Iterable[str]) -> None:
        """Have the queue get *types*, and those that it gets already."""
        wanted = {legal(type_) for type_ in types}
        sns = await self._clients.of("sns")
        subscription = await self._subscription(arn)
        if subscription is None:
            attributes = {
                "RawMessageDelivery": "true",
                "RedrivePolicy": json.dumps({"deadLetterTargetArn": undelivered}),
                "FilterPolicy": _filter(wanted),
            }
            await sns.subscribe(TopicArn=await self._topic(), Protocol="sqs", Endpoint=arn, Attributes=attributes)
            return
        found = (await sns.get_subscription_attributes(SubscriptionArn=subscription))["Attributes"]
        known = set(json.loads(found.get("FilterPolicy") or "{}").get("ce-type", ()))
        if known and not wanted <= known:
            sqs = await self._clients.of("sqs")
            # First: a process that dies now makes the next one wait for nothing, and not the other way round.
            tags = {_WIDENED: str(self._clock.now_ms())}
            await sqs.tag_queue(QueueUrl=await self._url_of(queue), Tags=tags)
            await sns.set_subscription_attributes(
                SubscriptionArn=subscription, AttributeName="FilterPolicy", AttributeValue=_filter(known | wanted)
            )

    async def _subscription(self, arn: str) -> str | None:
        sns = await self._clients.of("sns")
        pages = sns.get_paginator("list_subscriptions_by_topic").paginate(TopicArn=await self._topic())
        async for page in pages:
            for each in page.get("Subscriptions", ()):
                if each["Endpoint"] == arn:
                    return str(each["SubscriptionArn"])
        return None

    async def _settles(self, queue: str) -> bool:
        """Whether SNS may still go by an older filter of the queue."""
        if not self._settles_ms:
            return False
        sqs = await self._clients.of("sqs")
        tags = (await sqs.list_queue_tags(QueueUrl=await self._url_of(queue))).get("Tags", {})
        return self._clock.now_ms() - int(tags.get(_WIDENED, 0)) < self._settles_ms

    async def _entry(self, number: int, event: Envelope) -> dict[str, Any]:
        """*event* as one of the entries of a batch."""
        values = {"ce-type": legal(event.type), "ce-source": legal(event.service)}
        entry: dict[str, Any] = {
            "Id": str(number),
            "Message": await self._large.message(event, _LARGEST - _ATTRIBUTES),
            "MessageAttributes": {name: {"DataType": "String", "StringValue": each} for name, each in values.items()},
        }
        if self._suffix:
            entry |= {"MessageGroupId": group_of(event), "MessageDeduplicationId": plain(event.id)}
        return entry

    async def _publish(self, batch: Sequence[dict[str, Any]]) -> None:
        sns = await self._clients.of("sns")
        answer = await sns.publish_batch(TopicArn=await self._topic(), PublishBatchRequestEntries=list(batch))
        taken = {each["Id"] for each in answer.get("Successful", ())}
        if missing := [each["Id"] for each in batch if each["Id"] not in taken]:
            what = f"it refused {len(missing)} of {len(batch)} events: {refused(answer.get('Failed', ()))}"
            raise BusError(what, where=self._where, mend=AGAIN)


def _filter(types: set[str]) -> str:
    """The filter that lets *types* through; one that lets everything through where SNS takes no more values."""
    return json.dumps({"ce-type": sorted(types)} if len(types) <= _MOST_TYPES else {})


def _size(entry: dict[str, Any]) -> int:
    return len(entry["Message"].encode()) + len(json.dumps(entry["MessageAttributes"]))
