"""The hand-written limit: a loop of batched SQL that leaves the same rows as Antiphon, and is no system.

Nothing waits between its steps, and it is not restarted: it has neither latency nor a kill test.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from antiphon.bench.limit import HandWritten
from benchmarks.peers import job


@asynccontextmanager
async def loop() -> AsyncIterator[HandWritten]:
    """The loop, on a fresh file."""
    path = job.place().folder / "limit.db"
    await HandWritten.prepare(path)
    by_hand = HandWritten(path)
    try:
        yield by_hand
    finally:
        by_hand.close()
