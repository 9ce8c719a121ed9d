"""What is Redis's own: it may forget what it has confirmed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from antiphon.ports import PUBLISHED
from antiphon.runtime.clock import SystemClock
from antiphon.runtime.outlet import Outlet
from antiphon.store.sqlite.store import SqliteStore
from antiphon.testing.conformance.bus import A, B, events_of, opened
from antiphon.testing.conformance.engines import buses_of
from antiphon.testing.conformance.kit import envelope
from tests.broker.engines import required
from tests.servers import engine_called

pytestmark = pytest.mark.anyio
REDIS = engine_called("redis")


async def test_what_a_replica_has_missed_is_sent_again(tmp_path: Path) -> None:
    """A replica that is promoted, or a server that comes back without its last second, knows less of a sender than was
    confirmed: the sender goes on from there, though it never stopped, and its log loses nothing."""
    store = SqliteStore(tmp_path / "shop.db", clock=SystemClock(), owner="one")
    await store.open()
    try:
        async with buses_of(REDIS, await required(REDIS)) as make, opened(make, tmp_path) as (bus,):
            mine: Any = bus
            outlet = Outlet("shop", store, bus, SystemClock())
            for n in range(1, 5):
                async with store.unit() as unit:
                    await unit.append([(envelope(n), PUBLISHED)])
                await outlet.drain()
                if n == 1:
                    kept = await mine._client.hget(mine._sent, "shop")
                if n == 3:
                    for entry, _ in (await mine._client.xrange(mine._stream))[1:]:
                        await mine._client.xdel(mine._stream, entry)
                    await mine._client.hset(mine._sent, "shop", kept)
            found = events_of(await bus.receive("receiver", {A: 0, B: 0}, 100))
            assert [each.envelope.id for each in found] == [envelope(n).id for n in range(1, 5)]
    finally:
        await store.close()
