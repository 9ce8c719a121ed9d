"""A PostgreSQL for the tests: the one at the standard port of this machine, or at ``$ANTIPHON_TEST_POSTGRES``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path

from antiphon.ports import Clock
from tests.conftest import require

URL = os.environ.get("ANTIPHON_TEST_POSTGRES", "postgresql://postgres@127.0.0.1:5432")
#: Databases of the tests are named so, and a number.
_NAME = "antiphon_test_"


def name_of(path: Path) -> str:
    """A name for a schema that is as unique as *path*."""
    return f"s{blake2b(str(path).encode(), digest_size=10).hexdigest()}"


class Server:
    """The server's clock where time is a test's own: it goes on with the clock that is asked, and never back."""

    def __init__(self) -> None:
        self._clock: Clock | None = None
        self._since_ms = 0
        self._base_ms = 1_767_225_600_000

    def ms(self, clock: Clock) -> Callable[[], int]:
        """What a store asks that has *clock*."""

        def now() -> int:
            if clock is not self._clock:
                if self._clock is not None:
                    self._base_ms += self._clock.boot_ms() - self._since_ms
                self._clock, self._since_ms = clock, clock.boot_ms()
            return self._base_ms + clock.boot_ms() - self._since_ms

        return now


@contextmanager
def database() -> Iterator[str]:
    """The address of a database of one's own, dropped afterwards; skips where there is no server."""
    require("psycopg", find_spec("psycopg") is not None)
    import psycopg

    try:
        server = psycopg.connect(f"{URL}/postgres", autocommit=True, connect_timeout=5)
    except psycopg.OperationalError:
        server = None
    require(f"PostgreSQL at {URL}", server is not None)
    assert server is not None
    name = f"{_NAME}{os.getpid()}_{os.urandom(4).hex()}"
    with server:
        server.execute(f"CREATE DATABASE {name}")
        try:
            yield f"{URL}/{name}"
        finally:
            server.execute(f"DROP DATABASE {name} WITH (FORCE)")
