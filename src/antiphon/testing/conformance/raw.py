"""The plain clients of each protocol, putting bytes where Antiphon's buses read."""

from __future__ import annotations

import asyncio

from antiphon.broker.naming import quoted
from antiphon.testing.conformance.kit import TYPES


async def put_on_nats(url: str, name: str, raw: bytes) -> None:
    """To a subject of the stream, by a plain client."""
    import nats

    client = await nats.connect(url)
    await client.jetstream().publish(f"antiphon.{name}.somebody.anything", raw)
    await client.close()


async def put_on_redis(url: str, name: str, raw: bytes) -> None:
    """To the stream, by a plain client."""
    from redis.asyncio import Redis

    async with Redis.from_url(url) as client:
        await client.xadd(f"antiphon:{{{name}}}:events", {"event": raw})


async def put_on_rabbitmq(url: str, name: str, raw: bytes) -> None:
    """To the exchange, by a plain client."""
    await asyncio.to_thread(_publish, url, f"antiphon.{name}", raw)


def _publish(url: str, exchange: str, raw: bytes) -> None:
    from pika import BlockingConnection, URLParameters

    with BlockingConnection(URLParameters(url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_publish(exchange, quoted(TYPES[0]), raw)
