"""When a handler fails on everything: pause it, probe it, let it resume by itself.

One state a handler, kept by its worker. A failure that is the event's own fault (``Reject``, a broken
contract) is not reported here; an error of the store is not one either. While a circuit is paused its
caller runs one delivery at a time, chosen by `preferred` so that one bad event cannot keep it paused.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import msgspec

#: So many distinct deliveries failing in a row pause the handler.
THRESHOLD = 5
#: The wait before the first probe, which doubles with each probe up to the longest one.
FIRST_PROBE_MS = 1_000
LONGEST_PROBE_MS = 30_000


class Permit(StrEnum):
    """What a handler may do now: run as usual, try a single delivery, or wait."""

    CLOSED = "CLOSED"
    PROBE = "PROBE"
    WAIT = "WAIT"


class Circuit(msgspec.Struct, frozen=True):
    """The state: the last distinct deliveries that failed in a row, and the probe that comes next.

    *probe* is 0 while closed and n while paused before the n-th probe, due at *probe_ms*.
    """

    failing: tuple[int | str, ...] = ()
    probe: int = 0
    probe_ms: int = 0

    @property
    def paused(self) -> bool:
        """Whether the handler waits for a probe to succeed."""
        return self.probe > 0


CLOSED = Circuit()


def after_failure(
    state: Circuit, delivery: int | str, now_ms: int, random: float, *, threshold: int = THRESHOLD
) -> Circuit:
    """The state after *delivery* (its event's sequence number or id) has failed.

    Attempts that were under way when the circuit opened may still fail before the probe is due; they
    tell nothing new. *random* is from [0, 1). *threshold* is at least 2: one event never opens it.
    """
    if state.paused and may_run(state, now_ms)[0] is Permit.WAIT:
        return state
    others = tuple(failed for failed in state.failing if failed != delivery)
    failing = (*others, delivery)[-max(threshold, 2) :]
    if not state.paused and len(failing) < max(threshold, 2):
        return Circuit(failing)
    probe = state.probe + 1
    return Circuit(failing, probe, now_ms + probe_delay(probe, random))


def after_success(state: Circuit) -> Circuit:
    """The state after any delivery has succeeded: closed, with nothing failing."""
    return CLOSED


def may_run(state: Circuit, now_ms: int) -> tuple[Permit, int]:
    """What may run now, and from when on something may (now, unless it is to wait)."""
    if not state.paused:
        return Permit.CLOSED, now_ms
    # A clock that was set back must not stretch the wait.
    if now_ms >= state.probe_ms or state.probe_ms - now_ms > LONGEST_PROBE_MS:
        return Permit.PROBE, now_ms
    return Permit.WAIT, state.probe_ms


def burns_attempt(state: Circuit) -> bool:
    """Whether a failure counts as an attempt; ask with the state as it was before that failure."""
    return not state.paused


def preferred(state: Circuit, deliveries: Iterable[int | str]) -> int | str | None:
    """The delivery to probe with: one that is not known to fail, else the one that failed longest ago."""
    ages = {failed: age for age, failed in enumerate(state.failing)}
    return min(deliveries, key=lambda delivery: ages.get(delivery, -1), default=None)


def probe_delay(probe: int, random: float) -> int:
    """The wait before the *probe*-th probe in milliseconds: between half of its longest and all of it."""
    longest = min(LONGEST_PROBE_MS, FIRST_PROBE_MS << min(probe - 1, 10))
    return longest // 2 + int(random * (longest - longest // 2 + 1))
