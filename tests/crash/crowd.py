"""An application of which several workers run one handler, and what its table must hold afterwards."""

from __future__ import annotations

import os
import threading
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from antiphon import App, Delivery, Event, Retry, Service, Transaction, seconds
from antiphon.runtime.clock import SystemClock

KEYS = 40
_clock = SystemClock()
#: What a handler waits for outside, for each event.
WAITS_S = 0.004
#: A process whose number is in the file of this name stands still for so long, with whatever runs in it.
HANG, HANGS_S = "ANTIPHON_TEST_HANG", 22.0


class Ground(Event, key="sack"):
    """Number *n* of a sack of *sack*'s."""

    sack: str
    n: int


shop = Service("shop")
mill = Service("mill")
mill.tables = """
CREATE TABLE IF NOT EXISTS flour (
    sack   TEXT    NOT NULL,
    place  INTEGER NOT NULL,
    n      INTEGER NOT NULL,
    worker INTEGER NOT NULL,
    PRIMARY KEY (sack, place)
);
"""


@mill.on(Ground, retry=Retry(attempts=50, first=seconds(0.05), cap=seconds(0.5)))
async def grind(ground: Ground, delivery: Delivery, tx: Transaction) -> None:
    """Wait for something outside, then note it at the next place of its key; now and then fail the first time."""
    await _clock.sleep(WAITS_S)
    _hang_if_told()
    found = await tx.fetch_one("SELECT coalesce(max(place), 0) FROM flour WHERE sack = ?", ground.sack)
    assert found is not None
    row = (ground.sack, int(found[0]) + 1, ground.n, os.getpid())
    await tx.execute("INSERT INTO flour (sack, place, n, worker) VALUES (?, ?, ?, ?)", *row)
    if delivery.attempt == 1 and ground.n % 50 == 0:
        raise RuntimeError("a stone is worn")


def _hang_if_told() -> None:
    told = Path(os.environ.get(HANG, "/nonexistent"))
    if told.exists() and told.read_text() == str(os.getpid()):
        told.unlink()
        threading.Event().wait(HANGS_S)


app = App(shop, mill, name="crowd")


def event(n: int) -> Ground:
    """Event number *n*."""
    return Ground(f"sack-{n * 7 % KEYS}", n)


def audit(rows: Sequence[Any], published: int) -> Counter[str]:
    """What is wrong with the rows (sack, place, n), in the order of places, if so many events were published."""
    wrong: Counter[str] = Counter()
    times = Counter(row[2] for row in rows)
    wrong["lost"] = sum(1 for n in range(published) if not times[n])
    wrong["doubled"] = sum(count - 1 for count in times.values())
    wrong["of nobody"] = len(times.keys() - set(range(published)))
    in_order: defaultdict[str, list[int]] = defaultdict(list)
    for sack, _, n, *_ in rows:
        in_order[sack].append(n)
    wrong["out of order"] = sum(numbers != sorted(numbers) for numbers in in_order.values())
    return +wrong
