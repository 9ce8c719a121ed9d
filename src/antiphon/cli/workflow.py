"""``antiphon workflow``: runs found, shown, acted on, and checked against the code."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from antiphon.cli import arguments, output
from antiphon.cli.exits import CommandError, Exit
from antiphon.cli.loading import load
from antiphon.cli.stores import open_stores
from antiphon.errors import NotFound
from antiphon.policy.words import moment, plain, shortened

if TYPE_CHECKING:
    from antiphon.app import App
    from antiphon.model.workflows import RunView
    from antiphon.runtime.workflow.rehearsing import Finding
    from antiphon.store.desk import Desk

Act = Callable[[list["Desk"], argparse.Namespace], Awaitable[int]]


def workflow(parser: argparse.ArgumentParser) -> None:
    """Give *parser* the commands of ``workflow``."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, summary: str, act: Act) -> argparse.ArgumentParser:
        one = commands.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", allow_abbrev=False
        )
        arguments.add_stores(one)
        one.set_defaults(run=lambda options: asyncio.run(_run(options, act)), act=name)
        return one

    def on_a_run(name: str, summary: str, *, reason: bool) -> argparse.ArgumentParser:
        one = command(name, summary, _act)
        _add_run(one)
        if reason:
            one.add_argument("--reason", metavar="TEXT", required=True, help="why, for those who look later")
        return one

    listing = command("ls", "list runs, the newest first", _list)
    listing.add_argument("--workflow", metavar="NAME", help="of this workflow, such as orders.fulfil")
    listing.add_argument("--state", metavar="STATE", type=str.upper, help="in this state")
    listing.add_argument("--key", metavar="KEY", help="of this key")
    listing.add_argument("--text", metavar="TEXT", help="with this in what they show of themselves (wf.state)")
    listing.add_argument("--live", action="store_true", help="that have not ended")
    listing.add_argument(
        "--limit", "-n", metavar="N", type=arguments.positive, default=100, help="how many at most (100)"
    )
    _add_run(command("show", "show all that is known of one", _show))
    on_a_run("cancel", "cancel one, and undo what it has done", reason=True)
    on_a_run("pause", "let one stand still", reason=True)
    on_a_run("resume", "let one go on that is paused or stuck", reason=False)
    on_a_run("skip", "leave out the undo step that one is stuck at, or give it up", reason=True)
    signalling = on_a_run("signal", "send one a signal", reason=False)
    signalling.add_argument("name", metavar="NAME", help="the signal")
    signalling.add_argument("--json-data", metavar="JSON", default="null", help="what it brings (null)")
    checking = command("check", "tell which live runs the code can go on with", _check)
    arguments.add_app(checking)
    for one in commands.choices.values():
        arguments.add_json(one)


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="RUN", help="the run's id, or the beginning of it")


async def _run(options: argparse.Namespace, act: Act) -> int:
    app: App | None = load(options.app) if "app" in options else None
    options.application = app
    async with open_stores(options.data, app, options.store) as desks:
        return await act(desks, options)


async def _list(desks: list[Desk], options: argparse.Namespace) -> int:
    from antiphon.model.workflows import RunState
    from antiphon.store.runs import RunFilter

    if options.state is not None and options.state not in set(RunState):
        raise CommandError(
            f"{options.state!r} is no state of a run", code=Exit.USAGE, mend=f"States: {', '.join(RunState)}"
        )
    state = RunState(options.state) if options.state else None
    where = RunFilter(workflow=options.workflow, state=state, key=options.key, text=options.text, live=options.live)
    found = [run for desk in desks for run in await desk.runs.find(where, limit=options.limit)]
    found = sorted(found, key=lambda run: run.started_ms, reverse=True)[: options.limit]
    if options.json:
        output.emit({"runs": found})
        return Exit.OK
    rows = [
        (
            run.id,
            run.workflow,
            run.key,
            run.version,
            run.state.value,
            moment(run.started_ms),
            moment(run.updated_ms),
            shortened(run.waiting or run.error),
        )
        for run in found
    ]
    output.table(("RUN", "WORKFLOW", "KEY", "VERSION", "STATE", "BEGAN", "UPDATED", "WAITS FOR"), rows)
    if len(found) == options.limit:
        output.say(f"the newest {options.limit}; there may be more (--limit)")
    return Exit.OK


async def _show(desks: list[Desk], options: argparse.Namespace) -> int:
    _, run = await _find(desks, options.id)
    if options.json:
        output.emit(run)
    else:
        _print(run)
    return Exit.OK


def _print(run: RunView) -> None:
    import msgspec

    facts: list[tuple[str, object]] = [
        ("run", run.id),
        ("workflow", f"{run.workflow} version {run.version}"),
        ("key", run.key),
        ("state", f"{run.state} since {moment(run.updated_ms)}"),
        ("waits for", run.waiting),
        ("error", run.error),
        ("cancelled", run.cancelled),
        ("began", f"{moment(run.started_ms)} by {run.begun_by}"),
        ("correlation", run.correlation_id),
        ("parent", run.parent),
        ("dead", f"{', '.join(run.dead_letters)} (antiphon dead redrive)" if run.dead_letters else None),
        ("shows", None if run.shows is None else msgspec.json.encode(run.shows).decode()),
        ("returned", None if run.result is None else msgspec.json.encode(run.result).decode()),
    ]
    for name, value in facts:
        if value is not None:
            print(f"{name:<12}{plain(value)}")
    print()
    rows = [
        (each.position, each.kind.value, each.name, each.mark.value, each.attempts, shortened(each.error))
        for each in run.journal
    ]
    output.table(("POSITION", "KIND", "NAME", "MARK", "ATTEMPTS", "ERROR"), rows)


async def _act(desks: list[Desk], options: argparse.Namespace) -> int:
    desk, run = await _find(desks, options.id)
    name, data = None, b"null"
    if options.act == "signal":
        name, data = options.name, _json(options.json_data)
    await desk.runs.act(run.id, options.act, reason=getattr(options, "reason", None), name=name, data=data)
    if options.json:
        output.emit({"run": run.id, "act": options.act})
    else:
        print(run.id)
        output.say(f"{options.act} is asked of {run.workflow} {run.key}; who runs it carries it out")
    return Exit.OK


async def _check(desks: list[Desk], options: argparse.Namespace) -> int:
    from antiphon.runtime.workflow.rehearsing import Fit, rehearse

    app: App = options.application
    found: list[Finding] = []
    for service in app.services.values():
        for handle in service.workflows.values():
            for desk in desks:
                found += [
                    await rehearse(handle.versions, run, records, desk.store, desk.store.clock)
                    for run, records in await desk.runs.live(handle.name)
                ]
    bad = [each for each in found if each.fit is not Fit.COMPATIBLE]
    if options.json:
        output.emit({"runs": len(found), "compatible": len(found) - len(bad), "findings": bad})
    else:
        rows = [(each.run, each.workflow, each.key, each.version, each.fit.value, each.why) for each in bad]
        output.table(("RUN", "WORKFLOW", "KEY", "VERSION", "FIT", "WHY"), rows)
        for mend in dict.fromkeys(each.mend for each in bad):
            output.say(str(mend))
        output.say(f"{len(found) - len(bad)} of {len(found)} live runs are compatible with the code")
    return Exit.FINDINGS if bad else Exit.OK


def _json(text: str) -> bytes:
    import msgspec

    try:
        msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise CommandError(f"--json-data is no JSON ({error})", code=Exit.USAGE) from error
    return text.encode()


async def _find(desks: list[Desk], run_id: str) -> tuple[Desk, RunView]:
    """The run, and the desk on whose store it is. Raises NotFound."""
    missing: NotFound | None = None
    for desk in desks:
        try:
            return desk, await desk.runs.show(run_id)
        except NotFound as error:
            missing = error
    raise missing or NotFound("there is no store")
