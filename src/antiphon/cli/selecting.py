"""Which dead letters a command means: one by its event's id, or all that match."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from antiphon.cli import output
from antiphon.cli.exits import CommandError, Exit
from antiphon.errors import NotFound

if TYPE_CHECKING:
    from antiphon.model.views import DeadLetterFilter
    from antiphon.store.desk import Desk

_STATUSES = ("ERROR", "FAILED")


def add_one(parser: argparse.ArgumentParser) -> None:
    """One dead letter, as ``id`` and ``handler``."""
    parser.add_argument("id", metavar="ID", help="the event's id, or the beginning of it")
    _add_handler(parser)


def add_filter(parser: argparse.ArgumentParser) -> None:
    """Those that match all that is said."""
    _add_handler(parser)
    _add_marks(parser)
    parser.add_argument("--archived", action="store_true", help="archived ones instead")


def add_one_or_filter(parser: argparse.ArgumentParser) -> None:
    """One, or those that match all that is said, or (``--all``) all."""
    parser.add_argument("id", metavar="ID", nargs="?", help="the event's id, or the beginning of it")
    _add_handler(parser)
    _add_marks(parser)
    parser.add_argument("--all", action="store_true", help="all dead letters")


def _add_handler(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--handler", metavar="NAME", help="dead for this handler, such as payment.charge")


def _add_marks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--type", metavar="TYPE", help="of this event type")
    parser.add_argument("--group", metavar="GROUP", help="of this failure: the beginning of its group")
    parser.add_argument("--status", choices=_STATUSES, help="of this status")
    parser.add_argument("--text", metavar="TEXT", help="with this in message, reason, key, id or data")


def filter_of(options: argparse.Namespace) -> DeadLetterFilter:
    """What `add_filter` or `add_one_or_filter` was told. Raises CommandError when that was nothing at all."""
    from antiphon.model.delivery import Status
    from antiphon.model.views import DeadLetterFilter

    marks = (options.handler, options.type, options.group, options.status, options.text)
    if "all" in options and options.all == any(marks):
        raise CommandError(
            "it is not said which dead letters are meant" if not options.all else "--all contradicts the other marks",
            code=Exit.USAGE,
            mend="Give an event's id, or --handler, --type, --group, --status or --text, or --all alone",
        )
    return DeadLetterFilter(
        handler=options.handler,
        type=options.type,
        group=options.group,
        status=Status(options.status) if options.status else None,
        text=options.text,
        archived=getattr(options, "archived", False),
    )


async def desk_of(desks: Sequence[Desk], event_id: str, handler: str | None) -> Desk:
    """The desk of the one store in which the event is a dead letter (of *handler*).

    Raises NotFound, and CommandError if several services have one of that id.
    """
    found: list[tuple[Desk, str]] = []
    for desk in desks:
        try:
            detail = await desk.dead.show(event_id, handler)
        except NotFound as error:
            missing = error
        else:
            found.append((desk, detail.letter.handler))
    if not found:
        raise missing
    if len(found) > 1:
        names = ", ".join(name for _, name in found)
        raise CommandError(
            f"the event is dead for {names}", code=Exit.USAGE, where=event_id, mend="Say --handler with one of them"
        )
    return found[0][0]


def no_match(options: argparse.Namespace) -> Exit:
    """Say that nothing matches."""
    output.say(f"no dead letter matches in {options.data}")
    return Exit.FINDINGS
