"""A PostgreSQL for the tests: at ``$ANTIPHON_TEST_POSTGRES``, at its standard port, or one of their own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path

from tests.conftest import require
from tests.servers import engine_called, url_of

POSTGRES = engine_called("postgres")
#: Databases of the tests are named so, and a number.
_NAME = "antiphon_test_"


def name_of(path: Path) -> str:
    """A name for a schema that is as unique as *path*."""
    return f"s{blake2b(str(path).encode(), digest_size=10).hexdigest()}"


@contextmanager
def database() -> Iterator[str]:
    """The address of a database of one's own, dropped afterwards; skips where there is no server."""
    require("psycopg", find_spec("psycopg") is not None)
    import psycopg

    url = (os.environ.get("ANTIPHON_TEST_POSTGRES") or asyncio.run(url_of(POSTGRES))).removesuffix("/postgres")
    try:
        server = psycopg.connect(f"{url}/postgres", autocommit=True, connect_timeout=5)
    except psycopg.OperationalError:
        server = None
    require(f"PostgreSQL at {url}", server is not None)
    assert server is not None
    name = f"{_NAME}{os.getpid()}_{os.urandom(4).hex()}"
    with server:
        server.execute(f"CREATE DATABASE {name}")
        try:
            yield f"{url}/{name}"
        finally:
            server.execute(f"DROP DATABASE {name} WITH (FORCE)")
