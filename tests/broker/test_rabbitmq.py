"""What is RabbitMQ's own: numbers that hold for one receiver in one process."""

from __future__ import annotations

from pathlib import Path

import pytest

from antiphon.testing.conformance.bus import A, B, Reader, opened
from antiphon.testing.conformance.engines import buses_of
from antiphon.testing.conformance.kit import envelope
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
