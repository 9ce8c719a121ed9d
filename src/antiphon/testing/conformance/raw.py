"""The plain clients of each protocol, putting bytes where Antiphon's buses read."""

from __future__ import annotations

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
    import aiormq

    connection = await aiormq.connect(url)
    channel = await connection.channel(publisher_confirms=True)
    await channel.basic_publish(raw, exchange=f"antiphon.{name}", routing_key=quoted(TYPES[0]))
    await connection.close()
