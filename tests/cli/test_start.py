"""Starting: what is imported, what is said without a command, exit codes of what goes wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from antiphon.cli import main as cli
from antiphon.cli.exits import MEANINGS, Exit
from antiphon.cli.main import COMMANDS, Command, main
from antiphon.version import __version__
from tests.cli.kit import antiphon, order

HEAVY = {"msgspec", "fastapi", "pydantic", "sqlite3", "uvicorn"}
#: How texts and times are written; it imports nothing itself.
WORDS = {"antiphon.policy", "antiphon.policy.words"}
LOOK = "import sys; from antiphon.cli.main import main; code = main({!r}); print(code, *sys.modules, file=sys.stderr)"


@pytest.mark.parametrize(
    ("arguments", "most"),
    [(["--version"], 100), (["--help"], 100), (["run", "--help"], 250), (["dead", "redrive", "--help"], 250)],
)
def test_version_and_help_import_next_to_nothing(arguments: list[str], most: int) -> None:
    """Neither a library nor the store nor an application is imported to say what the command is."""
    done = subprocess.run(
        [sys.executable, "-c", LOOK.format(arguments)], capture_output=True, text=True, check=True, timeout=60
    )
    code, *modules = done.stderr.split()
    assert code == "0"
    assert not HEAVY & set(modules)
    ours = {name for name in modules if name.startswith("antiphon.")} - WORDS
    assert not [name for name in ours if not name.startswith(("antiphon.cli", "antiphon.errors", "antiphon.version"))]
    assert len(modules) <= most


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if not command.delegated])
def test_each_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """``antiphon COMMAND --help`` works for each command that ``antiphon --help`` lists."""
    assert main([name, "--help"]) == 0
    assert COMMANDS[name].summary.lower() in " ".join(capsys.readouterr().out.lower().split())


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    """``antiphon --version`` prints the version that the package has."""
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"antiphon {__version__}\n"


@pytest.mark.parametrize(
    "arguments", [[], ["nothing"], ["status", "--nothing"], ["dead"], ["tail", "--limit", "0"], ["status", "--store="]]
)
def test_wrong_usage_is_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong arguments end with 2 and say what is right, on stderr alone."""
    assert main(arguments) == Exit.USAGE
    said = capsys.readouterr()
    assert "usage: antiphon" in said.err
    assert not said.out


@pytest.mark.parametrize(
    "arguments",
    [["status"], ["tail"], ["trace", "01"], ["dead", "ls"], ["prune", "--older-than", "7d"], ["backup", "b"]],
)
def test_a_missing_data_directory_is_said(
    arguments: list[str], here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a data directory, or with nothing in it, a command ends with 3 and says how to mend that."""
    for data in (tmp_path / "missing", tmp_path):
        assert main([*arguments, "--data", str(data)]) == Exit.STORE
        said = capsys.readouterr()
        assert str(data) in said.err
        assert "antiphon run" in said.err
        assert "Traceback" not in said.err


def test_the_environment_names_the_data_directory(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without --data, $ANTIPHON_DATA decides, and without that ./data."""
    assert main(["status"]) == Exit.STORE
    assert "antiphon: data: " in capsys.readouterr().err
    monkeypatch.setenv("ANTIPHON_DATA", str(tmp_path / "elsewhere"))
    assert main(["status"]) == Exit.STORE
    assert str(tmp_path / "elsewhere") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import there_is_no_such_module\n", "{file}:1: No module named 'there_is_no_such_module'"),
        ("x = 1\nboom = 1 / 0\n", "{file}:2: ZeroDivisionError: division by zero"),
        ("x = (\n", "{file}:1: '(' was never closed"),
        ("app = 42\n", "app is int, not an App"),
        ("other = 42\n", "it has no attribute 'app'"),
        ("from antiphon import Service\n\nService('Not a name')\n", "{file}:3: 'Not a name' cannot name a service"),
        ("raise SystemExit(0)\n", "{file}:1: SystemExit: 0"),
    ],
)
def test_a_broken_application_is_four(
    text: str,
    expected: str,
    tmp_path: Path,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """What is wrong with the application is said with its file and line, and ends with 4."""
    (tmp_path / "broken.py").write_text(text, encoding="utf-8")
    done = antiphon("check", "broken", cwd=tmp_path)
    assert done.returncode == Exit.APPLICATION
    assert expected.format(file=tmp_path / "broken.py") in done.stderr
    assert "Traceback" not in done.stderr


def test_an_application_that_is_not_there_is_four(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A module that cannot be found is no bug of the application; it is said where it was looked for."""
    assert main(["check", "nowhere.to_be:found"]) == Exit.APPLICATION
    assert str(here) in capsys.readouterr().err
    assert main(["check", "not/a/module.py"]) == Exit.USAGE
    assert "module:attribute" in capsys.readouterr().err
    assert main(["check", "orders:nothing"]) == Exit.APPLICATION
    assert "orders:app, orders:apart" in capsys.readouterr().err


def test_debug_shows_the_traceback(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--debug, before or after the command, adds the traceback of an error."""
    for arguments in (["--debug", "check", "nowhere"], ["check", "nowhere", "--debug"]):
        assert main(arguments) == Exit.APPLICATION
        assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_an_unforeseen_error_is_seventy(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A bug ends with 70 and one line, not with a traceback."""
    monkeypatch.setitem(cli.COMMANDS, "demo", Command("", "json:no_such_function", delegated=True))
    assert main(["demo", "--for", "3"]) == Exit.BUG
    said = capsys.readouterr().err
    assert said.startswith("antiphon: AttributeError")
    assert "Traceback" not in said


def test_an_interruption_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends a command with the code of its signal, without a traceback."""

    def interrupted(rest: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(Command, "load", lambda _: interrupted)
    assert main(["bench"]) == Exit.INTERRUPTED


def test_a_delegated_command_gets_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """demo and bench parse their own arguments, and their exit code is the program's."""
    got: list[list[str]] = []

    def bench(rest: list[str]) -> int:
        got.append(rest)
        return Exit.FINDINGS

    monkeypatch.setattr(Command, "load", lambda _: bench)
    assert main(["bench", "--json", "--debug", "chain"]) == Exit.FINDINGS
    assert got == [["--json", "chain"]]


def test_a_reader_that_goes_away_is_no_error(project: Path, tmp_path: Path) -> None:
    """``antiphon ... | head`` ends with 141 and without a word."""
    with subprocess.Popen(
        [sys.executable, "-m", "antiphon", "graph", "orders:app"],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert process.returncode == Exit.BROKEN_PIPE


def test_output_survives_a_poor_terminal(project: Path, tmp_path: Path) -> None:
    """A locale without Unicode gets escapes, not a crash; no colour reaches a pipe."""
    for arguments in (["publish", "orders:app", "Ordered", "--data-json", order("gr\u00f6\u00dfe")], ["tail"]):
        done = subprocess.run(
            [sys.executable, "-m", "antiphon", *arguments],
            cwd=project,
            env={"PYTHONIOENCODING": "ascii", "PATH": "", "ANTIPHON_DATA": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        assert "\033" not in done.stdout
    assert "gr\\xf6\\xdfe" in done.stdout


def test_each_exit_code_is_explained() -> None:
    """The table of exit codes leaves none out."""
    assert set(MEANINGS) == set(Exit)
    assert json.loads(json.dumps(Exit.OK)) == 0
