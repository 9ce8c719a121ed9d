"""Outlets whose position the broker knows: of several logs of one name, and of a log that is not the one it knew."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from antiphon import App, Service, Transaction
from antiphon.ports import PUBLISHED, Bus
from antiphon.runtime.clock import SystemClock
from antiphon.runtime.outlet import Outlet
from antiphon.runtime.runtime import Runtime
from antiphon.store.sqlite.store import SqliteStore
from antiphon.testing.conformance.bus import everything, opened
from antiphon.testing.conformance.engines import ENGINES, Engine, buses_of, named_bus
from antiphon.testing.conformance.kit import envelope
from tests.broker.engines import required
from tests.channel.kit import Got, seen_in, until
from tests.servers import engine_called

pytestmark = pytest.mark.anyio
#: Those that know how far a sender's log has been taken, and do not lie beside it.
KNOWING = [each for each in ENGINES if "positions" in each.abilities and each.url is not None]
on_each = pytest.mark.parametrize("engine", KNOWING, ids=lambda each: each.name)


@asynccontextmanager
async def log_of(path: Path, numbers: range) -> AsyncIterator[SqliteStore]:
    """A log with these events to be sent."""
    store = SqliteStore(path, clock=SystemClock(), owner="test")
    await store.open()
    try:
        async with store.unit() as unit:
            await unit.append([(envelope(n), PUBLISHED) for n in numbers])
        yield store
    finally:
        await store.close()


async def taken_by_gateway(runtime: Runtime, numbers: range) -> None:
    """Have events in the log of the gateway, as it puts them there."""
    got = [
        msgspec.structs.replace(envelope(n), type="Got", data=msgspec.json.encode({"n": n, "about": "k"}))
        for n in numbers
    ]
    async with runtime.logs[-1].unit() as unit:
        await unit.append([(each, PUBLISHED) for each in got])


async def has_seen(runtime: Runtime, count: int) -> bool:
    """Whether the relay has noted so many."""
    return len(await seen_in(runtime)) == count


async def drain(store: SqliteStore, bus: Bus, *, is_one_of_many: bool = False) -> None:
    """Send what the log has, as a process does that has just started."""
    await Outlet("gateway", store, bus, SystemClock(), is_one_of_many=is_one_of_many).drain()


@on_each
async def test_logs_of_the_same_name_do_not_hide_each_others_events(engine: Engine, tmp_path: Path) -> None:
    """Each machine has a log of its gateway: what one has sent says nothing of the other's, and is not sent twice."""
    async with buses_of(engine, await required(engine)) as make, opened(make, tmp_path) as (bus,):
        for start, path in enumerate(("one.db", "two.db", "one.db", "two.db")):
            async with log_of(tmp_path / path, range(start * 5, start * 5 + 5)) as store:
                await drain(store, bus, is_one_of_many=True)
        assert sorted(await everything(bus)) == list(range(20))


@on_each
async def test_a_log_that_was_restored_sends_what_comes_now(
    engine: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The broker knows more of it than it has: what the log gets next is not taken for what was sent before."""
    async with buses_of(engine, await required(engine)) as make, opened(make, tmp_path) as (bus,):
        async with log_of(tmp_path / "before.db", range(10)) as store:
            await drain(store, bus)
        async with log_of(tmp_path / "restored.db", range(3)) as store:
            await drain(store, bus)
            assert "the bus knows 10 of its events, and there are 3" in caplog.text
            async with store.unit() as unit:
                await unit.append([(envelope(n), PUBLISHED) for n in range(10, 15)])
            await drain(store, bus)
        assert set(await everything(bus)) == set(range(15))


@pytest.mark.parametrize("name", ["nats", "redis"])
async def test_what_the_gateway_of_each_machine_takes_comes(name: str, tmp_path: Path) -> None:
    """Machines that share the broker and nothing else: the events from outside come, wherever they were taken."""
    async with named_bus(await required(engine_called(name)), ["relay"]) as url:
        relay = Service("relay", tables="CREATE TABLE seen (n INTEGER)")

        @relay.on(Got)
        async def take(got: Got, tx: Transaction) -> None:
            await tx.execute("INSERT INTO seen VALUES (?)", got.n)

        app = App(relay, name="relay", own_stores=True, bus=url)
        for machine, numbers in (("one", range(5)), ("two", range(5, 8))):
            async with app.run_in(tmp_path / machine) as runtime:
                await taken_by_gateway(runtime, numbers)
                await until(has_seen, runtime, numbers.stop)
