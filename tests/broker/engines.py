"""The brokers that the tests use: those on their standard ports of this machine."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from antiphon.broker.connecting import bus_at
from antiphon.model.retry import days
from antiphon.ports import Ability, Bus, Clock, MakeBus
from tests.conftest import require


class Engine(NamedTuple):
    """A broker by name: where it listens, and how what an app left on it is removed."""

    name: str
    url: str
    abilities: frozenset[Ability]
    remove: Callable[[str, str], Awaitable[None]]

    def require(self) -> str:
        """Its URL. Skips the test where it does not run; fails where everything must be there."""
        parts = urlsplit(self.url)
        try:
            socket.create_connection((parts.hostname or "", parts.port or 0), timeout=2).close()
            found = True
        except OSError:
            found = False
        require(f"{self.name} at {parts.hostname}:{parts.port}", found)
        return self.url

    def maker(self, app: str) -> MakeBus:
        """Makes buses of *app*."""
        return bus_at(self.require(), app, keep=days(7))


async def _remove_nats(url: str, app: str) -> None:
    import nats
    from nats.js.errors import NotFoundError

    client = await nats.connect(url)
    for stream in (f"antiphon_{app}", f"KV_antiphon_{app}"):
        try:
            await client.jetstream().delete_stream(stream)
        except NotFoundError:
            continue
    await client.close()


async def _remove_redis(url: str, app: str) -> None:
    from redis.asyncio import Redis

    async with Redis.from_url(url) as client:
        await client.delete(*[key async for key in client.scan_iter(f"antiphon:{{{app}}}:*")] or ["none"])


async def _remove_rabbitmq(url: str, app: str) -> None:
    import aiormq

    connection = await aiormq.connect(url)
    channel = await connection.channel()
    await channel.queue_delete(f"antiphon.{app}.receiver")
    await channel.exchange_delete(f"antiphon.{app}")
    await connection.close()


ENGINES = [
    Engine("nats", "nats://127.0.0.1:4222", frozenset({"rereads"}), _remove_nats),
    Engine("redis", "redis://127.0.0.1:6379", frozenset({"rereads", "positions"}), _remove_redis),
    Engine("rabbitmq", "amqp://guest:guest@127.0.0.1:5672", frozenset(), _remove_rabbitmq),
]


def app_of(path: Path) -> str:
    """A name for what a test leaves on a broker, which no other test has, in no other run."""
    return f"t{os.getpid()}_{abs(hash(str(path))):x}"


class Made:
    """The factory that the conformance suite wants, on one broker."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._apps: set[str] = set()

    def __call__(self, path: Path, *, clock: Clock, owner: str) -> Bus:
        app = app_of(path)
        self._apps.add(app)
        return self.engine.maker(app)(path, clock=clock, owner=owner)

    async def clean(self) -> None:
        """Leave nothing behind."""
        await asyncio.gather(*(self.engine.remove(self.engine.url, app) for app in self._apps))
