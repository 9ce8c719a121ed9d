"""``antiphon status``: every handler of every store, how far, how well, by whom."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from typing import TYPE_CHECKING

from antiphon.cli import arguments, output
from antiphon.cli.exits import Exit
from antiphon.cli.loading import load
from antiphon.cli.stores import open_stores
from antiphon.policy import words

if TYPE_CHECKING:
    from antiphon.model.views import HandlerStatus
    from antiphon.store.desk import Desk

_WATCH_EVERY_S = 2.0
# It stands for what came from outside and could not be read; there is nothing that runs.
_UNREAD = ".inlet"
_HEADS = ("HANDLER", "STATE", "LAG", "IN_PROGRESS", "RETRY", "PARKED", "DEAD", "HANDLED", "FAILED", "OLDEST", "OWNER")


def status(parser: argparse.ArgumentParser) -> None:
    """Give *parser* the arguments of ``status``."""
    arguments.add_app(parser, optional=True)
    arguments.add_stores(parser)
    parser.add_argument("--watch", action="store_true", help="show it again every two seconds, until Ctrl-C")
    arguments.add_json(parser, "one JSON object (with --watch one a line)")
    parser.epilog = (
        "LAG: events after the handler's cursor. PARKED: wait behind an earlier event of their key. FAILED: "
        "invocations that raised, so far. SERVICE.inlet is no handler: its dead letters came from outside and could "
        "not be read. With APP, only the stores of that application."
    )
    parser.set_defaults(run=_status)


def _status(options: argparse.Namespace) -> int:
    try:
        asyncio.run(_show(options))
    except KeyboardInterrupt:
        if not options.watch:
            raise
    return Exit.OK


async def _show(options: argparse.Namespace) -> None:
    async with open_stores(options.data, load(options.app) if options.app else None, options.store) as desks:
        await _show_once(desks, options.json)
        while options.watch:
            await desks[0].store.clock.sleep(_WATCH_EVERY_S)
            if not options.json:
                # A terminal is cleared; elsewhere an empty line parts one table from the next.
                print("\033[2J\033[H" if sys.stdout.isatty() and os.environ.get("TERM") != "dumb" else "")
            await _show_once(desks, options.json)


async def _show_once(desks: list[Desk], as_json: bool) -> None:
    found = [(desk, await desk.status(), await desk.positions()) for desk in desks]
    if as_json:
        stores = [
            {"store": desk.name, "path": desk.store.where, "handlers": handlers, "positions": positions}
            for desk, handlers, positions in found
        ]
        output.emit({"stores": stores})
        return
    now_ms = desks[0].store.clock.now_ms()
    handlers = [each for _, some, _ in found for each in some]
    output.table(_HEADS, [_row(each, now_ms) for each in handlers])
    positions = [each for _, _, some in found for each in some]
    if positions:
        print()
        output.table(
            ("STORE", "RELAY", "POSITION", "HEAD"), [(each.store, each.name, each.seq, each.head) for each in positions]
        )
    for each in handlers:
        if each.paused_until_ms is not None and each.pause_reason:
            output.say(f"{each.handler} is paused: {words.plain(each.pause_reason)}")


def _row(one: HandlerStatus, now_ms: int) -> tuple[object, ...]:
    from antiphon.policy.words import span

    counts = one.counts
    lag: object = one.lag if one.lag_exact else f"<={one.lag}"
    oldest = None if one.oldest_unhandled_s is None else span(round(one.oldest_unhandled_s * 1000))
    head = (one.handler, _state(one, now_ms), lag, counts.in_progress, counts.retry, counts.parked, counts.dead)
    return (*head, one.handled, one.failed_invocations, oldest, one.owner)


def _state(one: HandlerStatus, now_ms: int) -> str:
    from antiphon.policy.words import span

    if one.removed_ms is not None:
        return "removed"
    if one.paused_until_ms is not None:
        return f"paused {span(one.paused_until_ms - now_ms)}"
    if one.handler.endswith(_UNREAD) and not one.types:
        return "-"
    return "runs" if one.running else "stopped"
