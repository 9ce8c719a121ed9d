"""``antiphon effect``: calls to the outside whose outcome is open, and a person's word on them."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from antiphon.cli import arguments, output
from antiphon.cli.exits import CommandError, Exit
from antiphon.cli.stores import open_stores
from antiphon.errors import NotFound
from antiphon.policy.words import moment, plain, shortened

if TYPE_CHECKING:
    from antiphon.model.effects import Effect
    from antiphon.store.desk import Desk

Act = Callable[[list["Desk"], argparse.Namespace], Awaitable[int]]


def effect(parser: argparse.ArgumentParser) -> None:
    """Give *parser* the commands of ``effect``."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, summary: str, act: Act) -> argparse.ArgumentParser:
        one = commands.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", allow_abbrev=False
        )
        arguments.add_stores(one)
        arguments.add_json(one)
        one.set_defaults(run=lambda options: asyncio.run(_run(options, act)))
        return one

    listing = command("ls", "list calls to the outside whose outcome is open, the newest first", _list)
    listing.add_argument("--all", action="store_true", help="those whose outcome is known too")
    listing.add_argument(
        "--limit", "-n", metavar="N", type=arguments.positive, default=100, help="how many at most (100)"
    )
    _add_key(command("show", "show all that is known of one", _show))
    resolving = command("resolve", "say what became of one, and run its dead letter again", _resolve)
    _add_key(resolving)
    outcome = resolving.add_mutually_exclusive_group(required=True)
    outcome.add_argument("--done", action="store_true", help="it took effect")
    outcome.add_argument("--not-done", action="store_true", help="it did not, and is made again")
    resolving.add_argument("--result", metavar="JSON", help="with --done: what the call returned (default: null)")
    resolving.add_argument("--reason", metavar="TEXT", required=True, help="how you know, for those who look later")


def _add_key(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", metavar="KEY", help="its idempotency key, or the beginning of it (its event's id)")


async def _run(options: argparse.Namespace, act: Act) -> int:
    async with open_stores(options.data, store=options.store) as desks:
        return await act(desks, options)


async def _list(desks: list[Desk], options: argparse.Namespace) -> int:
    from antiphon.model.effects import EffectState

    states = tuple(EffectState) if options.all else (EffectState.AMBIGUOUS, EffectState.INTENDED, EffectState.NOT_DONE)
    found = [effect for desk in desks for effect in await desk.effects.ls(states, options.limit)]
    found = sorted(found, key=lambda effect: effect.updated_ms, reverse=True)[: options.limit]
    if options.json:
        output.emit({"effects": [_plain(effect) for effect in found]})
        return Exit.OK
    rows = [(each.key, each.state, each.calls, moment(each.updated_ms), shortened(each.error)) for each in found]
    output.table(("KEY", "STATE", "CALLS", "SINCE", "ERROR"), rows)
    return Exit.OK


async def _show(desks: list[Desk], options: argparse.Namespace) -> int:
    _, found = await _one(desks, options.key)
    _print(found, options)
    return Exit.OK


async def _resolve(desks: list[Desk], options: argparse.Namespace) -> int:
    desk, found = await _one(desks, options.key)
    if not options.reason.strip():
        raise CommandError("--reason is empty", code=Exit.USAGE, mend="Say how you know, for those who look later")
    if options.not_done and options.result is not None:
        raise CommandError("--result goes with --done", code=Exit.USAGE)
    result = _json(options.result or "null")
    resolved = await desk.effects.resolve(found, done=options.done, result=result, reason=options.reason)
    output.say(await _go_on(desk, found))
    _print(resolved, options)
    return Exit.OK


async def _go_on(desk: Desk, effect: Effect) -> str:
    """Let what is parked because of *effect* go on, and say what that is."""
    from antiphon.model.workflows import RunState

    try:
        run = await desk.runs.show(effect.event_id)
    except NotFound:
        run = None
    if run is not None and run.workflow == effect.handler and run.state is RunState.STUCK:
        await desk.runs.act(run.id, "resume")
        return f"resumed: the run {run.id} of {run.workflow}"
    try:
        await desk.dead.redrive_one(effect.event_id, effect.handler)
    except NotFound:
        return "its delivery is no dead letter; the next attempt goes by this"
    return f"redriven: {effect.event_id} for {effect.handler}"


async def _one(desks: list[Desk], key: str) -> tuple[Desk, Effect]:
    """The effect that *key* is or begins, and where it is. Raises NotFound."""
    found = [(desk, effect) for desk in desks for effect in await desk.effects.find(key)]
    exact = [each for each in found if each[1].key == key]
    if len(exact or found) == 1:
        return (exact or found)[0]
    if not found:
        raise NotFound(f"no effect has, or begins with, the key {key!r}", mend="antiphon effect ls --all lists them")
    keys = ", ".join(effect.key for _, effect in found)
    raise NotFound(f"several effects begin with {key!r}", mend=f"Say more of it: {keys}")


def _json(text: str) -> bytes:
    from antiphon.errors import Undecodable
    from antiphon.model.jsontext import strict_json

    data = text.encode()
    try:
        strict_json(data, limit=len(data), type_name="result")
    except Undecodable as error:
        raise CommandError(f"--result is no JSON: {error.reason}", code=Exit.USAGE) from error
    return data


def _plain(effect: Effect) -> dict[str, object]:
    """*effect* as JSON takes it: its result is a value, not bytes."""
    import msgspec

    plain = msgspec.structs.asdict(effect)
    plain["result"] = None if effect.result is None else msgspec.json.decode(effect.result)
    return plain


def _print(effect: Effect, options: argparse.Namespace) -> None:
    if options.json:
        output.emit(_plain(effect))
        return
    facts: list[tuple[str, object]] = [
        ("key", effect.key),
        ("event", effect.event_id),
        ("handler", effect.handler),
        ("name", effect.name),
        ("state", f"{effect.state} since {moment(effect.updated_ms)}"),
        ("calls", effect.calls),
        ("intended", moment(effect.created_ms)),
        ("result", None if effect.result is None else effect.result.decode()),
        ("error", effect.error),
        ("resolution", effect.resolution),
    ]
    for name, value in facts:
        if value is not None:
            print(f"{name:<12}{plain(value)}")
