"""The engines that the suite can be run against here, and the run of it."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from antiphon.broker.connecting import bus_at
from antiphon.broker.feed import Feeds
from antiphon.errors import AntiphonError, DeclarationError
from antiphon.model.retry import days
from antiphon.ports import Ability, Clock, MakeBus
from antiphon.runtime.clock import SystemClock
from antiphon.store.sqlite.bus import SqliteBus
from antiphon.store.sqlite.store import SqliteStore
from antiphon.testing.conformance.bus import bus_checks
from antiphon.testing.conformance.deliveries import DELIVERY_CHECKS
from antiphon.testing.conformance.kit import BusCheck, StoreCheck
from antiphon.testing.conformance.leases import LEASE_CHECKS
from antiphon.testing.conformance.log import LOG_CHECKS
from antiphon.testing.conformance.partitions import PARTITION_CHECKS
from antiphon.testing.conformance.talking import TALKING_CHECKS
from antiphon.testing.conformance.timers import TIMER_CHECKS

_KNOCK_S = 2.0
_STORE_CHECKS: list[StoreCheck] = [
    *LOG_CHECKS,
    *LEASE_CHECKS,
    *PARTITION_CHECKS,
    *DELIVERY_CHECKS,
    *TIMER_CHECKS,
    *TALKING_CHECKS,
]


class Engine(NamedTuple):
    """Something that a store or a bus is made of: where it listens (None: nowhere), and what its bus can."""

    name: str
    url: str | None = None
    abilities: frozenset[Ability] = frozenset()

    async def listens(self) -> bool:
        """Whether somebody answers there."""
        if self.url is None:
            return True
        parts = urlsplit(self.url)
        try:
            async with asyncio.timeout(_KNOCK_S):
                _, writer = await asyncio.open_connection(parts.hostname, parts.port)
        except (OSError, TimeoutError):
            return False
        writer.close()
        return True

    @property
    def checks(self) -> list[tuple[str, Callable[[Path], Awaitable[None]]]]:
        """The checks that it is held to, by name, each to be called with a folder of its own."""
        if self.url is None:
            stores = [(check.__name__, _on_sqlite(check)) for check in _STORE_CHECKS]
            buses = [(check.__name__, _beside_sqlite(check)) for check in bus_checks(SqliteBus.abilities)]
            return [*stores, *buses]
        return [(check.__name__, self._on_bus(check)) for check in bus_checks(self.abilities)]

    def _on_bus(self, check: BusCheck) -> Callable[[Path], Awaitable[None]]:
        async def run(folder: Path) -> None:
            async with buses_of(self) as make:
                await check(make, folder)

        return run


#: On their standard ports.
ENGINES = (
    Engine("sqlite"),
    Engine("nats", "nats://127.0.0.1:4222", frozenset({"rereads"})),
    Engine("redis", "redis://127.0.0.1:6379", frozenset({"rereads", "positions"})),
    Engine("rabbitmq", "amqp://guest:guest@127.0.0.1:5672"),
)


class Tally(msgspec.Struct):
    """How many checks an engine has passed and failed; *skipped*: it is not there."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0


def engines_named(names: Sequence[str]) -> list[Engine]:
    """Those of these names (none given: all), each perhaps as ``name=url``. Raises DeclarationError."""
    known = {engine.name: engine for engine in ENGINES}
    chosen = []
    for text in names or list(known):
        name, _, url = text.partition("=")
        if name not in known:
            raise DeclarationError(f"no engine {name!r}", mend=f"There are: {', '.join(known)}")
        chosen.append(known[name]._replace(url=url) if url else known[name])
    return chosen


async def run(engine: Engine, tell: Callable[[str, str], None]) -> Tally:
    """Hold *engine* to all its checks; *tell* is told the name of each that fails, and why."""
    tally = Tally()
    if not await engine.listens():
        tally.skipped = len(engine.checks)
        return tally
    for name, check in engine.checks:
        with tempfile.TemporaryDirectory() as folder:
            try:
                await check(Path(folder))
            except (AssertionError, AntiphonError) as error:
                tally.failed += 1
                tell(name, str(error))
            else:
                tally.passed += 1
    return tally


@asynccontextmanager
async def named_bus(url: str, receivers: Iterable[str] = ("receiver",)) -> AsyncIterator[str]:
    """The URL of a bus at *url* whose name is nobody else's. At the end it is removed from the server."""
    clock = SystemClock()
    named = f"{url}?name=conformance_{clock.new_id().replace('-', '_')}"
    yield named
    bus = bus_at(named, "", keep=days(7))(Path(), clock=clock, owner="")
    assert isinstance(bus, Feeds)
    try:
        await bus.open()
        await bus.destroy(receivers)
    finally:
        await bus.close()


@asynccontextmanager
async def buses_of(engine: Engine) -> AsyncIterator[MakeBus]:
    """A factory of buses of one name, as `named_bus`."""
    assert engine.url is not None
    async with named_bus(engine.url) as url:
        yield bus_at(url, "", keep=days(7))


def _on_sqlite(check: StoreCheck) -> Callable[[Path], Awaitable[None]]:
    def make(path: Path, *, clock: Clock, owner: str) -> SqliteStore:
        return SqliteStore(path / "store.db", clock=clock, owner=owner)

    return lambda folder: check(make, folder)


def _beside_sqlite(check: BusCheck) -> Callable[[Path], Awaitable[None]]:
    def make(path: Path, *, clock: Clock, owner: str) -> SqliteBus:
        return SqliteBus(path / "bus.db", clock=clock, owner=owner)

    return lambda folder: check(make, folder)
