"""What is Kafka's own: partitions, groups, a producer that is thrown away, records of plain clients."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import cast

import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, from_kafka, to_binary, to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from antiphon.broker.connecting import bus_at
from antiphon.broker.feed import PATIENCE_S as PATIENCE_OF_A_BUS_S
from antiphon.broker.kafka import KafkaBus, removable
from antiphon.errors import BusError
from antiphon.model.envelope import Envelope
from antiphon.model.retry import days
from antiphon.ports import LoggedEvent, Unreadable
from antiphon.runtime.clock import SystemClock
from antiphon.store.sqlite.store import SqliteStore
from antiphon.testing.clock import VirtualClock
from antiphon.testing.conformance.bus import A, B, Reader
from antiphon.testing.conformance.kit import envelope, log_of, numbers
from antiphon.testing.kafka import PRODUCE, KafkaServer
from antiphon.testing.line import Line, line_to
from antiphon.testing.servers import running
from tests.broker.kafka import PARTITIONS, PATIENCE_S, TOPIC, bus_of
from tests.broker.tansu import Tansu
from tests.conftest import require

pytestmark = pytest.mark.anyio

KEYS = 40
READ_S = 20
#: Errors of the protocol that a broker answers with: some are tried again by the library, some are for good.
NOT_LEADER, TIMED_OUT, TOO_LARGE, NOT_ENOUGH_REPLICAS, UNKNOWN_PRODUCER, NO_CONNECTION = 6, 7, 10, 19, 59, -195


@pytest.fixture
async def cluster() -> AsyncIterator[KafkaServer]:
    """A mock cluster of the test's own, with the topic."""
    require("Kafka's mock cluster", KafkaServer.is_there())
    async with running(KafkaServer) as server:
        assert isinstance(server, KafkaServer)
        await server.make_topic(TOPIC, PARTITIONS)
        yield server


@contextmanager
def plain_consumer(url: str) -> Iterator[Consumer]:
    """A plain client of all partitions of the topic, from their beginning."""
    settings = {"group.id": "plain", "auto.offset.reset": "error", "log_level": 0}
    consumer = Consumer({**settings, "bootstrap.servers": url.partition("://")[2]})
    try:
        partitions = consumer.list_topics(TOPIC, timeout=PATIENCE_S).topics[TOPIC].partitions
        consumer.assign([TopicPartition(TOPIC, number, 0) for number in partitions])
        yield consumer
    finally:
        consumer.close()


def records(url: str, count: int) -> list[Message]:
    """*count* records of the topic, as a plain client reads them."""
    with plain_consumer(url) as consumer:
        found: list[Message] = []
        while len(found) < count:
            came = consumer.consume(count - len(found), READ_S)
            assert came, f"{len(found)} of {count} records came"
            found += came
    return found


def records_until(url: str, event_id: str) -> list[Message]:
    """The records of the topic up to the first of an event, as a plain client reads them, where it has one key."""
    with plain_consumer(url) as consumer:
        found: list[Message] = []
        while event_id not in firsts(found):
            came = consumer.poll(READ_S)
            assert came is not None, f"{event_id} is missing"
            assert came.error() is None, came.error()
            found.append(came)
    return found


def publish(url: str, message: KafkaMessage) -> None:
    """Publish as a plain client does."""
    producer = Producer({"bootstrap.servers": url.partition("://")[2]})
    producer.produce(TOPIC, message.value, key=message.key, headers=list(message.headers.items()))
    assert producer.flush(PATIENCE_S) == 0


# ------------------------------------------------------------------ partitions


async def test_a_key_has_one_partition_and_it_is_that_of_other_clients(cluster: KafkaServer) -> None:
    """The partition follows from murmur2 of the key, as with Java's client; without a key, from that of the id."""
    # What Kafka's own tests give for these keys.
    murmur2 = {"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536}
    keyed = [envelope(n, key=key) for n, key in enumerate([*murmur2] * 3)]
    keyless = [envelope(100 + n) for n in range(30)]
    async with bus_of(cluster.url) as bus:
        await bus.send("s", 0, 1, [*keyed, *keyless])
    found = await asyncio.to_thread(records, cluster.url, len(keyed) + len(keyless))
    places: dict[bytes, set[int | None]] = defaultdict(set)
    for record in found:
        places[record.key() or b""].add(record.partition())
    assert {key: places.pop(key.encode()) for key in murmur2} == {
        key: {(number & 0x7FFFFFFF) % PARTITIONS} for key, number in murmur2.items()
    }
    assert {*places} == {event.id.encode() for event in keyless}
    assert len({number for each in places.values() for number in each}) == PARTITIONS


# A group takes up to a session for each of the three rebalances, and a machine that does other things longer.
@pytest.mark.timeout(300)
async def test_a_rebalance_under_load(cluster: KafkaServer, tmp_path: Path) -> None:
    """While events come, a second process of the service joins, and is killed: each event is stored once, and those
    of a key in their order."""
    store = SqliteStore(tmp_path / "store.db", clock=SystemClock(), owner="test")
    await store.open()
    try:
        async with bus_of(cluster.url) as bus, asyncio.timeout(2 * PATIENCE_S):
            url = f"{cluster.url}?name={TOPIC.partition('.')[2]}"
            enough = asyncio.Event()
            async with receiving(url, tmp_path / "store.db", "one") as one:
                sending = asyncio.ensure_future(send_until(enough, bus, store))
                await one.came(500)
                async with receiving(url, tmp_path / "store.db", "two") as two:
                    await two.came(500)
                    two.kill()
                # The partitions of the dead one stand still until it is missed; then the first has them all.
                await until(store, await store.head() + 2_000)
                enough.set()
                total = await sending
                await until(store, total)
        log = await log_of(store)
    finally:
        await store.close()
    by_key: dict[str | None, list[int]] = defaultdict(list)
    for event, number in zip(log, numbers(log), strict=True):
        by_key[event.envelope.key].append(number)
    assert dict(by_key) == {f"key {key}": [*range(key, total, KEYS)] for key in range(KEYS)}


async def send_until(enough: asyncio.Event, bus: KafkaBus, store: SqliteStore) -> int:
    """Send events of all keys, never far ahead of what is stored; how many it was."""
    total = 0
    while not enough.is_set():
        await until(store, total - 10 * KEYS)
        await bus.send(
            "s", total, total + KEYS, [envelope(n, key=f"key {n - total}") for n in range(total, total + KEYS)]
        )
        total += KEYS
    return total


async def until(store: SqliteStore, count: int) -> None:
    """Return when so many events are stored, by whichever process."""
    grown = asyncio.Event()
    undo = store.listen((), grown.set)
    try:
        while await store.head() < count:
            with suppress(TimeoutError):
                await asyncio.wait_for(grown.wait(), 1)
            grown.clear()
    finally:
        undo()


class Receiving:
    """A process that receives."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.count = 0

    async def came(self, count: int) -> None:
        """Return when it has received so many events."""
        assert self._process.stdout is not None
        while self.count < count:
            line = await self._process.stdout.readline()
            assert line, "the receiver has ended"
            self.count += int(line)

    def kill(self) -> None:
        """SIGKILL."""
        with suppress(ProcessLookupError):
            self._process.kill()


@asynccontextmanager
async def receiving(url: str, store: Path, owner: str) -> AsyncIterator[Receiving]:
    """A process that fills *store* from the bus at *url*, until it is killed."""
    command = (sys.executable, "-m", "tests.broker.receiving", url, str(store), owner)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        yield Receiving(process)
    finally:
        Receiving(process).kill()
        await process.communicate()


# ------------------------------------------------------------------ a producer that fails


def large(n: int) -> Envelope:
    """An event of which a request of the producer's holds ten: several requests are on their way at once."""
    return envelope(n, key="one", data=b'"%s"' % (b"x" * 100_000))


async def send_all(bus: KafkaBus, events: Sequence[Envelope]) -> int:
    """Send as an outlet does: the same events again until they are confirmed. How often that failed."""
    failures = 0
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await bus.send("s", 0, len(events), events)
            except BusError:
                failures += 1
            else:
                return failures


def firsts(found: Sequence[Message]) -> list[str]:
    """The ids of the events in records, in their order, each where it came first."""
    ids = [str(dict(record.headers() or ())["ce_id"], "utf-8") for record in found]  # type: ignore[arg-type]
    return list(dict.fromkeys(ids))


@pytest.mark.parametrize("error", [NOT_LEADER, TIMED_OUT, NOT_ENOUGH_REPLICAS, UNKNOWN_PRODUCER, NO_CONNECTION])
async def test_an_error_that_passes_changes_no_order(cluster: KafkaServer, error: int) -> None:
    """Whatever the broker answers now and then, the events of a key come in their order, and none is missing."""
    events = [envelope(n, key="one") for n in range(40)]
    async with bus_of(cluster.url) as bus:
        for first in range(0, 40, 8):
            await cluster.answer(PRODUCE, error)
            await send_all(bus, events[first : first + 8])
        reader = Reader(bus)
        assert await reader.until(40) == [*range(40)]


async def test_what_cannot_be_sent_holds_back_what_is_after_it(cluster: KafkaServer) -> None:
    """An event that the broker refuses for good fails the send, and no later event of its key is in the topic."""
    async with bus_of(cluster.url) as bus:
        await bus.send("s", 0, 1, [envelope(0, key="one")])
        await cluster.answer(PRODUCE, TOO_LARGE)
        with pytest.raises(BusError, match="has not confirmed"):
            await bus.send("s", 1, 2, [envelope(1, key="one")])
        await bus.send("s", 1, 3, [envelope(1, key="one"), envelope(2, key="one")])
    found = await asyncio.to_thread(records, cluster.url, 3)
    assert firsts(found) == [envelope(n).id for n in range(3)]


async def cut_while_sending(line: Line, events: Sequence[Envelope]) -> int:
    """Send all of *events* over a line that is cut in their midst, again and again; how often the sending failed."""
    line.delay_s = 0.01
    async with bus_of(line.url) as bus:
        sending = asyncio.ensure_future(send_all(bus, events))
        for _ in range(4):
            await asyncio.wait([sending], timeout=0.15)
            await line.cut()
            await line.mend()
            line.delay_s = 0.01
        line.delay_s = 0.0
        return await sending


async def test_a_line_that_is_cut_in_the_midst_of_a_batch_changes_no_order() -> None:
    """Several requests are on their way when the connection breaks: the producer sends them again in their order."""
    require("Tansu", Tansu.is_there())
    server = Tansu()
    events = [large(n) for n in range(60)]
    try:
        async with line_to(server.url) as line:
            server.advertised = line.port
            await server.start()
            await cut_while_sending(line, events)
            assert line.broken > 0
            found = await asyncio.to_thread(records_until, line.url, events[-1].id)
    finally:
        server.close()
    assert firsts(found) == [event.id for event in events]


async def test_confirmations_that_are_lost(cluster: KafkaServer) -> None:
    """What was taken and not confirmed is sent again after it failed, by another producer: the order stays."""
    async with line_to(cluster.url) as line:
        await cluster.advertise(line.port)
        async with bus_of(line.url) as bus:
            await bus.send("s", 0, 1, [envelope(0, key="one")])
            line.close_way("back")
            batch = [envelope(n, key="one") for n in range(1, 20)]
            with pytest.raises(BusError, match="has not confirmed"):
                await bus.send("s", 1, 20, batch)
            await line.cut()
            await line.mend()
            assert await send_all(bus, [*batch, envelope(20, key="one")]) == 0
        found = await asyncio.to_thread(records, cluster.url, 21 + len(batch))
    assert firsts(found) == [envelope(n).id for n in range(21)]


async def test_a_batch_that_takes_long_is_waited_for(cluster: KafkaServer) -> None:
    """As long as something is confirmed now and then: sent again from its beginning, it would never be through."""
    async with line_to(cluster.url) as line:
        await cluster.advertise(line.port)
        async with bus_of(line.url) as bus:
            await bus.send("s", 0, 1, [envelope(0, key="one")])
            loop = asyncio.get_running_loop()
            line.delay_s, began = 0.025, loop.time()
            await bus.send("s", 1, 161, [large(n) for n in range(1, 161)])
            assert loop.time() - began > PATIENCE_OF_A_BUS_S


async def test_a_broker_that_hangs_holds_up_nobody(cluster: KafkaServer) -> None:
    """While connections stay and nothing is answered, a send fails within its patience, the loop goes on, and so does
    a receiver when the broker goes on."""
    async with bus_of(cluster.url) as bus:
        await bus.send("s", 0, 1, [envelope(0, key="one")])
        reader = Reader(bus)
        await reader.until(1)
        loop = asyncio.get_running_loop()
        longest, last = 0.0, loop.time()
        cluster.stop()
        try:
            sending = asyncio.ensure_future(bus.send("s", 1, 2, [envelope(1, key="one")]))
            while not sending.done():
                await asyncio.wait([sending], timeout=0.01)
                longest, last = max(longest, loop.time() - last), loop.time()
            with pytest.raises(BusError, match="has not confirmed"):
                await sending
        finally:
            cluster.go_on()
        assert longest < 1
        await send_all(bus, [envelope(n, key="one") for n in range(1, 5)])
        assert await reader.until(5) == [*range(5)]


# ------------------------------------------------------------------ plain clients


async def test_a_plain_client_reads_what_was_sent(cluster: KafkaServer) -> None:
    """With the library of CloudEvents a record is the event that it was."""
    event = envelope(1, key="ключ", type_=A, data=b'{"n":1}')
    async with bus_of(cluster.url) as bus:
        await bus.send("s", 0, 1, [event])
    (record,) = await asyncio.to_thread(records, cluster.url, 1)
    headers = {name: value for name, value in dict(record.headers() or ()).items() if isinstance(value, bytes)}
    found = from_kafka(KafkaMessage(headers, record.key(), record.value() or b""), JSONFormat())
    assert (found.get_id(), found.get_type(), found.get_source(), found.get_subject()) == (event.id, A, "/svc", "ключ")
    assert found.get_extension("partitionkey") == "ключ"
    assert found.get_data() == {"n": 1}


@pytest.mark.parametrize("write", [to_binary, to_structured])
async def test_what_a_plain_client_publishes_is_received(
    cluster: KafkaServer, write: Callable[..., KafkaMessage]
) -> None:
    """In both forms of the protocol's binding."""
    attributes = {"id": "7", "type": A, "source": "/shop/till", "subject": "order 7", "partitionkey": "order 7"}
    message = write(CloudEvent({**attributes, "specversion": "1.0"}, {"text": "é"}), JSONFormat())
    await asyncio.to_thread(publish, cluster.url, message)
    async with bus_of(cluster.url) as bus:
        (found,) = [event.envelope for event in (await received(bus, 1)) if not isinstance(event, Unreadable)]
    assert (found.id, found.type, found.key, found.service) == ("7", A, "order 7", "/shop/till")
    assert json.loads(found.data) == {"text": "é"}


async def test_what_is_no_event_stops_nothing(cluster: KafkaServer) -> None:
    """It comes with its bytes and the reason, in its place, and what is after it in its partition comes."""
    poison = [
        KafkaMessage({}, b"one", b"\xff no event"),
        KafkaMessage({"ce_type": A.encode(), "ce_id": b"\xff"}, b"one", b"{}"),
        KafkaMessage({"content-type": b"application/cloudevents+json"}, b"one", b'{"id": 1}'),
        KafkaMessage({"ce_type": b"elsewhere"}, b"one", b"nobody's"),
        KafkaMessage({"ce_type": A.encode()}, b"one", b""),
    ]
    for message in poison:
        await asyncio.to_thread(publish, cluster.url, message)
    async with bus_of(cluster.url) as bus:
        await bus.send("s", 0, 1, [envelope(1, key="one")])
        *bad, good = await received(bus, 5)
    assert [each.raw for each in bad if isinstance(each, Unreadable)] == [
        message.value for message in poison if message.value != b"nobody's"
    ]
    assert not isinstance(good, Unreadable)
    assert good.envelope == envelope(1, key="one")


async def received(bus: KafkaBus, count: int) -> list[LoggedEvent | Unreadable]:
    """What a receiver gets that has nothing, as soon as it is so much."""
    woken = asyncio.Event()
    undo = bus.listen([A], woken.set)
    try:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                woken.clear()
                if len(found := await bus.receive("receiver", {A: 0, B: 0}, 100)) >= count:
                    return list(found)
                await woken.wait()
    finally:
        undo()


def test_what_is_removed_has_been_taken_by_all_and_is_old() -> None:
    """A group that has no offset in a partition has taken nothing of it."""
    assert removable([{0: 9, 1: 4, 2: 7, 3: 3}, {0: 5, 1: 8, 3: 0}], {0: 7, 1: -1, 2: -1, 3: 2}) == {0: 5, 1: 4}
    assert removable([{0: 9}], {0: 0}) == {}


@pytest.mark.parametrize(("kept", "warns"), [("-1", False), ("60000", True)])
async def test_a_topic_that_forgets_by_itself_is_told_of(
    kept: str, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """One that somebody else has made keeps what it says; the log tells who may lose by that."""
    require("Tansu", Tansu.is_there())
    async with running(Tansu) as server:
        settings = {"retention.ms": kept, "retention.bytes": "-1"}
        admin = AdminClient({"bootstrap.servers": server.url.partition("://")[2]})
        topic = NewTopic(TOPIC, num_partitions=1, replication_factor=1, config=settings)
        await asyncio.wrap_future(admin.create_topics([topic])[TOPIC])
        with caplog.at_level("WARNING", logger="antiphon.broker"):
            async with bus_of(server.url):
                pass
    assert ("may forget what a service has not taken" in caplog.text) is warns


async def test_a_cluster_that_removes_nothing_stops_no_receiver(cluster: KafkaServer) -> None:
    """What cannot be removed stays: a receiver that says how far it is goes on."""
    clock = VirtualClock()
    make = bus_at(f"{cluster.url}?name={TOPIC.partition('.')[2]}", "", keep=days(7))
    bus = make(Path(), clock=clock, owner="one")
    try:
        await bus.open()
        await bus.expect({"receiver": [A]})
        await clock.advance(3_600)
        await bus.report("receiver", 5)
        with pytest.raises(BusError, match="cannot remove what is old"):
            await cast("KafkaBus", bus).purge(clock.now_ms())
    finally:
        await bus.close()
