"""At most so many attempts in any stretch of time: the limit of a handler's `Rate`, exactly.

A plain token bucket lets twice its limit through in an unlucky stretch (a full bucket, then its refill).
Here every token is given back one whole period after it was taken. Takings close to each other are kept
as one, which bounds the state and delays a token by at most a 64th of the period.
"""

from __future__ import annotations

from datetime import timedelta

import msgspec

from antiphon.model.retry import Rate

_SLOTS = 64


class Taking(msgspec.Struct, frozen=True):
    """Tokens taken between two moments; they all come back one period after the last."""

    first_ms: int
    last_ms: int
    count: int


class Bucket(msgspec.Struct, frozen=True):
    """The state: what was taken in the last *per_ms*, oldest first."""

    limit: int
    per_ms: int
    taken: tuple[Taking, ...] = ()


def bucket(rate: Rate) -> Bucket:
    """A full bucket for *rate*. A period is rounded up to whole milliseconds."""
    return Bucket(rate.limit, -(-rate.per // timedelta(milliseconds=1)))


def take(state: Bucket, now_ms: int, wanted: int) -> tuple[int, Bucket, int]:
    """Take up to *wanted* tokens: how many are granted, the state after, and when the next can be.

    The last is *now_ms* while tokens are left. No half-open stretch of the period ever holds more than
    the limit.
    """
    earlier = _set_back(state.taken, now_ms)
    taken = tuple(taking for taking in earlier if now_ms - taking.last_ms < state.per_ms)
    left = state.limit - sum(taking.count for taking in taken)
    granted = max(0, min(wanted, left))
    if granted:
        taken = _with(taken, now_ms, granted, state.per_ms)
    after = Bucket(state.limit, state.per_ms, taken)
    next_ms = now_ms if granted < left else taken[0].last_ms + state.per_ms
    return granted, after, next_ms


def _set_back(taken: tuple[Taking, ...], now_ms: int) -> tuple[Taking, ...]:
    """*taken* as if no time had passed since the newest, if the clock was set back before it.

    So a clock that goes back neither opens the period twice nor makes anyone wait longer than one.
    """
    ahead_ms = taken[-1].last_ms - now_ms if taken else 0
    if ahead_ms <= 0:
        return taken
    return tuple(Taking(old.first_ms - ahead_ms, old.last_ms - ahead_ms, old.count) for old in taken)


def _with(taken: tuple[Taking, ...], now_ms: int, count: int, per_ms: int) -> tuple[Taking, ...]:
    """*taken* and one more taking, joined to the newest if they are close."""
    if taken and (now_ms - taken[-1].first_ms) * _SLOTS < per_ms:
        newest = taken[-1]
        return (*taken[:-1], Taking(newest.first_ms, now_ms, newest.count + count))
    return (*taken, Taking(now_ms, now_ms, count))
