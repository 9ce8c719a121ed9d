"""``antiphon dead``: dead letters found, grouped, shown, run again, mended, archived."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from antiphon.cli import arguments, output, redrive
from antiphon.cli.exits import CommandError, Exit
from antiphon.cli.loading import load
from antiphon.cli.publish import add_event_data, read_data
from antiphon.cli.selecting import add_filter, add_one, add_one_or_filter, desk_of, filter_of, no_match
from antiphon.cli.stores import open_stores
from antiphon.policy import words

if TYPE_CHECKING:
    from antiphon.app import App
    from antiphon.model.views import AttemptView, DeadLetterDetail
    from antiphon.store.desk import Desk

Act = Callable[[list["Desk"], argparse.Namespace], Awaitable[int]]


def dead(parser: argparse.ArgumentParser) -> None:
    """Give *parser* the commands of ``dead``."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, summary: str, act: Act) -> argparse.ArgumentParser:
        one = commands.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", allow_abbrev=False
        )
        arguments.add_stores(one)
        one.set_defaults(run=lambda options: asyncio.run(_run(options, act)))
        return one

    listing = command("ls", "list dead letters, the newest first", _list)
    add_filter(listing)
    _add_limit(listing)
    grouping = command("groups", "list them by failure, the most frequent first", _groups)
    add_filter(grouping)
    _add_limit(grouping)
    add_one(command("show", "show all that is known of one", _show))
    redriving = command("redrive", "run them again", redrive.redrive)
    add_one_or_filter(redriving)
    redrive.add_arguments(redriving)
    command("jobs", "list redrives of many, the newest first", redrive.jobs)
    cancelling = command("cancel", "end a redrive: what has not gone stays a dead letter", redrive.cancel)
    cancelling.add_argument("id", metavar="JOB", help="the redrive's id, or the beginning of it")
    editing = command("edit", "publish one with corrected data, for its handler alone, and archive it", _edit)
    arguments.add_app(editing)
    add_one(editing)
    add_event_data(editing)
    archiving = command("archive", "set them aside for good: not redriven, not kept by retention", _archive)
    add_one_or_filter(archiving)
    archiving.add_argument("--reason", metavar="TEXT", required=True, help="why, for those who look later")
    for one in commands.choices.values():
        arguments.add_json(one)


def _add_limit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--limit", "-n", metavar="N", type=arguments.positive, default=100, help="how many at most (100)"
    )


async def _run(options: argparse.Namespace, act: Act) -> int:
    app: App | None = load(options.app) if "app" in options else None
    async with open_stores(options.data, app, options.store) as desks:
        return await act(desks, options)


async def _list(desks: list[Desk], options: argparse.Namespace) -> int:
    where = filter_of(options)
    found = [letter for desk in desks for letter in await desk.dead.list(where, limit=options.limit)]
    found = sorted(found, key=lambda letter: letter.died_ms, reverse=True)[: options.limit]
    if options.json:
        output.emit({"dead_letters": found})
        return Exit.OK
    rows = [
        (
            each.event_id,
            each.type,
            each.key,
            each.handler,
            each.status.value,
            each.attempts,
            words.moment(each.died_ms),
            each.group,
            words.shortened(each.archived or each.reason or each.message),
        )
        for each in found
    ]
    output.table(("EVENT", "TYPE", "KEY", "HANDLER", "STATUS", "ATTEMPTS", "DIED", "GROUP", "REASON"), rows)
    if len(found) == options.limit:
        output.say(f"the newest {options.limit}; there may be more (--limit)")
    return Exit.OK


async def _groups(desks: list[Desk], options: argparse.Namespace) -> int:
    where = filter_of(options)
    found = [group for desk in desks for group in await desk.dead.groups(where, limit=options.limit)]
    found = sorted(found, key=lambda group: group.count, reverse=True)[: options.limit]
    if options.json:
        output.emit({"groups": found})
        return Exit.OK
    rows = [
        (
            each.group,
            each.count,
            ", ".join(each.handlers),
            words.moment(each.first_ms),
            words.moment(each.last_ms),
            words.shortened(each.label),
        )
        for each in found
    ]
    output.table(("GROUP", "COUNT", "HANDLERS", "FIRST", "LAST", "FAILURE"), rows)
    return Exit.OK


async def _show(desks: list[Desk], options: argparse.Namespace) -> int:
    desk = await desk_of(desks, options.id, options.handler)
    found = await desk.dead.show(options.id, options.handler)
    if options.json:
        output.emit(found)
    else:
        _print_detail(found)
    return Exit.OK


def _print_detail(found: DeadLetterDetail) -> None:
    import msgspec

    letter, event = found.letter, found.event
    data: Any = msgspec.json.format(msgspec.json.encode(event.data)).decode()
    if event.raw is not None:
        data = f"{event.raw.text} ({event.raw.why})"
    facts: list[tuple[str, object]] = [
        ("event", letter.event_id),
        ("type", f"{letter.type} version {letter.version}"),
        ("key", letter.key),
        ("published", f"{words.moment(letter.time_ms)} by {event.service}"),
        ("handler", letter.handler),
        ("status", f"{letter.status} since {words.moment(letter.died_ms)}"),
        ("reason", letter.reason),
        ("group", f"{letter.group} {found.label}"),
        ("archived", letter.archived),
        ("correlation", event.correlation_id),
    ]
    for name, value in facts:
        if value is not None:
            print(f"{name:<12}{words.plain(value)}")
    for attempt in found.history:
        print(f"{'attempt':<12}{_attempt(attempt)}")
    print(f"\ndata\n{_block(data)}")
    if found.traceback:
        print(f"\ntraceback\n{_block(found.traceback)}")


def _attempt(attempt: AttemptView) -> str:
    error = f": {attempt.error_type}: {words.shortened(attempt.message)}" if attempt.error_type else ""
    return words.plain(f"{attempt.number} {attempt.outcome} {words.moment(attempt.at_ms)}{error}")


def _block(text: str) -> str:
    return "\n".join(f"    {words.plain(line)}" for line in text.splitlines())


async def _edit(desks: list[Desk], options: argparse.Namespace) -> int:
    desk = await desk_of(desks, options.id, options.handler)
    event = await desk.dead.edit(options.id, read_data(options), options.handler)
    if options.json:
        output.emit(event)
    else:
        print(event.id)
    return Exit.OK


async def _archive(desks: list[Desk], options: argparse.Namespace) -> int:
    if not options.reason.strip():
        raise CommandError("--reason is empty", code=Exit.USAGE, mend="Say why, for those who look later")
    if options.id is not None:
        desk = await desk_of(desks, options.id, options.handler)
        await desk.dead.archive_one(options.id, options.reason, options.handler)
        count = 1
    else:
        where = filter_of(options)
        count = sum([await desk.dead.archive(where, options.reason) for desk in desks])
    if options.json:
        output.emit({"archived": count})
    else:
        print(count)
        output.say(f"archived {count}")
    return Exit.OK if count else no_match(options)
