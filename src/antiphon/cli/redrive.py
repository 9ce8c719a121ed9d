"""``antiphon dead redrive``: one dead letter, or many as a job that a running application carries out."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from antiphon.cli import arguments, output
from antiphon.cli.exits import CommandError, Exit
from antiphon.cli.selecting import desk_of, filter_of, no_match
from antiphon.policy import words

if TYPE_CHECKING:
    from antiphon.model.views import DeadLetterView, DeliveryView, RedriveJob, RedrivePlan
    from antiphon.store.desk import Desk

_LOOK_EVERY_S = 0.2
_JOB_HEADS = ("JOB", "STATE", "TOTAL", "WAITING", "PENDING", "SUCCEEDED", "FAILED", "SKIPPED", "REASON")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give *parser* how to redrive."""
    parser.add_argument("--dry-run", action="store_true", help="say what would be redriven, change nothing")
    parser.add_argument("--canary", action="store_true", help="first one alone; the others once it has succeeded")
    parser.add_argument("--rate", metavar="N", type=_rate, help="at most N a second")
    parser.add_argument(
        "--stop-at", metavar="SHARE", type=arguments.share, help="stop when this share fails again, such as 20%%"
    )
    parser.add_argument("--wait", action="store_true", help="wait for the outcome; exit code 1 if any fails again")
    parser.epilog = "What matches now is frozen: what dies later is no part of it. A running application does the work."


async def redrive(desks: list[Desk], options: argparse.Namespace) -> int:
    """Redrive what *options* say."""
    if options.id is None:
        return await _plan(desks, options) if options.dry_run else await _redrive_many(desks, options)
    if options.canary or options.rate or options.stop_at is not None:
        raise CommandError(
            "--canary, --rate and --stop-at are for many", code=Exit.USAGE, mend="Leave them out for one dead letter"
        )
    desk = await desk_of(desks, options.id, options.handler)
    if options.dry_run:
        letter = (await desk.dead.show(options.id, options.handler)).letter
        _say_letters([letter], options.json)
        return Exit.OK
    letter = await desk.dead.redrive_one(options.id, options.handler)
    await _warn_unless_running(desk, [letter.handler])
    if not options.wait:
        _say_letters([letter], options.json)
        return Exit.OK
    return await _outcome_of_one(desk, letter, options.json)


async def jobs(desks: list[Desk], options: argparse.Namespace) -> int:
    """List redrives of many."""
    found = [job for desk in desks for job in await desk.dead.jobs()]
    _say_jobs(sorted(found, key=lambda job: job.created_ms, reverse=True), options.json)
    return Exit.OK


async def cancel(desks: list[Desk], options: argparse.Namespace) -> int:
    """Cancel one redrive."""
    from antiphon.errors import NotFound

    for desk in desks:
        try:
            job = await desk.dead.cancel(options.id)
        except NotFound as error:
            missing = error
        else:
            _say_jobs([job], options.json)
            return Exit.OK
    raise missing


async def _plan(desks: list[Desk], options: argparse.Namespace) -> int:
    where = filter_of(options)
    plans: list[RedrivePlan] = [await desk.dead.plan(where) for desk in desks]
    count = sum(plan.count for plan in plans)
    if options.json:
        output.emit({"count": count, "plans": [plan for plan in plans if plan.count]})
    elif count:
        rows = [
            (plan.store, group.group, group.count, ", ".join(group.handlers), words.shortened(group.label))
            for plan in plans
            for group in plan.groups
        ]
        output.table(("STORE", "GROUP", "COUNT", "HANDLERS", "FAILURE"), rows)
        output.say(f"{count} would be redriven; nothing was changed")
    return Exit.OK if count else no_match(options)


async def _redrive_many(desks: list[Desk], options: argparse.Namespace) -> int:
    where = filter_of(options)
    started: list[tuple[Desk, RedriveJob]] = []
    for desk in desks:
        plan = await desk.dead.plan(where)
        if not plan.count:
            continue
        job = await desk.dead.redrive(where, canary=options.canary, rate=options.rate, stop_share=options.stop_at)
        await _warn_unless_running(desk, list(plan.handlers))
        started.append((desk, job))
    if not started:
        return no_match(options)
    found = [job for _, job in started]
    if options.wait:
        found = [await _end_of(desk, job) for desk, job in started]
    _say_jobs(found, options.json)
    failed = options.wait and any(job.failed or job.state != "done" for job in found)
    return Exit.FINDINGS if failed else Exit.OK


async def _end_of(desk: Desk, job: RedriveJob) -> RedriveJob:
    while not job.over:
        await desk.store.clock.sleep(_LOOK_EVERY_S)
        job = await desk.dead.job(job.id)
    return job


async def _outcome_of_one(desk: Desk, letter: DeadLetterView, as_json: bool) -> int:
    from antiphon.model.delivery import DEAD, Status

    while True:
        delivery = await _delivery(desk, letter)
        if delivery is None or delivery.status in {*DEAD, Status.COMPLETED}:
            break
        await desk.store.clock.sleep(_LOOK_EVERY_S)
    if as_json:
        output.emit(delivery)
    elif delivery is not None:
        reason = f": {words.plain(delivery.reason)}" if delivery.reason else ""
        print(f"{delivery.event_id} {delivery.handler} {delivery.status}{reason}")
    return Exit.OK if delivery is not None and delivery.status is Status.COMPLETED else Exit.FINDINGS


async def _delivery(desk: Desk, letter: DeadLetterView) -> DeliveryView | None:
    found = await desk.deliveries_of([letter.event_id])
    return next((each for each in found if each.handler == letter.handler), None)


async def _warn_unless_running(desk: Desk, handlers: list[str]) -> None:
    idle = [each.handler for each in await desk.status() if each.handler in handlers and not each.running]
    if idle:
        output.say(f"no process runs {', '.join(idle)} now: this waits until one does (antiphon run)")


def _say_letters(letters: list[DeadLetterView], as_json: bool) -> None:
    if as_json:
        output.emit({"dead_letters": letters})
        return
    for letter in letters:
        print(f"{letter.event_id} {letter.handler}")


def _say_jobs(found: list[RedriveJob], as_json: bool) -> None:
    if as_json:
        output.emit({"jobs": found})
        return
    rows = [
        (job.id, job.state, job.total, job.waiting, job.pending, job.succeeded, job.failed, job.skipped, job.reason)
        for job in found
    ]
    output.table(_JOB_HEADS, rows)


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is no rate a second above zero")
    return value
