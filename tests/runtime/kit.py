"""Runs services on a temporary store under a virtual clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from antiphon.runtime.runtime import Runtime
from antiphon.service import Service
from antiphon.testing.clock import VirtualClock

_GRACE_S = 0.5


class World:
    """A running application, its clock, and a way to look into its store."""

    def __init__(self, runtime: Runtime, clock: VirtualClock) -> None:
        self.runtime = runtime
        self.clock = clock
        self.store = next(iter(runtime.stores.values()))

    async def publish(self, service: str, *events: object) -> list[str]:
        """Publish and let what follows come to rest."""
        ids = await self.runtime.publish(service, *events)
        await self.clock.rest()
        return ids

    async def rows(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Committed rows, as tuples."""
        return [tuple(row) for row in await self.store.fetch_all(sql, parameters)]

    async def statuses(self, handler: str) -> dict[str, str]:
        """The status of every event for one handler, by event id."""
        rows = await self.rows("SELECT EVENT_ID, STATUS FROM antiphon_events WHERE HANDLER = ?", handler)
        return {str(event_id): str(status) for event_id, status in rows}

    async def until(self, condition: Callable[[], bool], seconds: float = 120, step: float = 1) -> None:
        """Move time until *condition* holds; fail if it does not within *seconds* of virtual time."""
        for _ in range(round(seconds / step)):
            if condition():
                return
            await self.clock.advance(step)
        assert condition(), f"not within {seconds} s of virtual time"


@asynccontextmanager
async def running(
    data: Path,
    *services: Service,
    own_stores: bool = False,
    clock: VirtualClock | None = None,
    only: Sequence[str] | None = None,
) -> AsyncIterator[World]:
    """The services, started; stopped at the end."""
    clock = clock or VirtualClock()
    runtime = Runtime(
        "app", [service.spec for service in services], data=data, own_stores=own_stores, clock=clock, services=only
    )
    await runtime.start()
    try:
        await clock.rest()
        yield World(runtime, clock)
    finally:
        stopping = asyncio.ensure_future(runtime.stop(grace_s=_GRACE_S))
        await clock.rest()
        if not stopping.done():
            await clock.advance(_GRACE_S)  # handlers that sleep in virtual time end, or are cut short
        await stopping


async def outcome(world: World, handler: str) -> list[str]:
    """The statuses of a handler's events, in order."""
    return list((await world.statuses(handler)).values())
