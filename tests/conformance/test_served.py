"""The stores and buses on a database server keep what the ports promise, PostgreSQL's also while the line breaks."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from antiphon.testing.conformance.engines import Engine
from tests.conformance.kit import check_called, promises
from tests.servers import engine_called
from tests.store.mariadb import databases
from tests.store.postgres import database

pytestmark = pytest.mark.anyio


@contextmanager
def server() -> Iterator[str]:
    """MariaDB's server: the checks name their databases themselves, and drop them."""
    with databases() as url:
        yield url.rpartition("/")[0]


PLACES = {"postgres": database, "mariadb": server}


@pytest.fixture(scope="module")
def place(request: pytest.FixtureRequest) -> Iterator[tuple[Engine, str]]:
    """An engine, and an address there for all of its checks; each has schemas or databases of its own."""
    with PLACES[request.param.name]() as url:
        yield request.param, url


@pytest.mark.parametrize(("place", "name"), promises(map(engine_called, PLACES)), indirect=["place"])
async def test_served(place: tuple[Engine, str], name: str, tmp_path: Path) -> None:
    """The promise in the check's own docstring."""
    engine, url = place
    await check_called(name, engine, url)(tmp_path)
