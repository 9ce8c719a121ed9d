"""``antiphon lag``: how much waits to be done, by service; for whatever starts and stops processes."""

from __future__ import annotations

import argparse
import asyncio
from collections import Counter
from typing import TYPE_CHECKING

from antiphon.cli import arguments, output
from antiphon.cli.exits import CommandError, Exit
from antiphon.cli.loading import load
from antiphon.cli.stores import open_stores

if TYPE_CHECKING:
    from antiphon.app import App

_WAITING = "SELECT SERVICE, sum(WAITING) FROM antiphon_lag GROUP BY SERVICE"


def lag(parser: argparse.ArgumentParser) -> None:
    """Give *parser* the arguments of ``lag``."""
    arguments.add_app(parser, optional=True)
    arguments.add_stores(parser)
    parser.add_argument("--services", metavar="A,B", type=arguments.names, help="of these only")
    arguments.add_json(parser, "one JSON object: waiting, and services with what waits for each")
    parser.epilog = (
        "Events that are not handled yet, deliveries and timers whose time has come, what is not sent to the bus yet. "
        "It asks the stores, so it needs no process that runs. With APP, only the stores of that application."
    )
    parser.set_defaults(run=_lag)


def _lag(options: argparse.Namespace) -> int:
    return asyncio.run(_show(options))


async def _show(options: argparse.Namespace) -> int:
    app: App | None = load(options.app) if options.app else None
    waiting: Counter[str] = Counter(dict.fromkeys(app.services if app is not None else (), 0))
    async with open_stores(options.data, app, options.store) as desks:
        for desk in desks:
            for service, count in await desk.store.fetch_all(_WAITING):
                waiting[service] += int(count)
    if unknown := sorted(set(options.services or ()) - set(waiting)):
        raise CommandError(
            f"no service {', '.join(unknown)}", code=Exit.FINDINGS, mend=f"There are: {', '.join(sorted(waiting))}"
        )
    found = {name: waiting[name] for name in sorted(waiting) if options.services is None or name in options.services}
    if options.json:
        output.emit({"waiting": sum(found.values()), "services": found})
    else:
        output.table(("SERVICE", "WAITING"), found.items())
    return Exit.OK
