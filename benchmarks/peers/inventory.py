"""Which libraries and servers are here, and their versions: ``python -m benchmarks.peers.inventory`` prints JSON."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata
from urllib.parse import urlsplit

from benchmarks.peers.catalogue import CATALOGUE
from benchmarks.peers.servers import SERVERS

UNKNOWN = "?"


def libraries() -> dict[str, str]:
    """The versions of the catalogue's libraries that this Python has."""
    found = {}
    for name in sorted({library for entry in CATALOGUE.values() for library in entry.libraries}):
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def servers() -> dict[str, str]:
    """The versions of the servers that answer."""
    return {name: _version(name) for name, server in SERVERS.items() if server.answers()}


def _version(name: str) -> str:
    try:
        return _ASK[name](SERVERS[name].address)
    except (ImportError, OSError):
        return UNKNOWN


def _nats(address: str) -> str:
    """A NATS server introduces itself."""
    return _match(rb'"version":"([^"]+)"', _say(address, b""))


def _redis(address: str) -> str:
    return _match(rb"redis_version:(\S+)", _say(address, b"INFO server\r\n"))


def _rabbitmq(address: str) -> str:
    """The first frame after AMQP's header has the server's properties."""
    return _match(rb"versionS....([\d.]+)", _say(address, b"AMQP\x00\x00\x09\x01"))


def _postgres(address: str) -> str:
    import psycopg  # type: ignore[import-not-found, unused-ignore]

    with psycopg.connect(address) as connection:
        return str(connection.execute("SHOW server_version").fetchone()[0]).split()[0]


def _kafka(address: str) -> str:
    """A Kafka broker says which requests it takes, and not who it is."""
    return UNKNOWN


_ASK: dict[str, Callable[[str], str]] = {
    "kafka": _kafka,
    "nats": _nats,
    "postgres": _postgres,
    "rabbitmq": _rabbitmq,
    "redis": _redis,
}


def _say(address: str, words: bytes) -> bytes:
    parts = urlsplit(address)
    with socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 0), timeout=2) as connection:
        connection.sendall(words)
        return connection.recv(4096)


def _match(pattern: bytes, answer: bytes) -> str:
    found = re.search(pattern, answer, re.DOTALL)
    return found[1].decode() if found else UNKNOWN


if __name__ == "__main__":
    print(json.dumps({"libraries": libraries(), "servers": servers()}))
