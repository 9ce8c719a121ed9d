"""``antiphon trace``: from any event, what caused it, what it caused, every attempt, and why it ended so."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING

from antiphon.cli import arguments, output
from antiphon.cli.exits import Exit
from antiphon.cli.stores import open_stores
from antiphon.policy.words import moment

if TYPE_CHECKING:
    from antiphon.model.views import Trace


def trace(parser: argparse.ArgumentParser) -> None:
    """Give *parser* the arguments of ``trace``."""
    parser.add_argument("id", metavar="ID", help="the id of an event, or the beginning of one")
    arguments.add_stores(parser)
    arguments.add_json(parser)
    parser.set_defaults(run=_trace)


def _trace(options: argparse.Namespace) -> int:
    found = asyncio.run(_read(options))
    if options.json:
        output.emit(found)
    else:
        _print(found)
    return Exit.OK


async def _read(options: argparse.Namespace) -> Trace:
    from antiphon.store.desk import trace as trace_over

    async with open_stores(options.data, store=options.store) as desks:
        return await trace_over(desks, options.id)


def _print(found: Trace) -> None:
    from antiphon.policy.timeline import began_ms, saga_lines, trace_lines

    start_ms = began_ms(found)
    print(f"correlation {found.correlation_id}, began {moment(start_ms)}")
    for line in trace_lines(found, start_ms):
        print(line)
    if found.saga is not None and len(found.saga.steps) > 1:
        for line in saga_lines(found.saga):
            print(line)
    if found.truncated:
        output.say("there are more events than are shown")
