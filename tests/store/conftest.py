"""Stores on a database server: each test that asks for one is run on all servers, where its file names none."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from antiphon.store.base import SqlStore
from tests.store.mariadb import on_mariadb
from tests.store.postgres import on_postgres
from tests.store.served import NOTES, Make, Served


@pytest.fixture(scope="module", params=[on_postgres, on_mariadb], ids=["postgres", "mariadb"])
def server(request: pytest.FixtureRequest) -> Iterator[Served]:
    """A server for all tests of a file; each has a schema or a database of its own there."""
    there: AbstractContextManager[Served] = request.param()
    with there as found:
        yield found


@pytest.fixture
def make(server: Served, tmp_path: Path) -> Make:
    """Makes stores on the test's own place, not open yet."""

    def store(owner: str = "one", **options: Any) -> SqlStore:
        return server.make(tmp_path, owner, **options)

    return store


@pytest.fixture
async def store(make: Make) -> AsyncIterator[SqlStore]:
    """An open store with a table of the service's."""
    found = make(tables={"svc": NOTES})
    await found.open()
    yield found
    await found.close()
