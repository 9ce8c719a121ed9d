"""The public names are few, complete, and cost nothing until they are used."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import antiphon

DOCUMENTED = {
    *("App", "Service"),
    *("Event", "event", "upcast", "Envelope"),
    *("Command", "command", "Refused", "TimedOut"),
    *("Transaction", "SyncTransaction", "Delivery", "Effects", "Status"),
    *("Retry", "Rate", "seconds", "minutes", "hours", "days"),
    *("AntiphonError", "InvalidEvent", "Reject"),
    "Look",
    *("Workflow", "Heartbeat", "StateFailed", "StepFailed", "WaitTimedOut", "WorkflowCancelled"),
    "__version__",
}
HEAVY = {"fastapi", "httpx", "pydantic", "rich", "sqlalchemy", "starlette", "uvicorn"}


def imported_by(code: str) -> set[str]:
    """The top-level modules that a new interpreter has imported when *code* has run."""
    report = "import sys; print(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"try:\n    {code}\nexcept SystemExit as end:\n    assert not end.code\n{report}",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in done.stderr.split()}


def test_the_public_names_are_the_documented_ones() -> None:
    """What a user may rely on is a short list, and grows only on purpose."""
    assert set(antiphon.__all__) == DOCUMENTED
    assert len(antiphon.__all__) == len(DOCUMENTED)


@pytest.mark.parametrize("name", sorted(DOCUMENTED))
def test_each_public_name_is_there(name: str) -> None:
    """Every name can be imported, and a shell completes it."""
    assert getattr(antiphon, name) is not None
    assert name in dir(antiphon)


def test_an_unknown_name_is_an_attribute_error() -> None:
    """A misspelt name fails as it would in any module."""
    with pytest.raises(AttributeError, match="Servise"):
        antiphon.Servise  # noqa: B018


def test_type_checkers_see_the_homes_that_python_uses() -> None:
    """The TYPE_CHECKING block and the table of homes say the same."""
    tree = ast.parse(Path(antiphon.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        str(each.module): tuple(alias.name for alias in each.names)
        for each in block.body
        if isinstance(each, ast.ImportFrom)
    }
    assert seen == antiphon._HOMES


def test_importing_antiphon_imports_no_library() -> None:
    """``import antiphon`` is quick, and needs only what its user uses."""
    assert not imported_by("import antiphon") & (HEAVY | {"msgspec"})


def test_declaring_services_needs_no_web_framework() -> None:
    """Events, services and apps are declared without loading gateway, SQLAlchemy or terminal libraries."""
    assert not imported_by("from antiphon import App, Event, Retry, Service, Transaction") & HEAVY


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_version_and_help_answer_at_once(option: str) -> None:
    """``antiphon --version`` and ``--help`` load no library and no application."""
    run = "runpy.run_module('antiphon', run_name='__main__')"
    code = f"import runpy, sys; sys.argv = ['antiphon', {option!r}]; {run}"
    assert not imported_by(code) & (HEAVY | {"msgspec", "examples"})
