"""The pytest plugin, and tests that run without an async runner, in pytest sessions of their own."""

from __future__ import annotations

import asyncio
import inspect
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from antiphon.errors import DeclarationError
from antiphon.testing import World, in_world
from tests.testing.shop import OrderPaid, OrderPlaced, Shop

ROOT = Path(__file__).parents[2]
HEAVY = {"antiphon.app", "antiphon.testing.world", "fastapi", "httpx", "hypothesis", "msgspec", "sqlite3"}
# Loaded by its entry point where this version is installed, else by its module.
PLUGIN = "antiphon" if entry_points(group="pytest11", name="antiphon") else "antiphon.testing.plugin"

HEAD = """
import pytest
from antiphon import hours
from antiphon.testing import in_world
from tests.testing.shop import OrderPaid, OrderPlaced, Shop
"""


def session(folder: Path, tests: str, *options: str) -> tuple[int, str]:
    """The exit code and the output of pytest on a file of *tests*."""
    (folder / "test_it.py").write_text(HEAD + tests, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-p", PLUGIN, "-p", "no:cacheprovider", "-W", "error", *options, "."]
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    # Under CI pytest says a failure's whole text twice.
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "BUILD_NUMBER")}
    variables = {**kept, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def test_an_async_test_runs_without_a_plugin_for_it(tmp_path: Path) -> None:
    """``in_world`` gives the world, leaves fixtures and parameters, and needs neither pytest-asyncio nor anyio."""
    code, output = session(
        tmp_path,
        """
@pytest.mark.parametrize("cents", [1, 2])
@in_world(lambda: Shop().app, seed=3)
async def test_paid(cents, world, tmp_path):
    assert tmp_path.is_dir()
    await world.publish(OrderPlaced("o-1", cents))
    await world.advance(hours(1))
    assert world.assert_published(OrderPaid) == [OrderPaid("o-1", cents)]

@in_world(lambda: Shop().app)
async def test_wrong(world):
    await world.publish(OrderPlaced("o-1"))
    await world.settle()
    assert 1 == 2
""",
        "-p",
        "no:anyio",
    )
    assert code == 1
    assert "1 failed, 2 passed" in output
    assert output.count("OrderPaid [o-1] by payment") == 1


def test_the_report_of_a_failure_has_the_timeline(tmp_path: Path) -> None:
    """A world that a fixture has made is told of in a section; a claim of the world's own tells it once."""
    code, output = session(
        tmp_path,
        """
pytestmark = pytest.mark.anyio

@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.fixture
async def world():
    async with Shop().app.test() as world:
        await world.publish(OrderPlaced("o-1"))
        await world.settle()
        yield world

async def test_plain(world):
    assert world is None

async def test_claim(world):
    world.assert_not_published(OrderPaid)

async def test_fine(world):
    world.assert_published(OrderPaid)
""",
        "-rN",
        "--tb=short",
    )
    assert code == 1
    assert "2 failed, 1 passed" in output
    plain, claim = output.split("test_claim", 1)
    assert plain.count("antiphon timeline") == plain.count("OrderPaid [o-1] by payment") == 1
    assert "antiphon timeline" not in claim
    assert claim.count("OrderPaid [o-1] by payment") == 1


def test_the_databases_of_a_failed_test_can_be_looked_into(tmp_path: Path) -> None:
    """``antiphon_world`` puts them into pytest's own directory, a folder for each world."""
    code, output = session(
        tmp_path,
        """
import asyncio

def test_two(antiphon_world, tmp_path):
    async def run():
        for number in (1, 2):
            async with antiphon_world(Shop().app, seed=number) as world:
                assert world.data == tmp_path / f"shop-{number}"
    asyncio.run(run())
    assert (tmp_path / "shop-1" / "payment.db").exists()
""",
    )
    assert (code, "1 passed" in output) == (0, True), output


def test_who_does_not_use_it_does_not_notice(tmp_path: Path) -> None:
    """Loading the plugin imports pytest and names; sections and fixtures cost nothing to other tests."""
    code, output = session(tmp_path, "")
    assert code == 5, output
    (tmp_path / "test_it.py").unlink()
    look = "import sys, pytest; import antiphon.testing.plugin; print(*sys.modules)"
    variables = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", look], env=variables, capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())


def test_in_world_is_a_plain_function() -> None:
    """Any runner can call it; it keeps name, docstring and all parameters but the world."""
    seen = []

    @in_world(Shop().app)
    async def test_paid(cents: int, world: World) -> None:
        """Paid."""
        await world.publish(OrderPlaced("o-1", cents))
        await world.settle()
        seen.extend(world.assert_published(OrderPaid))

    assert not inspect.iscoroutinefunction(test_paid)
    assert (test_paid.__name__, test_paid.__doc__) == ("test_paid", "Paid.")
    assert list(inspect.signature(test_paid).parameters) == ["cents"]
    test_paid(7)
    assert seen == [OrderPaid("o-1", 7)]


def test_in_world_takes_what_is_given_by_position() -> None:
    """The world may be anywhere among the parameters; those before and after it come as they are given."""
    seen: list[tuple[str, World, int]] = []

    @in_world(Shop().app)
    async def test_it(name: str, world: World, cents: int) -> None:
        """Note what it is given."""
        seen.append((name, world, cents))

    test_it("a", 1)
    test_it("b", cents=2)
    test_it(name="c", cents=3)
    assert [(name, cents) for name, _, cents in seen] == [("a", 1), ("b", 2), ("c", 3)]
    assert all(isinstance(world, World) for _, world, _ in seen)


def test_in_world_refuses_what_it_cannot_run() -> None:
    """A plain function, or one that takes no world, is refused where it is declared."""

    async def no_world() -> None:
        """Take nothing."""

    def no_coroutine(world: World) -> None:
        """Await nothing."""

    wrongs: list[Any] = [no_world, no_coroutine]
    for wrong in wrongs:
        with pytest.raises(DeclarationError, match="async def that takes a world"):
            in_world(Shop().app)(wrong)


def test_it_works_under_plain_asyncio() -> None:
    """Nothing but an event loop is needed."""

    async def main() -> None:
        shop = Shop()
        async with shop.app.test() as world:
            await world.publish(OrderPlaced("o-1"))
            await world.settle()
            world.assert_published(OrderPaid)

    asyncio.run(main())
