"""``antiphon conformance``: the conformance suite, against the engines that are here."""

from __future__ import annotations

import argparse
import asyncio
import logging

from antiphon.cli import arguments, output
from antiphon.cli.exits import Exit


def conformance(parser: argparse.ArgumentParser) -> None:
    """Give *parser* the arguments of ``conformance``."""
    parser.add_argument(
        "--engine",
        metavar="NAME[=URL]",
        action="append",
        default=[],
        help="this one, at its standard port of this machine or at URL (default: all; where "
        "nobody listens at the standard port, a server is started if its program is here, otherwise it is skipped)",
    )
    parser.add_argument(
        "--backlog",
        metavar="N",
        type=int,
        default=100_000,
        help="of how many events a long backlog is (100,000)",
    )
    arguments.add_json(parser, "one JSON object as the last line of stdout")
    parser.epilog = "Exit code 1 if a check fails. What it makes on a server has a name of its own, and is removed."
    parser.set_defaults(run=_conformance)


def _conformance(options: argparse.Namespace) -> int:
    from antiphon.testing.conformance.engines import engines_named
    from antiphon.testing.conformance.running import run

    # The suite breaks connections on purpose: what their clients have to say of it is no finding.
    logging.getLogger("antiphon").setLevel(logging.CRITICAL)
    tallies = {}
    for engine in engines_named(options.engine):
        output.say(f"{engine.name} ...")
        tallies[engine.name] = asyncio.run(run(engine, _tell, options.backlog))
    if options.json:
        output.emit(tallies)
    else:
        rows = [(name, each.passed, each.failed, each.skipped) for name, each in tallies.items()]
        output.table(("ENGINE", "PASSED", "FAILED", "SKIPPED"), rows)
    return Exit.FINDINGS if any(each.failed for each in tallies.values()) else Exit.OK


def _tell(check: str, why: str) -> None:
    output.say(f"  {check}: {why}")
