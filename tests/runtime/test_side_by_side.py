"""Attempts that run side by side on a server: each ends in a transaction of its own, while the next are begun."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from antiphon import App, Event, Service, Transaction
from antiphon.runtime.clock import SystemClock
from tests.store.mariadb import databases
from tests.store.postgres import database

pytestmark = pytest.mark.anyio

_EVENTS, _KEYS, _PATIENCE_S = 300, 6, 30.0
_clock = SystemClock()


@pytest.fixture(scope="module", params=["postgres", "mariadb"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A database for these tests."""
    with database() if request.param == "postgres" else databases() as found:
        yield found


class Ground(Event, key="sack"):
    """Number *n*, of a sack."""

    sack: str
    n: int


def mill(chance: Random) -> App:
    """A handler of which ten attempts run at once, each for as long as chance has it."""
    service = Service("mill")
    service.tables = "CREATE TABLE IF NOT EXISTS flour (place SERIAL, sack VARCHAR(9) NOT NULL, n INTEGER NOT NULL)"

    @service.on(Ground, concurrency=10)
    async def grind(ground: Ground, tx: Transaction) -> None:
        await _clock.sleep(chance.random() * 0.01)
        await tx.execute("INSERT INTO flour (sack, n) VALUES (?, ?)", ground.sack, ground.n)

    return App(service, name="side_by_side")


async def test_none_is_left_behind(url: str, tmp_path: Path) -> None:
    """Events come while others of their keys end: all are handled, those of a key in order."""
    chance = Random(7)
    async with mill(chance).run_in(tmp_path, store=url) as runtime:
        for n in range(_EVENTS):
            await runtime.publish("mill", Ground(f"sack-{chance.randrange(_KEYS)}", n))
        store = runtime.store_of("mill")
        async with asyncio.timeout(_PATIENCE_S):
            while len(found := await store.fetch_all("SELECT sack, n FROM flour ORDER BY place")) < _EVENTS:
                await _clock.sleep(0.05)
    ground: defaultdict[str, list[int]] = defaultdict(list)
    for sack, n in found:
        ground[sack].append(n)
    assert sorted(n for numbers in ground.values() for n in numbers) == list(range(_EVENTS))
    assert all(numbers == sorted(numbers) for numbers in ground.values())
