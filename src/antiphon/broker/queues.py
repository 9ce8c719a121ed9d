"""Receiving from SQS: a queue for each service, whatever fills it.

A message is deleted when it is in the receiver's store. Until then it is kept from other processes of the service by
its visibility time-out, which is extended while the message waits here; when a process dies, its messages come to
another one some seconds later. A FIFO queue gives no later message of a group meanwhile, so the order of a key holds.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from antiphon.broker.amazon import ERRORS, Clients, Large, Place, batches, refused, shortened, unless, wait_for_all
from antiphon.broker.feed import AGAIN, Feed
from antiphon.broker.numbered import NumberedFeeds
from antiphon.errors import BusError, InvalidEvent
from antiphon.model.envelope import Envelope
from antiphon.ports import Clock, LoggedEvent, Unreadable

#: AWS lets a batch have so many entries.
BATCH = 10
_POLLS = 8
_POLL_S = 2
_VISIBLE_S = 12
_EXTEND_EVERY_S = 4
#: The longest that SQS offers.
_KEEP_S = 14 * 24 * 3600
_NAME_LONGEST = 75
_NO_QUEUE = frozenset({"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"})


class QueueFeeds(NumberedFeeds[str]):
    """What buses that fill a queue for each service have in common."""

    def __init__(self, where: str, place: Place, *, name: str, clock: Clock, fifo: bool) -> None:
        super().__init__(where, clock)
        self._name = name
        self._suffix = ".fifo" if fifo else ""
        self._clients = Clients(place)
        self._large = Large(self._clients, name)
        self._urls: dict[str, str] = {}
        # What came to each receiver and has no number yet, and what is being asked for.
        self._loose: dict[str, deque[str]] = {}
        self._polling: dict[str, asyncio.Future[list[dict[str, Any]]]] = {}

    async def close(self) -> None:
        """Give back what was not taken, and disconnect. Idempotent."""
        await self._close_feeds()
        await self._clients.close()

    # ------------------------------------------------------------------ queues

    @property
    def _undelivered(self) -> str:
        """The queue of what AWS cannot put into a service's queue. Nothing of it is thrown away."""
        return shortened(f"antiphon_undelivered-{self._name}", _NAME_LONGEST) + self._suffix

    def _queue(self, receiver: str) -> str:
        return shortened(f"antiphon-{self._name}-{receiver}", _NAME_LONGEST) + self._suffix

    async def _url_of(self, queue: str) -> str:
        """The URL of a queue that is there. Raises what botocore does."""
        if queue not in self._urls:
            sqs = await self._clients.of("sqs")
            self._urls[queue] = (await sqs.get_queue_url(QueueName=queue))["QueueUrl"]
        return self._urls[queue]

    async def _make_queue(self, queue: str, arn: str, filler: str, source: str) -> str:
        """Make the queue *arn* if it is not there, which the AWS service *filler* may fill from *source* alone; its
        URL. Raises what botocore does."""
        with unless(_NO_QUEUE):
            return await self._url_of(queue)
        policy = {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Principal": {"Service": filler},
                    "Action": "sqs:SendMessage",
                    "Resource": arn,
                    "Condition": {"ArnLike": {"aws:SourceArn": source}},
                }
            ],
        }
        attributes = {
            "MessageRetentionPeriod": str(_KEEP_S),
            "VisibilityTimeout": str(_VISIBLE_S),
            "SqsManagedSseEnabled": "true",
            "Policy": json.dumps(policy),
        }
        if self._suffix:
            attributes |= {
                "FifoQueue": "true",
                "DeduplicationScope": "messageGroup",
                "FifoThroughputLimit": "perMessageGroupId",
            }
        sqs = await self._clients.of("sqs")
        url: str = (await sqs.create_queue(QueueName=queue, Attributes=attributes))["QueueUrl"]
        self._urls[queue] = url
        return url

    async def _remove_queue(self, queue: str) -> None:
        with unless(_NO_QUEUE):
            url = await self._url_of(queue)
            await (await self._clients.of("sqs")).delete_queue(QueueUrl=url)
        self._urls.pop(queue, None)

    # ------------------------------------------------------------------ receiving

    async def _fill(self, feed: Feed) -> None:
        receiver = feed.receiver
        async with self._translated("cannot be consumed", *ERRORS):
            url = await self._url_of(self._queue(receiver))
        self._begin(feed)
        loose = self._loose[receiver] = deque()
        extending = asyncio.ensure_future(self._extend(receiver, url))
        try:
            width = 1
            while True:
                messages = await self._poll(receiver, url, width)
                loose.extend(message["ReceiptHandle"] for message in messages)
                for message in messages:
                    event = await self._event(feed.position + 1, message["Body"].encode(), feed.types)
                    await self._came(feed, loose.popleft(), event)
                # As many at a time as it takes while there is much, one that waits when there is not.
                width = min(2 * width, _POLLS) if len(messages) == width * BATCH else 1
        finally:
            extending.cancel()

    async def _poll(self, receiver: str, url: str, width: int) -> list[dict[str, Any]]:
        """What comes next. Cancelled, the question stays: its answer would be nobody's until it times out."""
        polling = self._polling[receiver] = asyncio.ensure_future(self._ask(url, width))
        messages = await asyncio.shield(polling)
        del self._polling[receiver]
        return messages

    async def _ask(self, url: str, width: int) -> list[dict[str, Any]]:
        async with self._translated("cannot be read", *ERRORS):
            sqs = await self._clients.of("sqs")
            wait_s = _POLL_S if width == 1 else 0
            answers = await wait_for_all(
                sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=BATCH, WaitTimeSeconds=wait_s)
                for _ in range(width)
            )
        return [message for answer in answers for message in answer.get("Messages", ())]

    async def _event(self, seq: int, body: bytes, types: frozenset[str]) -> LoggedEvent | Unreadable | None:
        """What a message is to a receiver of *types*."""
        try:
            async with self._translated("cannot be read", *ERRORS):
                event = await self._decoded(body)
        except InvalidEvent as error:
            return Unreadable(seq, body, error)
        return LoggedEvent(seq, event) if event.type in types else None

    async def _decoded(self, body: bytes) -> Envelope:
        """The event in a message. Raises InvalidEvent, and what botocore does."""
        return await self._large.event(body, received_ms=self._clock.now_ms())

    async def _extend(self, receiver: str, url: str) -> None:
        """Keep what waits here from the service's other processes. What slips away comes twice, which does no harm."""
        while True:
            await asyncio.sleep(_EXTEND_EVERY_S)
            waiting = [each.tag for each in self._open.get(receiver, ())]
            with suppress(BusError):
                await self._show_after(url, [*waiting, *self._loose[receiver]], _VISIBLE_S)

    async def _show_after(self, url: str, handles: Iterable[str], seconds: int) -> None:
        """Have messages come again in so many seconds, unless they are deleted by then. Raises BusError."""
        for batch in batches(handles, len, most=BATCH):
            entries = [
                {"Id": str(number), "ReceiptHandle": handle, "VisibilityTimeout": seconds}
                for number, handle in enumerate(batch)
            ]
            async with self._translated("cannot keep messages", *ERRORS):
                sqs = await self._clients.of("sqs")
                await sqs.change_message_visibility_batch(QueueUrl=url, Entries=entries)

    async def _confirm(self, receiver: str, tags: Sequence[str]) -> None:
        async with self._translated("cannot delete messages", *ERRORS):
            url = await self._url_of(self._queue(receiver))
            sqs = await self._clients.of("sqs")
            answers = await wait_for_all(
                sqs.delete_message_batch(
                    QueueUrl=url,
                    Entries=[{"Id": str(number), "ReceiptHandle": handle} for number, handle in enumerate(batch)],
                )
                for batch in batches(tags, len, most=BATCH)
            )
        # Ours is the fault where it has been given to another process since: it comes again, and is known.
        failed = [each for answer in answers for each in answer.get("Failed", ()) if not each.get("SenderFault")]
        if failed:
            what = f"it has not deleted {len(failed)} of {len(tags)} messages: {refused(failed)}"
            raise BusError(what, where=self._where, mend=AGAIN)

    async def _give_back(self, receiver: str, tags: Sequence[str]) -> None:
        """All that came and is not deleted, what is still on its way too: of a group, the first and all later ones."""
        handles = [*tags, *self._loose.pop(receiver, ())]
        if (polling := self._polling.pop(receiver, None)) is not None:
            await asyncio.wait([polling])
            if not polling.cancelled() and polling.exception() is None:
                handles += [message["ReceiptHandle"] for message in polling.result()]
        if handles:
            with suppress(BusError):
                await self._show_after(self._urls[self._queue(receiver)], handles, 0)
