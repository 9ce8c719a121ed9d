"""``antiphon tail``: the newest events of all stores, each once, and new ones as they come."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING

from antiphon.cli import arguments, output
from antiphon.cli.exits import Exit
from antiphon.cli.stores import BUS, open_stores
from antiphon.policy import words

if TYPE_CHECKING:
    from antiphon.model.views import LoggedView
    from antiphon.store.desk import Desk

_AT_ONCE = 200
_LOOK_AGAIN_S = 5.0


def tail(parser: argparse.ArgumentParser) -> None:
    """Give *parser* the arguments of ``tail``."""
    arguments.add_stores(parser)
    parser.add_argument("--follow", "-f", action="store_true", help="go on with new events as they come, until Ctrl-C")
    parser.add_argument("--type", metavar="TYPE", help="only events of this type")
    parser.add_argument("--correlation", metavar="ID", help="only events of this correlation")
    parser.add_argument(
        "--limit", "-n", metavar="N", type=arguments.positive, default=20, help="how many of the newest (20)"
    )
    arguments.add_json(parser, "one JSON object a line")
    parser.set_defaults(run=_tail)


def _tail(options: argparse.Namespace) -> int:
    try:
        asyncio.run(_show(options))
    except KeyboardInterrupt:
        if not options.follow:
            raise
    return Exit.OK


async def _show(options: argparse.Namespace) -> None:
    async with open_stores(options.data, store=options.store) as desks:
        # What the bus carries lies in the log of the service that published it, too.
        logs = [desk for desk in desks if desk.name != BUS] or desks
        heads = {desk.name: await desk.store.head() for desk in logs}
        chosen = {"type": options.type, "correlation_id": options.correlation}
        found = [event for desk in logs for event in await desk.latest(options.limit, **chosen)]
        for event in _newest(found, options.limit):
            _print(event, options.json)
        if options.follow:
            await asyncio.gather(*(_follow(desk, heads[desk.name], options) for desk in logs))


def _newest(events: list[LoggedView], limit: int) -> list[LoggedView]:
    """The *limit* newest, in order; of an event in several logs, its producer's copy."""
    once: dict[str, LoggedView] = {}
    for event in events:
        if event.id not in once or event.origin != "received":
            once[event.id] = event
    return sorted(once.values(), key=lambda event: (event.time_ms, event.id))[-limit:]


async def _follow(desk: Desk, after_seq: int, options: argparse.Namespace) -> None:
    while True:
        head = await desk.store.head()
        events = await desk.tail(after_seq, _AT_ONCE, type=options.type, correlation_id=options.correlation)
        for event in events:
            # Its producer's log shows it, or has shown it.
            if event.origin != "received" or desk.name == BUS:
                _print(event, options.json)
        # Short of a full answer, nothing that is asked for lies before the head any more.
        after_seq = events[-1].seq if len(events) == _AT_ONCE else max(head, *(event.seq for event in events[-1:]), 0)
        if len(events) < _AT_ONCE:
            await desk.wait_for_events(after_seq, _LOOK_AGAIN_S)


def _print(event: LoggedView, as_json: bool) -> None:
    if as_json:
        output.emit(event)
        return
    import msgspec

    data = msgspec.json.encode(event.data).decode() if event.raw is None else f"undecodable: {event.raw.text}"
    key = "-" if event.key is None else event.key
    parts = (words.moment(event.time_ms), event.id, event.service, event.type, key, words.shortened(data, 200))
    print("  ".join(map(words.plain, parts)), flush=True)
