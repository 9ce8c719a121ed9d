"""The SQLite store and bus keep what the ports promise."""

from pathlib import Path

import pytest

from antiphon.ports import Clock
from antiphon.store.sqlite.bus import SqliteBus
from antiphon.store.sqlite.store import SqliteStore
from antiphon.testing.conformance import BUS_CHECKS, STORE_CHECKS, BusCheck, StoreCheck, read_backlog
from antiphon.testing.conformance.engines import ENGINES
from antiphon.testing.conformance.hostile import HOSTILE_CHECKS
from antiphon.testing.conformance.lines import BUS_LINE_CHECKS
from antiphon.testing.conformance.storelines import STORE_LINE_CHECKS

pytestmark = pytest.mark.anyio


def make_store(path: Path, *, clock: Clock, owner: str) -> SqliteStore:
    """A store on one file."""
    return SqliteStore(path / "store.db", clock=clock, owner=owner)


def make_bus(path: Path, *, clock: Clock, owner: str) -> SqliteBus:
    """A bus on one file."""
    return SqliteBus(path / "bus.db", clock=clock, owner=owner)


@pytest.mark.parametrize("check", STORE_CHECKS, ids=lambda check: check.__name__)
async def test_store(check: StoreCheck, tmp_path: Path) -> None:
    """The promise in the check's own docstring."""
    await check(make_store, tmp_path)


@pytest.mark.parametrize("check", BUS_CHECKS, ids=lambda check: check.__name__)
async def test_bus(check: BusCheck, tmp_path: Path) -> None:
    """The promise in the check's own docstring."""
    await check(make_bus, tmp_path)


@pytest.mark.soak
async def test_a_long_backlog(tmp_path: Path) -> None:
    """A million events are read in pieces of 256."""
    await read_backlog(make_store, tmp_path, 1_000_000)


def test_each_check_of_an_engine_has_a_name_of_its_own() -> None:
    """A failure is found by it; none of a store's is called as one of a bus's."""
    for engine in ENGINES:
        names = [check.name for check in engine.checks("")]
        assert len(set(names)) == len(names)


def test_each_check_states_its_promise() -> None:
    """A check is known by its name, and its docstring says what fails when it does."""
    for checks in (STORE_CHECKS, BUS_CHECKS, BUS_LINE_CHECKS, STORE_LINE_CHECKS, HOSTILE_CHECKS):
        assert all(check.__doc__ for check in checks)
        assert len({getattr(check, "__name__", "") for check in checks}) == len(checks)
