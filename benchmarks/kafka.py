"""What the bus on Kafka costs beside plain clients of the same library, on librdkafka's mock cluster.

``python -m benchmarks.kafka``: three runs, each with clusters of its own. The plain producer is as safe (idempotent,
all replicas, a batch at a time) and is given what is encoded already; the plain consumer looks at nothing.
"""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Producer

from antiphon.broker.connecting import bus_at
from antiphon.broker.records import to_record
from antiphon.model.envelope import Envelope
from antiphon.ports import Bus
from antiphon.runtime.clock import SystemClock
from antiphon.testing.kafka import KafkaServer
from antiphon.testing.servers import running

EVENTS, BATCH, KEYS, PARTITIONS, RUNS = 20_000, 256, 100, 6, 3
TYPE, TOPIC = "benchmark.A", "antiphon.benchmark"


class Measured:
    """Events a second, and CPU for each, since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def __call__(self) -> str:
        cpu_us = (time.process_time() - self._cpu) / EVENTS * 1e6
        return f"{EVENTS / (time.perf_counter() - self._wall):>9,.0f}/s {cpu_us:5.1f} us"


def events() -> list[Envelope]:
    """What is sent: 220 bytes of data each."""
    return [
        Envelope(f"e-{n:09d}", TYPE, 1, f"key {n % KEYS}", "svc", n, b'{"n":%d,"text":"%s"}' % (n, b"x" * 200), "c")
        for n in range(EVENTS)
    ]


async def bus_sends(bus: Bus) -> str:
    """As an outlet does: a batch, and the next when it is confirmed."""
    batch = events()
    await bus.send("svc", 0, 0, batch[:1])
    measured = Measured()
    for first in range(0, EVENTS, BATCH):
        await bus.send("svc", first, first + BATCH, batch[first : first + BATCH])
    return measured()


async def bus_receives(bus: Bus) -> str:
    """As an inlet does, from the first event on."""
    woken = asyncio.Event()
    bus.listen([TYPE], woken.set)
    after, count, measured = {TYPE: 0}, 0, None
    while count < EVENTS:
        woken.clear()
        if not (found := await bus.receive("receiver", after, BATCH)):
            await woken.wait()
            continue
        measured = measured or Measured()
        count += len(found)
        after = {TYPE: found[-1].seq}
    assert measured is not None
    return measured()


def plain_sends(servers: str) -> str:
    """The same records by the library alone."""
    settings = {"enable.idempotence": True, "partitioner": "murmur2", "linger.ms": 1, "log_level": 0}
    producer = Producer({**settings, "bootstrap.servers": servers})
    records = [to_record(event) for event in events()]
    left = 1

    def told(error: Any, message: Any) -> None:
        nonlocal left
        assert error is None
        left -= 1

    producer.produce(TOPIC, b"", on_delivery=told)
    producer.flush()
    measured = Measured()
    for first in range(0, EVENTS, BATCH):
        for key, value, headers in records[first : first + BATCH]:
            left += 1
            producer.produce(TOPIC, value, key=key, headers=headers, on_delivery=told)
        while left:
            producer.poll(1)
    return measured()


def plain_receives(servers: str) -> str:
    """The records as they come."""
    settings = {"group.id": "plain", "auto.offset.reset": "earliest", "log_level": 0}
    consumer = Consumer({**settings, "bootstrap.servers": servers})
    consumer.subscribe([TOPIC])
    count, measured = 0, None
    while count < EVENTS:
        count += len(consumer.consume(BATCH, 0.01))
        measured = measured or (Measured() if count else None)
    consumer.close()
    assert measured is not None
    return measured()


async def main() -> None:
    """Print a line for each run."""
    for _ in range(RUNS):
        async with running(KafkaServer) as server:
            assert isinstance(server, KafkaServer)
            await server.make_topic(TOPIC, PARTITIONS)
            clock = SystemClock()
            bus = bus_at(server.url, "benchmark", keep=timedelta(days=1))(Path(), clock=clock, owner="benchmark")
            await bus.open()
            await bus.expect({"receiver": [TYPE]})
            sent, received = await bus_sends(bus), await bus_receives(bus)
            await bus.close()
            plain_received = await asyncio.to_thread(plain_receives, server.url.partition("://")[2])
        async with running(KafkaServer) as server:
            assert isinstance(server, KafkaServer)
            await server.make_topic(TOPIC, PARTITIONS)
            plain_sent = await asyncio.to_thread(plain_sends, server.url.partition("://")[2])
        print(f"sends: bus {sent}, plain {plain_sent}   receives: bus {received}, plain {plain_received}", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
