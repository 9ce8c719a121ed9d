"""What every test file keeps to."""

import ast
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parent
SLEEPS = {("time", "sleep"), ("asyncio", "sleep"), ("anyio", "sleep")}
#: Where what sleeps does so in the virtual time of a simulated world.
SIMULATED = "simulate/"


@cache
def nodes() -> list[tuple[str, ast.AST]]:
    """Every function and call of every test file, with its place."""
    return [
        (f"{path.relative_to(TESTS)}:{node.lineno}", node)
        for path in sorted(TESTS.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Call)
    ]


def sleeps(node: ast.AST) -> bool:
    """Whether *node* waits for real time; a sleep of zero only lets others run."""
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id=module), attr=name), args=[ast.Constant(value=0)]):
            return False
        case ast.Call(func=ast.Attribute(value=ast.Name(id=module), attr=name)):
            return (module, name) in SLEEPS
        case _:
            return False


def test_each_test_states_its_behaviour() -> None:
    """A test's docstring says what it holds, so that a failure is understood without its code."""
    silent = [
        f"{place} {node.name}"
        for place, node in nodes()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]
    assert not silent, "\n".join(silent)


def test_no_test_sleeps() -> None:
    """Tests wait for what they need or move the clock; a sleep is slow on good days, flaky on bad ones."""
    asleep = [place for place, node in nodes() if sleeps(node) and not place.startswith(SIMULATED)]
    assert not asleep, "\n".join(asleep)
