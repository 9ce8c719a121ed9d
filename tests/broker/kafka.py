"""A bus on a Kafka topic of the tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from antiphon.broker.connecting import bus_at
from antiphon.broker.kafka import KafkaBus
from antiphon.model.retry import days
from antiphon.runtime.clock import SystemClock
from antiphon.testing.conformance.bus import A, B

TOPIC, PARTITIONS = "antiphon.kafka_test", 6
PATIENCE_S = 60


@asynccontextmanager
async def bus_of(url: str) -> AsyncIterator[KafkaBus]:
    """An open bus on the topic."""
    name = f"{'&' if '?' in url else '?'}name={TOPIC.partition('.')[2]}"
    bus = bus_at(f"{url}{name}", "", keep=days(7))(Path(), clock=SystemClock(), owner="one")
    assert isinstance(bus, KafkaBus)
    try:
        await bus.open()
        await bus.expect({"receiver": [A, B]})
        yield bus
    finally:
        await bus.close()
