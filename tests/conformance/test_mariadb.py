"""The MariaDB store and bus keep what the ports promise."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from antiphon.ports import Bus, Clock, Store
from antiphon.testing.clock import ServerTime
from antiphon.testing.conformance import BUS_CHECKS, STORE_CHECKS, BusCheck, MakeBus, MakeStore, StoreCheck
from tests.store.mariadb import databases
from tests.store.postgres import name_of

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """An address for all of these tests; each has databases of its own there."""
    with databases() as found:
        yield found


@pytest.fixture
def make_store(url: str) -> MakeStore:
    """A store on a database of the path's name."""
    from antiphon.store.mariadb.connection import address
    from antiphon.store.mariadb.store import MariaStore

    servers: dict[Path, ServerTime] = defaultdict(ServerTime)

    def make(path: Path, *, clock: Clock, owner: str) -> Store:
        where = address(url, name_of(path))
        return MariaStore(where, clock=clock, owner=owner, server_ms=servers[path].ms(clock))

    return make


@pytest.fixture
def make_bus(url: str) -> MakeBus:
    """A bus on a database of the path's name."""
    from antiphon.store.mariadb.bus import MariaBus
    from antiphon.store.mariadb.connection import address

    def make(path: Path, *, clock: Clock, owner: str) -> Bus:
        return MariaBus(address(url, name_of(path)), clock=clock, owner=owner)

    return make


@pytest.mark.parametrize("check", STORE_CHECKS, ids=lambda check: check.__name__)
async def test_store(check: StoreCheck, make_store: MakeStore, tmp_path: Path) -> None:
    """The promise in the check's own docstring."""
    await check(make_store, tmp_path)


@pytest.mark.parametrize("check", BUS_CHECKS, ids=lambda check: check.__name__)
async def test_bus(check: BusCheck, make_bus: MakeBus, tmp_path: Path) -> None:
    """The promise in the check's own docstring."""
    await check(make_bus, tmp_path)
