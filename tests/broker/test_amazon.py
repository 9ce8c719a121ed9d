"""The buses on AWS, against two servers that stand in for it, beside what the suite holds them to."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from antiphon.broker import amazon, feed, queues
from antiphon.broker.connecting import bus_at
from antiphon.errors import BusError
from antiphon.model.retry import days
from antiphon.ports import Unreadable
from antiphon.testing.clock import VirtualClock
from antiphon.testing.conformance import BusCheck, bus_checks
from antiphon.testing.conformance.bus import A, B, Reader, opened
from antiphon.testing.conformance.engines import Engine, brokers_buses, buses_of, named_bus
from antiphon.testing.conformance.kit import envelope, numbers
from antiphon.testing.conformance.load import a_late_receiver_reads_a_long_backlog
from antiphon.testing.emulators import MiniStack, Moto
from antiphon.testing.servers import running
from antiphon.wire import to_structured
from tests.broker.amazon import (
    EVENTBRIDGE,
    KINESIS,
    SQS,
    STANDARD,
    Refusing,
    buses_on_aws,
    cloud_event,
    url_on,
    with_client,
)

pytestmark = pytest.mark.anyio
#: Several of what is sent at once, and of what is asked for at once.
_BACKLOG = 300
ENGINES = [SQS, STANDARD, EVENTBRIDGE, KINESIS]
on_each_bus = pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
on_each_with_queues = pytest.mark.parametrize("engine", ENGINES[:3], ids=lambda engine: engine.name)


@pytest.mark.parametrize(
    ("engine", "check"),
    [
        pytest.param(engine, check, id=f"{engine.name}-{check.__name__}")
        for engine in ENGINES
        for check in bus_checks(engine.abilities)
    ],
)
@pytest.mark.soak  # minutes, of what `make test` shows on MiniStack
async def test_the_other_emulator(
    engine: Engine, check: BusCheck, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The promise in the check's own docstring; MiniStack is held to it where all brokers are."""
    # Moto takes its time, and more on a machine that does other things: how long is no part of any promise.
    for module in (feed, amazon):
        monkeypatch.setattr(module, "PATIENCE_S", 30.0)
    # It gives messages of one group to two who ask at the same time, which SQS does not.
    monkeypatch.setattr(queues, "_POLLS", 1)
    async with buses_of(engine, await url_on(Moto, engine)) as make:
        if check is a_late_receiver_reads_a_long_backlog:
            await a_late_receiver_reads_a_long_backlog(make, tmp_path, _BACKLOG)
        else:
            await check(make, tmp_path)


async def test_what_is_refused_of_a_batch_is_overtaken_by_nothing_of_its_key(tmp_path: Path) -> None:
    """AWS may take some of a batch and refuse others: what comes keeps the order of each key."""
    async with buses_on_aws(SQS, tmp_path) as (bus,):
        with_client(bus, "sns", lambda sns: Refusing(sns, "publish_batch", {1, 7, 12}, "PublishBatchRequestEntries"))
        sent = [envelope(n, key=f"key-{n % 3}") for n in range(12)]
        refusals = 0
        async with asyncio.timeout(30):
            while True:
                try:
                    await bus.send("s", 0, 12, sent)
                except BusError as error:
                    assert "InternalError" in str(error)
                    refusals += 1
                else:
                    break
        found = await Reader(bus).until(12)
        assert refusals == 3
        for key in range(3):
            assert [n for n in found if n % 3 == key] == [n for n in range(12) if n % 3 == key]


class _Partly:
    """A client of which the first entry of the first batch is refused, as EventBridge and Kinesis say it."""

    def __init__(self, client: Any, operation: str, entries: str, answers: str) -> None:
        self._client, self._operation, self._entries, self._answers = client, operation, entries, answers
        #: How many entries there were in each batch.
        self.asked: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return self._batch if name == self._operation else getattr(self._client, name)

    async def _batch(self, **asked: Any) -> dict[str, Any]:
        entries = asked.pop(self._entries)
        refused = 0 if self.asked else 1
        self.asked.append(len(entries))
        answer = await getattr(self._client, self._operation)(**asked, **{self._entries: entries[refused:]})
        said = [{"ErrorCode": "InternalFailure", "ErrorMessage": "not now"}] * refused
        return {**answer, self._answers: [*said, *answer[self._answers]]}


@pytest.mark.parametrize(
    ("engine", "service", "words"),
    [
        (EVENTBRIDGE, "events", ("put_events", "Entries", "Entries")),
        (KINESIS, "kinesis", ("put_records", "Records", "Records")),
    ],
    ids=["eventbridge", "kinesis"],
)
async def test_what_is_refused_is_put_again(
    engine: Engine, service: str, words: tuple[str, str, str], tmp_path: Path
) -> None:
    """The entries that were not taken, and no others, as long as some are taken."""
    async with buses_on_aws(engine, tmp_path) as (bus,):
        client = with_client(bus, service, lambda real: _Partly(real, *words))
        await bus.send("s", 0, 3, [envelope(n, key=None) for n in (1, 2, 3)])
        assert (await client()).asked == [3, 1]
        assert sorted(await Reader(bus).until(3)) == [1, 2, 3]


class _Split:
    """A client of a stream whose first shard was split into the others: it comes to an end, as MiniStack has it not."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._of_first: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def get_paginator(self, name: str) -> _Split:
        assert name == "list_shards"
        return self

    async def paginate(self, **asked: Any) -> AsyncIterator[dict[str, Any]]:
        first, *others = (await self._client.list_shards(**asked))["Shards"]
        yield {"Shards": [first, *({**other, "ParentShardId": first["ShardId"]} for other in others)]}

    async def get_shard_iterator(self, **asked: Any) -> dict[str, Any]:
        answer: dict[str, Any] = await self._client.get_shard_iterator(**asked)
        if asked["ShardId"].endswith("0"):
            self._of_first.add(answer["ShardIterator"])
        return answer

    async def get_records(self, **asked: Any) -> dict[str, Any]:
        answer: dict[str, Any] = await self._client.get_records(**{**asked, "Limit": 3})
        if asked["ShardIterator"] not in self._of_first:
            return answer
        self._of_first.add(answer["NextShardIterator"])
        return answer if answer["Records"] else {**answer, "NextShardIterator": None}


async def test_shards_are_read_after_those_that_they_came_from(tmp_path: Path) -> None:
    """So a key keeps its order when its shard is split, also when what came first is read last."""
    url = (await url_on(MiniStack, KINESIS)).replace("shards=4", "shards=3")
    async with brokers_buses(url) as make, opened(make, tmp_path) as buses:
        bus: Any = buses[0]
        kinesis = await with_client(bus, "kinesis", _Split)()
        shards = (await kinesis.list_shards(StreamName=bus._stream))["Shards"]
        for n, shard in [*((n, 1 + n % 2) for n in range(10, 20)), *((n, 0) for n in range(10))]:
            place = {"PartitionKey": "k", "ExplicitHashKey": shards[shard]["HashKeyRange"]["StartingHashKey"]}
            await kinesis.put_record(StreamName=bus._stream, Data=to_structured(envelope(n)), **place)
        found = await Reader(bus, 100, takes=False).until(20)
        assert found[:10] == list(range(10))
        assert [n for n in found[10:] if n % 2] == [11, 13, 15, 17, 19]
        assert [n for n in found[10:] if not n % 2] == [10, 12, 14, 16, 18]


async def test_what_was_not_deleted_is_deleted_again(tmp_path: Path) -> None:
    """A deletion that AWS has not done is asked for again, and the queue is empty in the end."""
    async with buses_on_aws(STANDARD, tmp_path) as (bus,):
        client = with_client(bus, "sqs", lambda sqs: Refusing(sqs, "delete_message_batch", {0, 2}, "Entries"))
        await bus.send("s", 0, 3, [envelope(n) for n in (1, 2, 3)])
        reader = Reader(bus)
        await reader.until(3)
        errors = 0
        async with asyncio.timeout(30):
            while (await client()).asked < 5:
                try:
                    await reader.read()
                except BusError:
                    errors += 1
        sqs = await client()
        (url,) = [each for each in (await sqs.list_queues())["QueueUrls"] if each.endswith("-receiver")][-1:]
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        left = (await sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names))["Attributes"]
        assert errors > 0
        assert set(left.values()) == {"0"}


@on_each_with_queues
async def test_what_waits_is_kept_from_others_until_its_process_dies(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its visibility is extended while it waits here; when nobody extends it, another process gets it."""
    monkeypatch.setattr(queues, "_VISIBLE_S", 2)
    monkeypatch.setattr(queues, "_EXTEND_EVERY_S", 0.5)
    async with buses_on_aws(engine, tmp_path, "one", "two") as both:
        first, second = both
        extended = asyncio.Semaphore(0)
        real = first._show_after

        async def show_after(url: str, handles: list[str], seconds: int) -> None:
            await real(url, handles, seconds)
            if handles:
                extended.release()

        monkeypatch.setattr(first, "_show_after", show_after)
        await first.send("s", 0, 1, [envelope(1)])
        assert await Reader(first, takes=False).until(1) == [1]
        other = Reader(second)
        async with asyncio.timeout(30):
            for _ in range(8):  # four seconds: twice as long as it would be hidden
                await extended.acquire()
                assert not await other.read()
        # As a process that dies: nothing is extended, and nothing given back.
        await first._feeds.pop("receiver").close()
        first._open.clear()
        first._loose.clear()
        assert await other.until(1) == [1]


@pytest.mark.parametrize(
    "reference",
    [
        "s3://elsewhere/secret",
        "s3://antiphon-000000000000-us-east-1/another-bus/secret",
        "file:///etc/passwd",
        "s3://antiphon-000000000000-us-east-1/OURS/" + "x" * 2_000,
    ],
)
async def test_nothing_is_read_but_the_bus_s_own(reference: str, tmp_path: Path) -> None:
    """A message that refers to data elsewhere is an event without data."""
    async with buses_on_aws(SQS, tmp_path) as (bus,):
        hostile = {
            **json.loads(cloud_event("event-000000001", A, None)),
            "dataref": reference.replace("OURS", bus._large._name),
        }
        del hostile["data"]
        event = await bus._large.event(json.dumps(hostile).encode(), received_ms=0)
        assert event.data == b"null"


async def test_large_data_that_is_gone_is_a_dead_letter(tmp_path: Path) -> None:
    """Neither an endless repetition nor an event without its data."""
    async with buses_on_aws(SQS, tmp_path) as (bus,):
        await bus.send("s", 0, 1, [envelope(1, data=b'"' + b"x" * 300_000 + b'"')])
        await bus._large.destroy()
        async with asyncio.timeout(30):
            woken = asyncio.Event()
            bus.listen([A], woken.set)
            while not (found := await bus.receive("receiver", {A: 0, B: 0}, 10)):
                await woken.wait()
                woken.clear()
        assert isinstance(found[0], Unreadable)
        assert "dataref" in str(found[0].error)


@on_each_bus
async def test_texts_that_no_message_may_hold(engine: Engine, tmp_path: Path) -> None:
    """SQS refuses what XML has no place for: it comes all the same, each byte of it."""
    odd = [
        envelope(1, data='"\ufffe\uffff"'.encode()),
        envelope(2, key="\uffff\x00"),
        envelope(3, data=b'{"a":1.0,"b":9007199254740992,"c":[1e40]}'),
        envelope(4, data=b'{"b":1, "a":2}'),
    ]
    async with buses_on_aws(engine, tmp_path) as (bus,):
        await bus.send("svc", 0, 4, odd)
        reader = Reader(bus)
        assert sorted(await reader.until(4)) == [1, 2, 3, 4]
        assert {each.envelope.id: each.envelope for each in reader.events} == {each.id: each for each in odd}


async def test_new_types_of_a_receiver_wait_until_sns_knows_them(tmp_path: Path) -> None:
    """SNS goes by an old filter for up to a quarter of an hour: nothing is sent meanwhile, by a new process either."""
    clock = VirtualClock()
    async with named_bus(await url_on(MiniStack, SQS), ["late"]) as url:
        make = bus_at(url, "", keep=days(7))
        for _ in range(2):
            bus: Any = make(tmp_path, clock=clock, owner="one")
            bus._settles_ms = 900_000
            await bus.open()
            await bus.expect({"late": [A]}) if _ == 0 else None
            with pytest.raises(BusError, match="new types of late"):
                await bus.expect({"late": [A, B]})
            await bus.close()
        await clock.advance(901)
        bus = make(tmp_path, clock=clock, owner="one")
        bus._settles_ms = 900_000
        await bus.expect({"late": [B]})
        await bus.send("s", 0, 2, [envelope(1, type_=A), envelope(2, type_=B)])
        found: list[int] = []
        async with asyncio.timeout(30):
            while sorted(found) != [1, 2]:
                found += numbers(await bus.receive("late", {A: 0, B: 0}, 10))
                found = sorted(set(found))
                await asyncio.sleep(0)  # there is no other sign of what comes late
        await bus.close()


#: The right that an operation needs, where it has another name, and what anybody may.
_RIGHTS = {
    "sns:PublishBatch": "sns:Publish",
    "sqs:ChangeMessageVisibilityBatch": "sqs:ChangeMessageVisibility",
    "sqs:DeleteMessageBatch": "sqs:DeleteMessage",
    "s3:PutBucketLifecycleConfiguration": "s3:PutLifecycleConfiguration",
}
_ANYBODY = {"sts:GetCallerIdentity"}
#: Without it, S3 does not say that an object is not there.
_TOLD = {"s3:ListBucket"}
_POLICIES = re.compile(r"```json\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize(
    ("engine", "leaves_out"),
    [
        (SQS, ("events:", "kinesis:", "dynamodb:")),
        (EVENTBRIDGE, ("sns:", "sqs:TagQueue", "sqs:ListQueueTags", "kinesis:", "dynamodb:")),
        (KINESIS, ("sns:", "sqs:", "events:")),
    ],
    ids=["sqs", "eventbridge", "kinesis"],
)
async def test_the_documented_rights_are_all_that_are_used(
    engine: Engine, leaves_out: tuple[str, ...], tmp_path: Path
) -> None:
    """The policies in the guide name each operation of a bus's life, and no other."""
    used: set[str] = set()
    receivers = {"receiver": [A], "other": [A]}
    # With a server of its own, since the bucket is made once.
    async with running(MiniStack) as server:
        assert engine.url is not None
        url = engine.url.replace(":4566", f":{server.port}")
        for types in ([A], [A, B]):
            bus: Any = bus_at(f"{url}{'&' if '?' in url else '?'}name=life", "", keep=days(7))(
                tmp_path, clock=VirtualClock(), owner="one"
            )
            _watch(bus, used)
            bus._settles_ms = -1  # which still asks
            await bus.open()
            await bus.expect({**receivers, "receiver": types})
            await bus.send(
                "s", 0, 2, [envelope(len(types)), envelope(2 + len(types), data=b'"%s"' % (b"x" * 1_048_500))]
            )
            reader = Reader(bus)
            await reader.until(2)
            if B in types:
                # What was left the first time has been given back; now all of it is confirmed.
                await reader.until(3)
                await reader.read()
            await bus.close()
    guide = (Path(__file__).parents[2] / "docs" / "how-to" / "aws.md").read_text()
    documented: set[str] = set()
    for text in _POLICIES.findall(guide):
        policy = json.loads(text)
        for statement in policy.get("Statement", [policy]):
            documented |= set(statement["Action"])
    assert used - _ANYBODY == {each for each in documented if not each.startswith(leaves_out)} - _TOLD


def _watch(bus: Any, used: set[str]) -> None:
    """Note in *used* the right that each call of *bus* needs."""
    real = bus._clients.of
    watched: set[int] = set()

    def note(model: Any, **_: object) -> None:
        operation = f"{model.service_model.signing_name}:{model.name}"
        used.add(_RIGHTS.get(operation, operation))

    async def of(service: str) -> Any:
        client = await real(service)
        if id(client) not in watched:
            watched.add(id(client))
            client.meta.events.register("before-call", note)
        return client

    bus._clients.of = of
