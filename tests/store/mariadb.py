"""A MariaDB for the tests: at ``$ANTIPHON_TEST_MARIADB``, at its standard port, or one of their own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from antiphon.errors import StoreError
from tests.conftest import require
from tests.servers import engine_called, url_of

MARIADB = engine_called("mariadb")
#: Databases of the tests are named so, and a number.
_NAME = "antiphon_test_"


async def asked(url: str, *statements: str) -> Sequence[tuple[Any, ...]]:
    """What the last of some statements finds, on a connection of its own to the server at *url*. Raises StoreError."""
    from antiphon.store.mariadb.connection import address, connect

    session = await connect(address(url, "bus"), database=False)
    try:
        found: Sequence[tuple[Any, ...]] = ()
        for statement in statements:
            found = await session.ask(statement)
        return found
    finally:
        await session.close()


@contextmanager
def databases() -> Iterator[str]:
    """An address for databases of one's own, dropped afterwards; skips where there is no server."""
    require("asyncmy", find_spec("asyncmy") is not None)
    server = os.environ.get("ANTIPHON_TEST_MARIADB") or asyncio.run(url_of(MARIADB))
    url = f"{server.rstrip('/')}/{_NAME}{os.getpid()}_{os.urandom(4).hex()}"
    try:
        asyncio.run(asked(url, "SELECT 1"))
        found = True
    except StoreError:
        found = False
    require("MariaDB", found)
    try:
        yield url
    finally:
        asyncio.run(dropped(url))


async def dropped(url: str) -> None:
    """Drop what is at *url*."""
    from antiphon.store.mariadb.connection import prefix_of

    names = await asked(
        url,
        "SELECT schema_name FROM information_schema.schemata"
        f" WHERE left(schema_name, {len(prefix_of(url))}) = '{prefix_of(url)}'",
    )
    if names:
        await asked(url, *(f'DROP DATABASE "{name}"' for (name,) in names))
