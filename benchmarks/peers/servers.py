"""The servers that peers need: where they are, whether they answer, how to leave them as they were."""

from __future__ import annotations

import os
import socket
from typing import NamedTuple
from urllib.parse import urlsplit


class Server(NamedTuple):
    """A server: its address, from an environment variable if that is set, and what its processes are called."""

    title: str
    variable: str
    default: str
    process: str

    @property
    def address(self) -> str:
        """Its URL."""
        return os.environ.get(self.variable, self.default)

    def answers(self) -> bool:
        """Whether something listens there."""
        parts = urlsplit(self.address)
        try:
            socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 0), timeout=2).close()
        except OSError:
            return False
        return True


SERVERS = {
    "kafka": Server("Kafka", "PEERS_KAFKA", "kafka://127.0.0.1:9092", "java"),
    "nats": Server("NATS", "PEERS_NATS", "nats://127.0.0.1:4222", "nats-server"),
    "postgres": Server("PostgreSQL", "PEERS_POSTGRES", "postgresql://postgres@127.0.0.1:5432/postgres", "postgres"),
    "rabbitmq": Server("RabbitMQ", "PEERS_RABBITMQ", "amqp://guest:guest@127.0.0.1:5672/", "beam.smp"),
    "redis": Server("Redis", "PEERS_REDIS", "redis://127.0.0.1:6379/0", "redis-server"),
}


def postgres_database(prefix: str) -> str:
    """The address of a database of the benchmark's own."""
    return urlsplit(SERVERS["postgres"].address)._replace(path=f"/{prefix}").geturl()


def drop_postgres(prefix: str) -> None:
    """Drop that database, whoever is connected."""
    _administer(f'DROP DATABASE IF EXISTS "{prefix}" WITH (FORCE)')


def create_postgres(prefix: str) -> None:
    """Make that database anew."""
    drop_postgres(prefix)
    _administer(f'CREATE DATABASE "{prefix}"')


def _administer(statement: str) -> None:
    import psycopg  # type: ignore[import-not-found, unused-ignore]

    with psycopg.connect(SERVERS["postgres"].address, autocommit=True) as connection:
        connection.execute(statement)


def clean_redis(prefix: str) -> None:
    """Delete every key that has the prefix in its name."""
    import redis  # type: ignore[import-not-found, unused-ignore]

    with redis.Redis.from_url(SERVERS["redis"].address) as client:
        for key in client.scan_iter(match=f"*{prefix}*", count=1000):
            client.delete(key)
