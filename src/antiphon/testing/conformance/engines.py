"""The engines that the suite is run against here. One of your own is another `Engine`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from antiphon.broker.connecting import bus_at
from antiphon.broker.feed import Feeds
from antiphon.broker.naming import without_name
from antiphon.errors import DeclarationError
from antiphon.model.retry import days
from antiphon.ports import Ability, MakeBus
from antiphon.runtime.clock import SystemClock
from antiphon.store.bus import LogBus
from antiphon.testing.conformance.checks import (
    Check,
    of_buses,
    of_buses_by_line,
    of_raw_bytes,
    of_stores,
    of_stores_by_line,
)
from antiphon.testing.conformance.hostile import Put
from antiphon.testing.conformance.kit import MakeStore
from antiphon.testing.conformance.places import (
    databases_of_buses,
    databases_of_stores,
    files_of_buses,
    files_of_stores,
    schemas_of_buses,
    schemas_of_stores,
    unique_name,
)
from antiphon.testing.conformance.raw import put_on_nats, put_on_rabbitmq, put_on_redis
from antiphon.testing.emulators import MiniStack, MiniStackEventBridge, MiniStackKinesis, MiniStackUnordered
from antiphon.testing.kafka import KafkaServer
from antiphon.testing.mariadb import MariadbServer
from antiphon.testing.servers import NatsServer, PostgresServer, RabbitServer, RedisServer, Server, listens_at, running

#: How many events a long backlog has where nothing else is said.
BACKLOG = 100_000


@asynccontextmanager
async def named_bus(url: str, receivers: Iterable[str] = ("receiver",)) -> AsyncIterator[str]:
    """The URL of a bus at *url* whose name is nobody else's. At the end it is removed from the server."""
    named = f"{url}{'&' if '?' in url else '?'}name={unique_name()}"
    yield named
    bus = bus_at(named, "", keep=days(7))(Path(), clock=SystemClock(), owner="")
    assert isinstance(bus, Feeds)
    try:
        await bus.open()
        await bus.destroy(receivers)
    finally:
        await bus.close()


@asynccontextmanager
async def brokers_buses(url: str) -> AsyncIterator[MakeBus]:
    """Buses of one name on the broker at *url*: of a name that is nobody else's, and removed at the end."""
    async with named_bus(url) as named:
        yield bus_at(named, "", keep=days(7))


class Engine(NamedTuple):
    """Something that stores, a bus, or both are made of.

    *url* is where it listens by default (None: it is files); where nobody listens there, one is started of the kind
    *server*. *stores* and *buses* give factories at a URL for as long as they are needed (None: it has none).
    *abilities* are those that its bus declares. *raw* gives a factory of buses and what puts bytes on them by the
    protocol's plain client (None: nobody else can). *by_line*: it can be reached by way of a `Line`, which changes
    host and port. *waits*: its client waits for a server that keeps a connection and says nothing.
    """

    name: str
    url: str | None = None
    abilities: frozenset[Ability] = frozenset()
    server: type[Server] | None = None
    stores: Callable[[str], AbstractAsyncContextManager[MakeStore]] | None = None
    buses: Callable[[str], AbstractAsyncContextManager[MakeBus]] | None = brokers_buses
    raw: Callable[[str], AbstractAsyncContextManager[tuple[MakeBus, Put]]] | None = None
    by_line: bool = False
    waits: bool = False

    @asynccontextmanager
    async def reached(self) -> AsyncIterator[str | None]:
        """Its URL: the one that it has if somebody listens there, or that of a server started for as long as this
        lasts. None if there is neither; files have an empty one."""
        if self.url is None or await listens_at(self.url):
            yield self.url or ""
        elif self.server is not None and self.server.is_there():
            async with running(self.server) as server:
                yield server.url
        else:
            yield None

    def checks(self, url: str, backlog: int | None = BACKLOG) -> list[Check]:
        """The checks that it is held to, at *url*; a long backlog is one of so many events (None: of a few)."""
        found: list[Check] = []
        if self.stores is not None:
            found += of_stores(self.stores, url, backlog)
        if self.stores is not None and self.by_line:
            found += of_stores_by_line(self.stores, url)
        if self.buses is not None:
            found += of_buses(self.buses, url, self.abilities, backlog)
        if self.buses is not None and self.by_line:
            found += of_buses_by_line(self.buses, url, waits=self.waits)
        if self.raw is not None:
            found += of_raw_bytes(self.raw, url)
        return found


def raw_by(
    put: Callable[[str, str, bytes], Awaitable[None]],
) -> Callable[[str], AbstractAsyncContextManager[tuple[MakeBus, Put]]]:
    """Buses on a broker as `brokers_buses`, and *put*, which is given its URL, the bus's name and the bytes."""

    @asynccontextmanager
    async def raw(url: str) -> AsyncIterator[tuple[MakeBus, Put]]:
        async with named_bus(url) as named:
            place, name = without_name(named)
            yield bus_at(named, "", keep=days(7)), partial(put, place, name or "")

    return raw


#: On their standard ports.
ENGINES = (
    Engine("sqlite", None, LogBus.abilities, stores=files_of_stores, buses=files_of_buses),
    Engine(
        "postgres",
        "postgresql://postgres@127.0.0.1:5432/postgres",
        LogBus.abilities,
        PostgresServer,
        stores=schemas_of_stores,
        buses=schemas_of_buses,
        by_line=True,
        waits=True,
    ),
    Engine(
        "mariadb",
        "mariadb://root@127.0.0.1:3306",
        LogBus.abilities,
        MariadbServer,
        stores=databases_of_stores,
        buses=databases_of_buses,
    ),
    Engine(
        "nats",
        "nats://127.0.0.1:4222",
        frozenset({"order", "rereads"}),
        NatsServer,
        raw=raw_by(put_on_nats),
        by_line=True,
    ),
    Engine(
        "redis",
        "redis://127.0.0.1:6379",
        frozenset({"order", "rereads", "positions"}),
        RedisServer,
        raw=raw_by(put_on_redis),
        by_line=True,
    ),
    Engine(
        "rabbitmq",
        "amqp://guest:guest@127.0.0.1:5672",
        frozenset({"order"}),
        RabbitServer,
        raw=raw_by(put_on_rabbitmq),
        by_line=True,
    ),
    Engine("sqs", "sqs://127.0.0.1:4566", frozenset({"order"}), MiniStack, by_line=True),
    Engine("sqs-standard", "sqs://127.0.0.1:4566?order=none", frozenset(), MiniStackUnordered),
    Engine("eventbridge", "eventbridge://127.0.0.1:4566?order=none", frozenset(), MiniStackEventBridge),
    Engine(
        "kinesis",
        "kinesis://127.0.0.1:4566?shards=4&poll=0.2",
        frozenset({"order"}),
        MiniStackKinesis,
        by_line=True,
    ),
    Engine("kafka", "kafka://127.0.0.1:9092", frozenset({"order"}), KafkaServer),
)


def engines_named(names: Sequence[str]) -> list[Engine]:
    """Those of these names (none given: all), each perhaps as ``name=url``: then it is there or nowhere.

    Raises DeclarationError.
    """
    known = {engine.name: engine for engine in ENGINES}
    chosen = []
    for text in names or list(known):
        name, _, url = text.partition("=")
        if name not in known:
            raise DeclarationError(f"no engine {name!r}", mend=f"There are: {', '.join(known)}")
        chosen.append(known[name]._replace(url=url, server=None) if url else known[name])
    return chosen


def buses_of(engine: Engine, url: str | None = None) -> AbstractAsyncContextManager[MakeBus]:
    """A factory of *engine*'s buses, at *url* or where it is by default."""
    assert engine.buses is not None, f"{engine.name} has no bus"
    return engine.buses(engine.url or "" if url is None else url)
