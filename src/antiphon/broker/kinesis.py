"""Kinesis as the bus: one stream, read shard by shard; how far each receiver is lies in a DynamoDB table.

A record is a CloudEvent as structured JSON, its partition key the event's key, so a key lies in one shard at a time and
keeps its order. When a shard is split or merged, what comes after it is read when it has been read to its end.

A sequence number has 128 bits, and a receiver's position is one number for each type: so records are numbered as they
come (see ``numbered``), and the number up to which a receiver has a shard in its store is noted beside the stream.
Every process of a service reads all shards; each goes through a shard in order from what was noted, so whatever two of
them store is a run without gaps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from botocore.exceptions import ClientError

from antiphon.broker.amazon import (
    ERRORS,
    Clients,
    Large,
    batches,
    code_of,
    group_of,
    place_at,
    refused,
    shortened,
    unless,
    wait_for_all,
    waves,
)
from antiphon.broker.feed import AGAIN, Feed
from antiphon.broker.naming import shown
from antiphon.broker.numbered import NumberedFeeds
from antiphon.errors import BusError, DeclarationError, InvalidEvent
from antiphon.model.envelope import Envelope
from antiphon.ports import Ability, Clock, LoggedEvent, Unreadable

#: What Kinesis takes: records and bytes in a request, bytes in a record.
_MOST = 500
_LARGEST_BATCH = 5 * 1024 * 1024
_LARGEST = 1024 * 1024
#: Left of that for the partition key.
_KEY = 256
_CHUNK = 1_000
#: A shard answers five times a second, for all who read it.
_BEHIND_S = 0.2
_POLL_S = 1.0
_SHORTEST_H, _LONGEST_H = 24, 24 * 365
_NAME_LONGEST = 120
#: A sequence number as a text of the same order.
_DIGITS = 64
_NOT_THERE = frozenset({"ResourceNotFoundException"})
_THERE = frozenset({"ResourceInUseException"})
_SLOWER = frozenset({"ProvisionedThroughputExceededException", "LimitExceededException"})
_EXPIRED = "ExpiredIteratorException"
#: The table's keys.
_KEYS = {"receiver": "HASH", "shard": "RANGE"}
_BEHIND_OTHERS = frozenset({"ConditionalCheckFailedException"})


class _Tag(NamedTuple):
    """A record: its shard, and its number there."""

    shard: str
    number: str


class KinesisBus(NumberedFeeds[_Tag]):
    """A bus on a Kinesis stream (``ports.Bus``), which forgets what is older than *keep*, taken or not."""

    abilities: frozenset[Ability] = frozenset({"order"})

    def __init__(self, url: str, *, name: str, clock: Clock, keep: timedelta) -> None:
        place = place_at(url, {"shards", "poll"})
        super().__init__(shown(url), clock)
        self._shards_wanted = _option(url, place.options, "shards", 0)
        self._poll_s = _option(url, place.options, "poll", _POLL_S)
        self._clients = Clients(place)
        self._large = Large(self._clients, name)
        self._stream = self._table = shortened(f"antiphon-{name}", _NAME_LONGEST)
        hours = -(-keep // timedelta(hours=1))
        self._keep_h = min(max(hours, _SHORTEST_H), _LONGEST_H)

    async def open(self) -> None:
        """See that AWS is there. Raises BusError."""
        async with self._translated("cannot be reached", *ERRORS):
            with unless(_NOT_THERE):
                await (await self._clients.of("kinesis")).describe_stream_summary(StreamName=self._stream)

    async def close(self) -> None:
        """Disconnect. Idempotent."""
        await self._close_feeds()
        await self._clients.close()

    async def expect(self, receivers: Mapping[str, Sequence[str]]) -> None:
        """Make the stream, and the table of how far each receiver is. Raises BusError, until both are there too."""
        async with self._translated("cannot make the stream", *ERRORS):
            kinesis, dynamodb = await self._clients.of("kinesis"), await self._clients.of("dynamodb")
            with unless(_THERE):
                mode: dict[str, Any] = {"StreamModeDetails": {"StreamMode": "ON_DEMAND"}}
                if self._shards_wanted:
                    provisioned = {"StreamMode": "PROVISIONED"}
                    mode = {"ShardCount": int(self._shards_wanted), "StreamModeDetails": provisioned}
                await kinesis.create_stream(StreamName=self._stream, **mode)
            with unless(_THERE):
                await dynamodb.create_table(
                    TableName=self._table,
                    BillingMode="PAY_PER_REQUEST",
                    AttributeDefinitions=[{"AttributeName": each, "AttributeType": "S"} for each in _KEYS],
                    KeySchema=[{"AttributeName": each, "KeyType": kind} for each, kind in _KEYS.items()],
                )
            table = (await dynamodb.describe_table(TableName=self._table))["Table"]
            stream = (await kinesis.describe_stream_summary(StreamName=self._stream))["StreamDescriptionSummary"]
            if "CREATING" in (table["TableStatus"], stream["StreamStatus"]):
                raise BusError("the stream is being made", where=self._where, mend=AGAIN)
            if stream["RetentionPeriodHours"] < self._keep_h:
                hours = {"RetentionPeriodHours": self._keep_h}
                await kinesis.increase_stream_retention_period(StreamName=self._stream, **hours)
            if stream.get("EncryptionType", "NONE") == "NONE":
                key = {"EncryptionType": "KMS", "KeyId": "alias/aws/kinesis"}
                with unless(_THERE):
                    await kinesis.start_stream_encryption(StreamName=self._stream, **key)

    async def send(self, sender: str, after_seq: int, upto_seq: int, events: Sequence[Envelope]) -> int:
        """Put all of *events*; returns when the stream holds each. Raises BusError."""
        for wave in waves(events):
            async with self._translated("has not confirmed", *ERRORS):
                records = await wait_for_all(self._record(event) for event in wave)
                await wait_for_all(
                    self._put(batch) for batch in batches(records, _size, most=_MOST, largest=_LARGEST_BATCH)
                )
        return upto_seq

    async def destroy(self, receivers: Iterable[str]) -> None:
        """Remove the stream and the table, with all that they hold. Raises BusError."""
        async with self._translated("cannot be removed", *ERRORS):
            with unless(_NOT_THERE):
                await (await self._clients.of("kinesis")).delete_stream(StreamName=self._stream)
            with unless(_NOT_THERE):
                await (await self._clients.of("dynamodb")).delete_table(TableName=self._table)
        async with self._translated("cannot be removed", *ERRORS):
            await self._large.destroy()

    # ------------------------------------------------------------------ inside

    async def _record(self, event: Envelope) -> dict[str, Any]:
        text = await self._large.message(event, _LARGEST - _KEY)
        return {"Data": text.encode(), "PartitionKey": group_of(event)}

    async def _put(self, batch: Sequence[dict[str, Any]]) -> None:
        """Put records of different keys, again those that were not taken, as long as some are."""
        kinesis = await self._clients.of("kinesis")
        while batch:
            answers = (await kinesis.put_records(StreamName=self._stream, Records=list(batch)))["Records"]
            failed = [(record, each) for record, each in zip(batch, answers, strict=True) if "ErrorCode" in each]
            if len(failed) == len(batch):
                said = refused([{"Code": each["ErrorCode"], "Message": each.get("ErrorMessage")} for _, each in failed])
                raise BusError(f"it refused {len(failed)} events: {said}", where=self._where, mend=AGAIN)
            batch = [record for record, _ in failed]

    async def _fill(self, feed: Feed) -> None:
        async with self._translated("does not tell a position", *ERRORS):
            known = await self._noted(feed.receiver)
        self._begin(feed)
        one_at_a_time = asyncio.Lock()
        reading: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                shards = await self._shards()
                over = {shard for shard, task in reading.items() if task.done()}
                for shard, parents in shards.items():
                    if shard not in reading and parents & shards.keys() <= over:
                        come = self._read(feed, shard, known.get(shard), one_at_a_time)
                        reading[shard] = asyncio.create_task(come)
                if running := [task for task in reading.values() if not task.done()]:
                    await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                else:
                    await asyncio.sleep(self._poll_s)
                for task in reading.values():
                    if task.done():
                        task.result()
        finally:
            for task in reading.values():
                task.cancel()

    async def _shards(self) -> dict[str, set[str]]:
        """The shards, oldest first, each with those that it came from."""
        found: dict[str, set[str]] = {}
        async with self._translated("cannot be read", *ERRORS):
            pages = (await self._clients.of("kinesis")).get_paginator("list_shards").paginate(StreamName=self._stream)
            async for page in pages:
                for shard in page["Shards"]:
                    parents = {shard.get("ParentShardId"), shard.get("AdjacentParentShardId")}
                    found[shard["ShardId"]] = parents - {None}
        return found

    async def _read(self, feed: Feed, shard: str, number: str | None, one_at_a_time: asyncio.Lock) -> None:
        """Put what comes after *number* in a shard into *feed*; returns at the end of a shard that is closed."""
        iterator: str | None = None
        while True:
            answer = await self._after(shard, number, iterator)
            for record in answer["Records"]:
                number = record["SequenceNumber"]
                async with one_at_a_time:
                    event = await self._event(feed.position + 1, record["Data"], feed.types)
                    await self._came(feed, _Tag(shard, record["SequenceNumber"]), event)
            iterator = answer.get("NextShardIterator")
            if iterator is None and not answer.get("again"):
                return
            await asyncio.sleep(_BEHIND_S if answer.get("MillisBehindLatest") else self._poll_s)

    async def _after(self, shard: str, number: str | None, iterator: str | None) -> dict[str, Any]:
        """The next records of a shard: at *iterator*, or after *number*. ``again``: it is to be asked once more."""
        async with self._translated("cannot be read", *ERRORS):
            kinesis = await self._clients.of("kinesis")
            try:
                if iterator is None:
                    start: dict[str, Any] = {"ShardIteratorType": "TRIM_HORIZON"}
                    if number is not None:
                        start = {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "StartingSequenceNumber": number}
                    asked = {"StreamName": self._stream, "ShardId": shard, **start}
                    iterator = (await kinesis.get_shard_iterator(**asked))["ShardIterator"]
                return dict(await kinesis.get_records(ShardIterator=iterator, Limit=_CHUNK))
            except ClientError as error:
                if code_of(error) in _SLOWER:
                    return {"Records": [], "NextShardIterator": iterator, "again": True}
                if code_of(error) == _EXPIRED:
                    return {"Records": [], "NextShardIterator": None, "again": True}
                raise

    async def _event(self, seq: int, body: bytes, types: frozenset[str]) -> LoggedEvent | Unreadable | None:
        """What a record is to a receiver of *types*."""
        try:
            async with self._translated("cannot be read", *ERRORS):
                event = await self._large.event(body, received_ms=self._clock.now_ms())
        except InvalidEvent as error:
            return Unreadable(seq, body, error)
        return LoggedEvent(seq, event) if event.type in types else None

    async def _noted(self, receiver: str) -> dict[str, str]:
        """Up to which number the receiver has each shard."""
        found = {}
        pages = (
            (await self._clients.of("dynamodb"))
            .get_paginator("query")
            .paginate(
                TableName=self._table,
                ConsistentRead=True,
                KeyConditionExpression="receiver = :receiver",
                ExpressionAttributeValues={":receiver": {"S": receiver}},
            )
        )
        async for page in pages:
            for each in page["Items"]:
                found[each["shard"]["S"]] = each["number"]["S"]
        return found

    async def _confirm(self, receiver: str, tags: Sequence[_Tag]) -> None:
        """Note the last number of each shard, unless another process of the receiver has noted a later one."""
        async with self._translated("cannot note a position", *ERRORS):
            dynamodb = await self._clients.of("dynamodb")
            for shard, number in dict(tags).items():
                with unless(_BEHIND_OTHERS):
                    await dynamodb.update_item(
                        TableName=self._table,
                        Key={"receiver": {"S": receiver}, "shard": {"S": shard}},
                        UpdateExpression="SET #number = :number, #place = :place",
                        ConditionExpression="attribute_not_exists(#place) OR #place < :place",
                        ExpressionAttributeNames={"#number": "number", "#place": "place"},
                        ExpressionAttributeValues={":number": {"S": number}, ":place": {"S": number.zfill(_DIGITS)}},
                    )


def _size(record: dict[str, Any]) -> int:
    return len(record["Data"]) + len(record["PartitionKey"])


def _option(url: str, options: Mapping[str, str], name: str, otherwise: float) -> float:
    """A number among the options of *url*. Raises DeclarationError."""
    try:
        found = float(options.get(name, otherwise))
    except ValueError:
        found = -1
    if not 0 <= found < 1e6:
        raise DeclarationError(f"{shown(url)}: {name}={options[name]!r} is no number", mend="Leave it out, or a number")
    return found
