"""The reference page of the command line, made from the parsers and from the table of exit codes.

``python -m antiphon.cli.reference`` prints it; a test holds docs/reference/cli.md to it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from antiphon.cli import bench, demo
from antiphon.cli.exits import MEANINGS
from antiphon.cli.main import COMMANDS, build_parser

#: Commands with a parser of their own.
_DELEGATED = {"bench": bench.parser, "demo": demo.parser}

_INTRODUCTION = """\
# The command line

`antiphon COMMAND --help` shows the same for one command. Data goes to stdout, everything else to stderr, so that a
pipe gets the data alone; `--json` prints it for programs. An error says what went wrong, where, why, and how to mend
it; `--debug` adds the traceback. Colours are used on a terminal only, and never with `NO_COLOR` set.

APP is `module:attribute` (`examples.flight_booking:app`), looked for in the current directory too. `--data` names the
data directory: one file for the whole application, or, for an application with `own_stores=True`, one for each
service and one for the bus. Beside each file lies a folder `<file>-host` with what its processes share on this
machine. Only SQLite may open the database files; `antiphon backup` copies them.
"""


def page() -> str:
    """The text of docs/reference/cli.md."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield _INTRODUCTION
    yield "## Exit codes\n\n| Code | Meaning |\n|---|---|"
    yield from (f"| {code:d} | {meaning} |" for code, meaning in MEANINGS.items())
    parsers = _subparsers(build_parser())
    for name in COMMANDS:
        yield f"\n## antiphon {name}"
        yield from _command(_DELEGATED[name]() if name in _DELEGATED else parsers[name])


def _command(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield f"\n{parser.description}"
    subparsers = _subparsers(parser)
    if not subparsers:
        yield f"\n    {_usage(parser)}\n"
        yield from _arguments(parser)
        if parser.epilog:
            yield f"\n{parser.epilog}"
    for name, one in subparsers.items():
        yield f"\n### {parser.prog} {name}"
        yield from _command(one)


def _arguments(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield "| Argument | Meaning |\n|---|---|"
    for action in parser._actions:
        if action.help is argparse.SUPPRESS or isinstance(action, argparse._HelpAction):
            continue
        name = ", ".join(f"`{option}`" for option in action.option_strings) or f"`{action.metavar}`"
        value = f" {_value(action)}" if action.option_strings and action.nargs != 0 else ""
        text = (action.help or "").replace("%%", "%").replace("|", "\\|")
        yield f"| {name}{value} | {text} |"


def _value(action: argparse.Action) -> str:
    if action.choices is not None:
        return " or ".join(map(str, action.choices))
    return str(action.metavar or action.dest.upper())


def _usage(parser: argparse.ArgumentParser) -> str:
    # argparse's own usage depends on its version and on the width of the terminal.
    names = [
        f"[{each.metavar}]" if each.nargs == "?" else str(each.metavar) for each in parser._get_positional_actions()
    ]
    return " ".join([parser.prog, *names, "[OPTIONS]"])


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


if __name__ == "__main__":
    print(page(), end="")
