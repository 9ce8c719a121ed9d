"""``antiphon simulate``: run an application in virtual time, with everything that can go wrong, from seeds."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from antiphon.cli.arguments import add_app, add_json, names, positive, span
from antiphon.cli.exits import CommandError, Exit
from antiphon.cli.loading import load
from antiphon.cli.output import emit, say

#: The kinds of fault that can be named. `crash` is also a power loss and a process that is stopped for a while.
FAULTS = ("crash", "drop", "duplicate", "reorder", "delay", "partition", "disk", "clock")
_SEEDS = 100
_EVENTS = 20
_SAY_EVERY_S = 10.0


def simulate(parser: argparse.ArgumentParser) -> None:
    """Declare the command."""
    add_app(parser)
    parser.add_argument("--seeds", metavar="N", type=positive, help=f"how many seeds (default {_SEEDS}; 1 with --seed)")
    parser.add_argument("--seed", metavar="S", type=int, help="the first seed (default 0)")
    parser.add_argument(
        "--events", metavar="N", type=positive, default=_EVENTS, help=f"what comes into a world (default {_EVENTS})"
    )
    parser.add_argument(
        "--faults",
        metavar="LIST",
        type=_faults,
        default=FAULTS,
        help=f"what may go wrong: all (the default), none, or some of {','.join(FAULTS)}",
    )
    parser.add_argument("--schedule", metavar="TEXT", help="exactly these faults, as a violation's report says them")
    parser.add_argument(
        "--exhaustive",
        action="store_true",
        help="kill the world of each seed (default: one) at each of its effect points",
    )
    cores = os.cpu_count() or 1
    parser.add_argument(
        "--workers", metavar="N", type=positive, default=cores, help="processes at work (default: one a core)"
    )
    parser.add_argument("--within", metavar="SPAN", type=span, help="begin no more seeds after this long, such as 30m")
    add_json(parser, "one JSON object as the last line of stdout")
    parser.set_defaults(run=_run)


def _faults(text: str) -> tuple[str, ...]:
    if text in ("all", "none"):
        return FAULTS if text == "all" else ()
    chosen = tuple(names(text))
    if unknown := [each for each in chosen if each not in FAULTS]:
        raise argparse.ArgumentTypeError(f"no fault {', '.join(unknown)}; there are {', '.join(FAULTS)}, all and none")
    return chosen


def _run(options: argparse.Namespace) -> int:
    from antiphon.simulate.faults import Schedule
    from antiphon.simulate.report import as_json, as_text
    from antiphon.simulate.traffic import sources

    if options.schedule is not None and (options.exhaustive or (options.seeds or 1) > 1):
        raise CommandError("a schedule is for one seed", code=Exit.USAGE, mend="Name it: --seed S --schedule TEXT")
    app = load(options.app)
    sources(app)  # what is wrong with the app is said here, and once
    places = {handler.name: handler.source for spec in app.specs for handler in spec.handlers}
    if options.schedule:
        Schedule.parse(options.schedule)
    outcome = asyncio.run(_search(options, places))
    for line in as_text(options.app, outcome):
        if options.json:
            say(line)
        else:
            print(line, flush=True)
    if options.json:
        emit(as_json(options.app, outcome))
    return Exit.FINDINGS if outcome.violating else Exit.OK


async def _search(options: argparse.Namespace, places: Mapping[str, str]) -> Any:
    from antiphon.simulate.interpreters import interpreters
    from antiphon.simulate.search import Search
    from antiphon.simulate.worker import Job

    schedule = "" if options.faults == () else options.schedule
    alone = options.seed is not None or options.schedule is not None or options.exhaustive
    first, count = options.seed or 0, options.seeds or (1 if alone else _SEEDS)
    jobs = (Job(seed, options.events, options.faults, schedule) for seed in range(first, first + count))
    async with interpreters(options.app, options.workers) as runner:
        search = Search(runner, until=_over(options.within), tell=_teller(), places=places)
        return await (search.exhaustive(list(jobs)) if options.exhaustive else search.seeds(jobs))


def _over(within: timedelta | None) -> Callable[[], bool]:
    """Tells whether it is time to stop."""
    now = asyncio.get_running_loop().time
    deadline = now() + within.total_seconds() if within else float("inf")
    return lambda: now() > deadline


def _teller() -> Callable[[int, int], None]:
    """Says on stderr now and then how far the search is."""
    now = asyncio.get_running_loop().time
    said = now()

    def tell(done: int, found: int) -> None:
        nonlocal said
        if now() - said >= _SAY_EVERY_S:
            said = now()
            say(f"{done:,} done, {found:,} with violations")

    return tell
