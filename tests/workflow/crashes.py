"""Every moment at which a crash can find a store: a copy of the file after each commit.

What was not committed is gone after a crash, so these copies are all that a ``kill -9`` can leave behind.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from antiphon.service import Service
from antiphon.store.sqlite.writer import Group
from antiphon.testing.clock import VirtualClock
from tests.runtime.kit import World, running

_STANDING = """SELECT count(*) FROM antiphon_log UNION ALL SELECT total(rev) FROM antiphon_runs
    UNION ALL SELECT count(*) FROM antiphon_timers UNION ALL SELECT count(*) FROM antiphon_deliveries
    UNION ALL SELECT count(*) FROM antiphon_inbox UNION ALL SELECT total(seq) FROM antiphon_handlers
    UNION ALL SELECT total(calls) FROM antiphon_effects
    UNION ALL SELECT count(*) FROM antiphon_effects WHERE state = 'DONE'"""


class Moment(NamedTuple):
    """What a crash leaves: the folder, how many milliseconds the machine had been up, and the world outside."""

    folder: Path
    boot_ms: int
    outside: Any


Make = Callable[[], Service | tuple[Service, ...]]


async def moments(
    folder: Path, make: Make, play: Callable[[World], Awaitable[None]], outside: Callable[[], Any] = lambda: None
) -> list[Moment]:
    """Run the services, on one store, through *play*; the moments between its commits, with what *outside* says."""
    found: list[Moment] = []
    seen: list[object] = []
    async with running(folder / "first", *_all(make)) as world:
        store = world.store
        committed = store.writer._committed

        def keep(group: Group) -> None:
            now = store.writer.connection.execute(_STANDING).fetchall()
            if now not in seen:  # a renewed lease, a sign of life
                seen.append(now)
                copy_store()
            committed(group)

        def copy_store() -> None:
            copy = folder / f"crash{len(found)}"
            copy.mkdir()
            with sqlite3.connect(store.path) as source, sqlite3.connect(copy / store.path.name) as target:
                source.backup(target)
            source.close()
            target.close()
            found.append(Moment(copy, world.clock.boot_ms(), outside()))

        store.writer._committed = keep
        try:
            await play(world)
        finally:
            store.writer._committed = committed
    return found


@asynccontextmanager
async def after(moment: Moment, make: Make) -> AsyncIterator[World]:
    """The services, started on what a crash has left, at the time of the crash."""
    clock = VirtualClock(seed=1)  # ids of its own: an id is seen once
    await clock.jump((moment.boot_ms - clock.boot_ms()) / 1000)
    async with running(moment.folder, *_all(make), clock=clock) as world:
        yield world


def _all(make: Make) -> tuple[Service, ...]:
    made = make()
    return made if isinstance(made, tuple) else (made,)
