"""Limits of a handler: its rate, and memory that stays bounded."""

from pathlib import Path

import pytest

from antiphon import Rate, Service, minutes
from tests.runtime.kit import running
from tests.runtime.test_handling import NO_JITTER, Ordered

pytestmark = pytest.mark.anyio


async def test_a_rate_is_kept(tmp_path: Path) -> None:
    """In no minute do more than ten attempts start; in the end all have."""
    mail = Service("mail")
    times: list[int] = []

    async with running(tmp_path, mail) as idle:
        clock = idle.clock

    @mail.on(Ordered, rate=Rate(10, minutes(1)), retry=NO_JITTER)
    async def send(event: Ordered) -> None:
        times.append(clock.now_ms())

    async with running(tmp_path, Service("shop"), mail, clock=clock) as world:
        await world.publish("shop", *(Ordered(f"c{n}", n) for n in range(35)))
        await clock.advance(5 * 60)
    assert len(times) == 35
    assert all(late - early >= 60_000 for early, late in zip(times, times[10:], strict=False))


async def test_two_types_are_read_in_order(tmp_path: Path) -> None:
    """A handler bound to several types gets them in the order of the log."""
    from tests.runtime.test_handling import Billed

    both = Service("both")
    seen: list[tuple[str, int]] = []

    @both.on(Ordered, Billed)
    async def note(event: Ordered | Billed) -> None:
        seen.append((type(event).__name__, event.n))

    async with running(tmp_path, Service("shop"), both) as world:
        events = [Ordered("a", n) if n % 3 else Billed("a", n) for n in range(700)]
        await world.publish("shop", *events)
        await world.until(lambda: len(seen) == 700)
        assert seen == [(type(event).__name__, event.n) for event in events]
