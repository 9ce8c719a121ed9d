"""The PostgreSQL store and bus keep what the ports promise, also while the line to the server breaks."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from antiphon.testing.conformance.engines import Engine
from tests.conformance.kit import check_called, promises
from tests.servers import engine_called
from tests.store.postgres import database

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A database for all of these tests; each has schemas of its own."""
    with database() as found:
        yield found


@pytest.mark.parametrize(("engine", "name"), promises([engine_called("postgres")]))
async def test_postgres(engine: Engine, name: str, url: str, tmp_path: Path) -> None:
    """The promise in the check's own docstring."""
    await check_called(name, engine, url)(tmp_path)
