"""The retry budget: how many retries a handler may start, so that a recovering service is not trampled.

A token bucket that successes fill. While everything fails, retries trickle at the refill; once a service
answers again, each success admits slightly more than one retry, so the flow grows as fast as it is served
and settles a little above what the service can take. First attempts need no token.
"""

from __future__ import annotations

import msgspec

# Tokens are counted in thousandths, so that nothing is ever rounded away.
_TOKEN = 1_000

#: Tokens at the start, and the most that can be saved up.
RESERVE = 20
CAPACITY = 200
#: Thousandths of a token that a success earns, and whole tokens that come back each second regardless.
EARNED_BY_SUCCESS = 1_500
REFILL_PER_S = 10


class Budget(msgspec.Struct, frozen=True):
    """The state: thousandths of tokens held at *at_ms*."""

    held: int
    at_ms: int


def fresh(now_ms: int) -> Budget:
    """The budget of a handler that starts now: a small reserve."""
    return Budget(RESERVE * _TOKEN, now_ms)


def allowance(state: Budget, now_ms: int) -> int:
    """How many retries may start now, zero or more."""
    return _refilled(state, now_ms).held // _TOKEN


def next_allowance_ms(state: Budget, now_ms: int) -> int:
    """When at least one retry may start, by the refill alone: now, or later."""
    missing = max(0, _TOKEN - _refilled(state, now_ms).held)
    return now_ms + -(-missing // REFILL_PER_S)


def spend(state: Budget, now_ms: int, retries: int) -> Budget:
    """The state after so many *retries* have started; it never goes below zero."""
    state = _refilled(state, now_ms)
    return Budget(max(0, state.held - retries * _TOKEN), state.at_ms)


def earn(state: Budget, now_ms: int, successes: int) -> Budget:
    """The state after so many *successes*, of first attempts or of retries."""
    state = _refilled(state, now_ms)
    return Budget(min(CAPACITY * _TOKEN, state.held + successes * EARNED_BY_SUCCESS), state.at_ms)


def _refilled(state: Budget, now_ms: int) -> Budget:
    """The state at *now_ms*; a clock that went back refills nothing."""
    # REFILL_PER_S tokens a second are as many thousandths a millisecond.
    came_back = max(0, now_ms - state.at_ms) * REFILL_PER_S
    return Budget(min(CAPACITY * _TOKEN, state.held + came_back), now_ms)
