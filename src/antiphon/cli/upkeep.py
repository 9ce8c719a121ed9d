"""``antiphon prune`` and ``antiphon backup``: upkeep of the stores, whether an application runs or not."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from antiphon.cli import arguments, output
from antiphon.cli.exits import CommandError, Exit
from antiphon.cli.stores import open_stores
from antiphon.errors import NotFound

if TYPE_CHECKING:
    from antiphon.model.views import BackupReport, Forgotten
    from antiphon.store.desk import Desk


def prune(parser: argparse.ArgumentParser) -> None:
    """Give *parser* the arguments of ``prune``."""
    arguments.add_stores(parser)
    parser.add_argument(
        "--older-than", metavar="SPAN", type=arguments.span, help="remove events older than this, such as 7d"
    )
    parser.add_argument(
        "--forget",
        metavar="HANDLER",
        action="append",
        default=[],
        help="first forget a handler that the code no longer has, so that nothing is kept for it (again for more)",
    )
    arguments.add_json(parser)
    parser.epilog = "Kept is what a handler has not handled, what has not been sent on, and every open dead letter."
    parser.set_defaults(run=_prune)


def backup(parser: argparse.ArgumentParser) -> None:
    """Give *parser* the arguments of ``backup``."""
    parser.add_argument("dest", metavar="DEST", type=Path, help="a new directory")
    arguments.add_data(parser)
    arguments.add_json(parser)
    parser.epilog = "All stores are copied as they are at one moment, while they are in use, and each copy is checked."
    parser.set_defaults(run=_backup)


def _prune(options: argparse.Namespace) -> int:
    if options.older_than is None and not options.forget:
        raise CommandError("nothing is to be done", code=Exit.USAGE, mend="Give --older-than 7d, --forget HANDLER")
    return asyncio.run(_prune_all(options))


async def _prune_all(options: argparse.Namespace) -> int:
    from antiphon.model.retry import milliseconds

    async with open_stores(options.data, store=options.store) as desks:
        forgotten = [await _forget(desks, handler) for handler in options.forget]
        for one in forgotten:
            output.say(f"forgot {one.handler}: unhandled {one.unhandled}, open {one.open}, dead letters {one.dead}")
        removed: dict[str, int] = {}
        if options.older_than is not None:
            before_ms = desks[0].store.clock.now_ms() - milliseconds(options.older_than)
            removed = {desk.name: (await desk.prune(before_ms)).events for desk in desks}
    if options.json:
        output.emit({"removed": removed, "forgotten": forgotten})
    elif removed:
        output.table(("STORE", "REMOVED"), removed.items())
    return Exit.OK


async def _forget(desks: list[Desk], handler: str) -> Forgotten:
    for desk in desks:
        try:
            return await desk.forget(handler)
        except NotFound as error:
            missing = error
    raise missing


def _backup(options: argparse.Namespace) -> int:
    reports = asyncio.run(_backup_all(options.data, options.dest))
    if options.json:
        output.emit({"copies": reports})
    else:
        output.table(
            ("COPY", "EVENTS", "HANDLERS", "STATE"),
            [(each.path, each.events, each.handlers, "; ".join(each.problems) or "sound") for each in reports],
        )
    return Exit.OK if all(each.sound for each in reports) else Exit.FINDINGS


async def _backup_all(data: Path, target: Path) -> list[BackupReport]:
    from antiphon.store.sqlite.desks import backup_all

    async with open_stores(data) as desks:
        _make_directory(target)
        return await backup_all(desks, target)


def _make_directory(target: Path) -> None:
    try:
        target.mkdir(parents=True)
    except FileExistsError:
        raise CommandError(
            "it exists already", code=Exit.REFUSED, where=str(target), mend="A backup needs a new directory"
        ) from None
