"""What is RabbitMQ's own: numbers that hold for one receiver in one process."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from antiphon.errors import BusError
from antiphon.runtime.clock import SystemClock
from antiphon.testing.conformance.bus import A, B, Reader, opened
from antiphon.testing.conformance.engines import buses_of
from antiphon.testing.conformance.kit import envelope
from antiphon.testing.conformance.load import insist
from antiphon.testing.line import line_to
from tests.broker.engines import BROKERS, required

pytestmark = pytest.mark.anyio
RABBITMQ = next(engine for engine in BROKERS if engine.name == "rabbitmq")


@pytest.mark.parametrize("elsewhere", [{A: 10**15, B: 10**15}, {A: 500, B: 0}])
async def test_a_position_that_another_process_has_reached_acknowledges_nothing(
    tmp_path: Path, elsewhere: dict[str, int]
) -> None:
    """A receiver that begins anew, from what its store holds by now, is given what it has not taken."""
    async with buses_of(RABBITMQ, await required(RABBITMQ)) as make, opened(make, tmp_path) as (bus,):
        await bus.send("s", 0, 3, [envelope(n) for n in (1, 2, 3)])
        assert await Reader(bus, takes=False).until(3) == [1, 2, 3]
        again = Reader(bus)
        again.after = dict(elsewhere)
        assert await again.until(3) == [1, 2, 3]


async def test_what_cannot_be_acknowledged_any_more_comes_again(tmp_path: Path) -> None:
    """The line breaks after a receiver has stored what it was given: it goes on over another connection."""
    lost = asyncio.Event()
    async with (
        line_to(await required(RABBITMQ)) as line,
        buses_of(RABBITMQ, line.url) as make,
        opened(make, tmp_path, clock=SystemClock()) as (bus,),
    ):
        await bus.send("s", 0, 3, [envelope(n) for n in (1, 2, 3)])
        reader = Reader(bus)
        assert await reader.until(3) == [1, 2, 3]
        bus.listen([A, B], lost.set)
        await line.cut()
        await lost.wait()
        await line.mend()
        with pytest.raises(BusError):
            await reader.read()
        await insist(lambda: bus.send("s", 3, 4, [envelope(4)]))
        while len(reader.firsts()) < 4:
            await insist(reader.read)
            await asyncio.sleep(0)
        assert reader.firsts() == [1, 2, 3, 4]
