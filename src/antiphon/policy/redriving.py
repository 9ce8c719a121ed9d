"""How a redrive of many goes on: a canary first, at its rate, and no further when too much fails again."""

from __future__ import annotations

import msgspec

#: Where failures may stop it, so many at most are on their way without having been tried.
WINDOW = 100
#: The most that go at once.
LARGEST_STEP = 250
#: How long until outcomes are looked at again: while they decide about others, and when all have gone.
LOOK_MS = 250
SETTLE_LOOK_MS = 2_000


class Redrive(msgspec.Struct, frozen=True):
    """A redrive under way: how it is to be done, its counts, and when the next may go (store time).

    *waiting* have not gone. Of those that have, *succeeded* and *failed* are over, *skipped* were no dead
    letters any more, the others are *pending*; *failing* of these have failed once and are tried again.
    """

    state: str
    rate: float | None
    stop_share: float | None
    stop_after: int
    next_ms: int
    waiting: int
    pending: int
    failing: int
    succeeded: int
    failed: int


class Send(msgspec.Struct, frozen=True):
    """The next *count* go, and the next after these at *next_ms*; the redrive is in *state* then."""

    count: int
    next_ms: int
    state: str


class Look(msgspec.Struct, frozen=True):
    """Nothing to do for *wait_ms*; the redrive is in *state*."""

    wait_ms: int
    state: str


class End(msgspec.Struct, frozen=True):
    """It is over: ``done`` or ``stopped``, and why."""

    state: str
    reason: str | None = None


Step = Send | Look | End


def next_step(redrive: Redrive, now_ms: int) -> Step:
    """What is to be done at *now_ms* (store time)."""
    if redrive.state == "canary":
        if redrive.failed:
            return End("stopped", "the canary failed again")
        if not redrive.succeeded:
            if redrive.pending:
                return Look(LOOK_MS, "canary")
            return Send(1, now_ms, "canary") if redrive.waiting else End("done")
    if not redrive.waiting:
        return Look(SETTLE_LOOK_MS, "settling") if redrive.pending else End("done")
    if reason := _too_many_failures(redrive):
        return End("stopped", reason)
    if now_ms < redrive.next_ms:
        wait = redrive.next_ms - now_ms
        return Look(wait if redrive.stop_share is None else min(wait, LOOK_MS), "running")
    count = min(redrive.waiting, LARGEST_STEP)
    if redrive.stop_share is not None:
        count = min(count, WINDOW - (redrive.pending - redrive.failing))
        if count <= 0:
            return Look(LOOK_MS, "running")
    if redrive.rate is None:
        return Send(count, now_ms, "running")
    # A few at a time, so that a high rate does not need a transaction for each.
    count = min(count, max(1, int(redrive.rate / 10)))
    return Send(count, now_ms + round(count * 1000 / redrive.rate), "running")


def _too_many_failures(redrive: Redrive) -> str | None:
    bad = redrive.failed + redrive.failing
    outcomes = redrive.succeeded + bad
    if redrive.stop_share is None or outcomes < redrive.stop_after or bad < redrive.stop_share * outcomes:
        return None
    return f"{bad} of {outcomes} failed again; {redrive.waiting} have not gone"
