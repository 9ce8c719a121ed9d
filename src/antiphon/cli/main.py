"""The ``antiphon`` command. Only what the command at hand needs is imported."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NamedTuple

from antiphon.cli.exits import Exit, code_of
from antiphon.errors import AntiphonError
from antiphon.version import __version__


class Command(NamedTuple):
    """One command: what it does, and the ``module:function`` that gives its parser what it needs.

    A *delegated* one has a parser of its own: the function takes its arguments and returns the exit code.
    """

    summary: str
    home: str
    delegated: bool = False

    def load(self) -> Callable[..., int | None]:
        """The function."""
        module, _, name = self.home.partition(":")
        function: Callable[..., int | None] = getattr(import_module(module), name)
        return function


COMMANDS = {
    "run": Command("run an application until it is told to stop", "antiphon.cli.run:run"),
    "dev": Command("run an application, again at every change of its code", "antiphon.cli.dev:dev"),
    "demo": Command("show an example system, live, and audit it", "antiphon.cli.demo:run", delegated=True),
    "simulate": Command("search for a seed that breaks a promise", "antiphon.cli.simulate:simulate"),
    "bench": Command("measure this machine", "antiphon.cli.bench:run", delegated=True),
    "conformance": Command("hold stores and buses to what they promise", "antiphon.cli.conformance:conformance"),
    "check": Command("find mistakes in who publishes what to whom", "antiphon.cli.choreography:check"),
    "graph": Command("draw who publishes what to whom", "antiphon.cli.choreography:graph"),
    "publish": Command("publish one event from outside", "antiphon.cli.publish:publish"),
    "status": Command("show handlers: how far, how well, by whom", "antiphon.cli.status:status"),
    "lag": Command("show how much waits, also while nothing runs", "antiphon.cli.lag:lag"),
    "tail": Command("show the newest events, and new ones as they come", "antiphon.cli.tail:tail"),
    "trace": Command("show what an event caused, and what caused it", "antiphon.cli.trace:trace"),
    "dead": Command("look at dead letters, mend them, run them again", "antiphon.cli.dead:dead"),
    "workflow": Command("look at runs of workflows, and act on them", "antiphon.cli.workflow:workflow"),
    "effect": Command("look at calls to the outside, say what became of them", "antiphon.cli.effect:effect"),
    "prune": Command("remove old events that nobody needs", "antiphon.cli.upkeep:prune"),
    "backup": Command("copy the stores while they are in use", "antiphon.cli.upkeep:backup"),
    "deploy": Command("write what a deployment is made of", "antiphon.cli.deploy:deploy"),
    "doctor": Command("look at this machine, the stores' place and the broker", "antiphon.cli.doctor:doctor"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line *argv* (None: the program's own) and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        # Text that the terminal's encoding cannot show must not end the program.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    debug = "--debug" in arguments
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except AntiphonError as error:
        return _say(error, f"antiphon: {error}", code_of(error), debug)
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # What is still buffered has no reader; flushing it at the end of the program would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.BROKEN_PIPE
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _say(error, f"antiphon: {where}{error.strerror or error}.", Exit.REFUSED, debug)
    except Exception as error:  # noqa: BLE001  the last place that can put it in words
        hint = "Please report it, with what `--debug` shows."
        return _say(error, f"antiphon: {type(error).__name__}: {error}\n{hint}", Exit.BUG, debug)
    return code


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """The parser of the whole command line, of which the command *only* (None: all) knows its arguments."""
    parser = argparse.ArgumentParser(
        prog="antiphon",
        description="Event-driven microservices that lose nothing.",
        epilog="antiphon COMMAND --help says more. Data goes to stdout, all else to stderr.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"antiphon {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    for name, command in COMMANDS.items():
        one = commands.add_parser(
            name,
            help=command.summary,
            description=f"{command.summary[0].upper()}{command.summary[1:]}.",
            allow_abbrev=False,
            add_help=not command.delegated,
        )
        if command.delegated:
            continue
        one.add_argument("--debug", action="store_true", help=argparse.SUPPRESS, default=argparse.SUPPRESS)
        if only in (None, name):
            command.load()(one)
    return parser


def _run(arguments: list[str]) -> int:
    named = next((each for each in arguments if not each.startswith("-")), None)
    command = COMMANDS.get(named or "")
    try:
        if named is not None and command is not None and command.delegated:
            rest = arguments[arguments.index(named) + 1 :]
            return int(command.load()([each for each in rest if each != "--debug"]) or 0)
        options = build_parser(named or "").parse_args(arguments)
        options.arguments = arguments
        return int(options.run(options))
    except SystemExit as end:  # argparse: 2 after wrong arguments, 0 after --help
        return end.code if isinstance(end.code, int) else Exit.OK


def _say(error: Exception, text: str, code: Exit, debug: bool) -> Exit:
    if debug:
        traceback.print_exception(error)
    print(text, file=sys.stderr)
    return code
