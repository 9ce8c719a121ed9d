"""Imports run downward only: the rooms of ``src/antiphon`` and who may know whom."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "antiphon"

# Lowest first. A room imports from lower floors; rooms on the same floor do not know each other.
FLOORS = (
    {"errors", "version"},
    {"model"},
    {"ports"},
    {"wire", "policy"},
    {"store", "broker"},
    {"channel"},
    {"runtime"},
    {"declaring"},
    {"workflow", "replicated"},
    {"service"},
    {"app"},
    {"__init__"},
    {"gateway", "console", "cli", "demo", "deploy", "testing", "sqlalchemy", "bench"},
    {"simulate"},
    {"__main__"},
)
FLOOR = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}
# The command line is where the program is put together: it may know these, when a command needs them.
COMPOSED = {("cli", "gateway"), ("cli", "demo"), ("cli", "bench"), ("cli", "simulate"), ("cli", "deploy")}
# `app.test()` is how an app is tested, and the kit stands above the app: it is imported when it is called.
# The kit in turn sends its requests through the real gateway.
COMPOSED |= {("app", "testing"), ("testing", "gateway")}
# `antiphon conformance` runs a suite of the kit.
COMPOSED |= {("cli", "testing")}
# What they share lies beside them in `store`.
BACKENDS = {"sqlite", "postgres", "mariadb"}
TEST_TOOLS = {"pytest", "hypothesis", "tests"}
# Each is imported by the one part of the kit that is made for it, and by nothing that others import.
TOOL_OF: dict[tuple[str, ...], str] = {("testing", "plugin"): "pytest", ("testing", "strategies"): "hypothesis"}


class Import(NamedTuple):
    """A module, in parts, named by an import statement; *lazy* inside a function, or for type checkers only."""

    line: int
    parts: tuple[str, ...]
    lazy: bool


def imports(tree: ast.AST, package: tuple[str, ...], lazy: bool = False) -> Iterator[Import]:
    """Every import below *tree*, those in functions and under TYPE_CHECKING included."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (Import(node.lineno, tuple(alias.name.split(".")), lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            yield from (Import(node.lineno, (*base, alias.name), lazy) for alias in node.names)
        function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        typing = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        yield from imports(node, package, lazy or function or typing)


def complaint(module: tuple[str, ...], found: Import) -> str | None:
    """Why *module* (below ``antiphon``, in parts) may not import what was *found*; None when it may."""
    if found.parts[0] in TEST_TOOLS:
        if TOOL_OF.get(module) == found.parts[0]:
            return None
        return "production code does not know the test tools"
    if found.parts[0] != "antiphon":
        return None
    mine = module[0]
    # `from antiphon import App` goes through the public names.
    theirs = found.parts[1] if found.parts[1:] and found.parts[1] in FLOOR else "__init__"
    if len({*module[1:2], *found.parts[2:3]} & BACKENDS) > 1:
        return "store backends do not know each other"
    if mine == theirs or FLOOR[theirs] < FLOOR[mine]:
        return None
    if (mine, theirs) in COMPOSED:
        return None if found.lazy else f"{mine} imports this inside the function that needs it"
    return f"{mine} does not know {theirs}"


def complaints(module: tuple[str, ...], text: str) -> list[str]:
    """What is wrong with the imports in the *text* of *module*."""
    package = ("antiphon", *module[:-1])
    found = list(imports(ast.parse(text), package))
    return [
        f"{'/'.join(module)}.py:{each.line} imports {'.'.join(each.parts)}: {why}"
        for each in found
        if (why := complaint(module, each)) is not None
    ]


def modules() -> dict[tuple[str, ...], Path]:
    """Every module of the package, by its path below ``antiphon`` in parts."""
    return {path.relative_to(SOURCE).with_suffix("").parts: path for path in sorted(SOURCE.rglob("*.py"))}


def test_each_room_has_a_floor() -> None:
    """A new room is given its place among the others before anything is put into it."""
    assert {module[0] for module in modules()} <= set(FLOOR)


def test_imports_run_downward_only() -> None:
    """No module imports from a higher floor, from a sibling, or from the test tools."""
    wrong = [
        line for module, path in modules().items() for line in complaints(module, path.read_text(encoding="utf-8"))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("errors", "from antiphon.model import ids"),
        ("model/events", "from antiphon.ports import Clock"),
        ("policy/rate", "import antiphon.wire"),
        ("policy/rate", "from antiphon import wire"),
        ("policy/rate", "from antiphon import App"),
        ("policy/rate", "import antiphon"),
        ("store/__init__", "from ..runtime import clock"),
        ("store/sqlite/unit", "from antiphon.store.postgres import unit"),
        ("store/sqlite/unit", "def f():\n    from antiphon.runtime import clock"),
        ("runtime/worker", "if TYPE_CHECKING:\n    from antiphon.app import App"),
        ("service", "from antiphon.app import App"),
        ("demo/board", "def f():\n    from antiphon.gateway import http"),
        ("cli/main", "from antiphon.gateway import http"),
        ("cli/main", "from antiphon.testing import conformance"),
        ("runtime/worker", "def f():\n    from antiphon.testing import conformance"),
        ("app", "from antiphon.testing.world import World"),
        ("gateway/http", "def f():\n    import antiphon.testing"),
        ("service", "def f():\n    import antiphon.testing"),
        ("testing/store", "import pytest"),
        ("gateway/server", "def f():\n    from antiphon.simulate import world"),
        ("testing/strategies", "import pytest"),
    ],
)
def test_a_forbidden_import_is_seen(module: str, text: str) -> None:
    """Upward, sideways, relative, in a function, under TYPE_CHECKING: each way to break the rule is found."""
    assert complaints(tuple(module.split("/")), text)


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("model/events", "from antiphon.errors import InvalidEvent"),
        ("policy/rate", "from antiphon.policy import words"),
        ("store/sqlite/unit", "from . import queries"),
        ("store/sqlite/unit", "from antiphon.store import migrations"),
        ("cli/main", "def f():\n    from antiphon.gateway import http"),
        ("gateway/http", "import fastapi"),
        ("app", "def f():\n    from antiphon.testing.world import World"),
        ("app", "if TYPE_CHECKING:\n    from antiphon.testing.world import World"),
        ("testing/plugin", "import pytest"),
        ("__main__", "from antiphon.cli.main import main"),
    ],
)
def test_an_allowed_import_is_left_alone(module: str, text: str) -> None:
    """Downward, within a room, and the command line's lazy ones are no complaint."""
    assert not complaints(tuple(module.split("/")), text)
