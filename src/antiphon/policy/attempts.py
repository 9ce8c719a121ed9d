"""What follows a failed attempt: another one, and when, or a dead letter, and why."""

from __future__ import annotations

from antiphon.errors import AmbiguousEffect, InvalidEvent, Reject
from antiphon.model.delivery import DeadLetter, RetryAt, Status, Verdict
from antiphon.model.retry import Retry, milliseconds
from antiphon.policy.words import describe, sole_error, span


def longest_delay(retry: Retry, attempt: int) -> int:
    """The most that the delivery waits after failed *attempt* (from 1), in milliseconds."""
    first_ms, cap_ms = milliseconds(retry.first), milliseconds(retry.cap)
    if first_ms == 0:
        return 0
    try:
        grown = first_ms * retry.factor ** (attempt - 1)
    except OverflowError:
        return cap_ms
    return cap_ms if grown >= cap_ms else int(grown)


def delay(retry: Retry, attempt: int, random: float) -> int:
    """The wait after failed *attempt* in milliseconds; *random* is from [0, 1) (full jitter)."""
    longest = longest_delay(retry, attempt)
    return min(longest, int(random * (longest + 1))) if retry.jitter else longest


def decide(retry: Retry, error: BaseException, attempt: int, first_ms: int, now_ms: int, random: float) -> Verdict:
    """The verdict on a delivery whose *attempt* (from 1) has just failed with *error*.

    *first_ms* is when its first attempt started. Cancellation and errors of the store are not the
    delivery's failures: the caller releases it for those and does not ask here.
    """
    error = sole_error(error)
    if isinstance(error, Reject | InvalidEvent):
        return DeadLetter(Status.ERROR, describe(error))
    if isinstance(error, AmbiguousEffect):
        return DeadLetter(Status.FAILED, describe(error))
    if isinstance(error, retry.give_up):
        return DeadLetter(Status.FAILED, f"the retry policy gives up on it: {describe(error)}")
    if not isinstance(error, retry.on):
        return DeadLetter(Status.FAILED, f"the retry policy does not retry it: {describe(error)}")
    due_ms = now_ms + delay(retry, attempt, random)
    if attempt >= retry.attempts or due_ms > first_ms + milliseconds(retry.max_age):
        count = "1 attempt" if attempt == 1 else f"{attempt} attempts"
        return DeadLetter(Status.FAILED, f"gave up after {count} in {span(now_ms - first_ms)}: {describe(error)}")
    return RetryAt(due_ms)


def expired(retry: Retry, first_ms: int, now_ms: int) -> DeadLetter | None:
    """A dead letter if the delivery's age was used up while it waited for its next attempt, else None."""
    if now_ms <= first_ms + milliseconds(retry.max_age):
        return None
    allowed = span(milliseconds(retry.max_age))
    return DeadLetter(
        Status.FAILED, f"gave up {span(now_ms - first_ms)} after the first attempt; {allowed} are allowed"
    )


def crash_verdict(retry: Retry, crashes: int, now_ms: int) -> Verdict:
    """The verdict on a delivery in whose attempts the process has died *crashes* times (from 1).

    It backs off without jitter: suspects run one at a time, so there is no herd to spread.
    """
    if crashes >= retry.crashes:
        times = "once" if crashes == 1 else f"{crashes} times"
        return DeadLetter(Status.FAILED, f"its process died {times} while it ran")
    return RetryAt(now_ms + longest_delay(retry, crashes))
