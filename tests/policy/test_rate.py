"""The limit of a handler's rate."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from antiphon.model.retry import Rate, minutes, seconds
from antiphon.policy.rate import bucket, take


def test_a_full_bucket_gives_its_limit_at_once() -> None:
    """Up to the limit is granted at once, no more until the period is over, then all of it again."""
    state = bucket(Rate(10, per=seconds(1)))
    granted, state, next_ms = take(state, 5000, 25)
    assert (granted, next_ms) == (10, 6000)
    granted, state, next_ms = take(state, 5999, 1)
    assert (granted, next_ms) == (0, 6000)
    granted, state, next_ms = take(state, 6000, 25)
    assert (granted, next_ms) == (10, 7000)


def test_what_is_left_may_be_taken_now() -> None:
    """While tokens are left, the next may be taken at once."""
    granted, state, next_ms = take(bucket(Rate(10)), 0, 4)
    assert (granted, next_ms) == (4, 0)
    granted, state, next_ms = take(state, 500, 10)
    assert (granted, next_ms) == (6, 1000)
    assert take(state, 1000, 10)[0] == 4


def test_nothing_wanted_changes_nothing() -> None:
    """To want nothing, or less, takes nothing."""
    state = bucket(Rate(3))
    for wanted in (0, -5):
        assert take(state, 100, wanted) == (0, state, 100)


def test_a_limit_of_one_is_exact() -> None:
    """With one an hour, the next is due an hour after the last, to the millisecond."""
    granted, state, next_ms = take(bucket(Rate(1, per=minutes(60))), 123, 5)
    assert (granted, next_ms) == (1, 3_600_123)
    assert take(state, next_ms - 1, 1)[0] == 0
    assert take(state, next_ms, 1)[0] == 1


def test_a_period_below_a_millisecond_is_rounded_up() -> None:
    """A period shorter than the clock's step becomes one step: slower than allowed, never faster."""
    assert bucket(Rate(5, per=timedelta(microseconds=1))).per_ms == 1
    assert bucket(Rate(5, per=timedelta(microseconds=1001))).per_ms == 2


def test_the_state_stays_small() -> None:
    """However often something is taken, the state keeps some 64 takings, not one for each."""
    state = bucket(Rate(10**6, per=minutes(1)))
    for now_ms in range(0, 120_000, 7):
        granted, state, _ = take(state, now_ms, 1)
        assert granted == 1
        assert len(state.taken) <= 66


asks = st.lists(st.tuples(st.integers(0, 700), st.integers(0, 30)), min_size=1, max_size=150)


@given(st.integers(1, 40), st.integers(1, 2000), asks)
def test_no_window_holds_more_than_the_limit(limit: int, per_ms: int, history: list[tuple[int, int]]) -> None:
    """In any half-open stretch of the period, wherever it starts, at most the limit was granted."""
    state, now_ms = bucket(Rate(limit, per=timedelta(milliseconds=per_ms))), 0
    grants: list[tuple[int, int]] = []
    for pause_ms, wanted in history:
        now_ms += pause_ms
        granted, state, next_ms = take(state, now_ms, wanted)
        assert 0 <= granted <= wanted
        assert now_ms <= next_ms <= now_ms + per_ms
        assert take(state, next_ms, 1)[0] == 1
        assert next_ms == now_ms or take(state, next_ms - 1, 1)[0] == 0
        grants.append((now_ms, granted))
    for start_ms, _ in grants:
        assert sum(count for at_ms, count in grants if start_ms <= at_ms < start_ms + per_ms) <= limit


@given(st.integers(1, 500), st.integers(100, 5000), st.integers(1, 50))
def test_the_limit_is_reached(limit: int, per_ms: int, step_ms: int) -> None:
    """Who always wants more gets the whole limit, less a 64th and a step, over many periods."""
    state, total = bucket(Rate(limit, per=timedelta(milliseconds=per_ms))), 0
    for now_ms in range(0, per_ms * 10, step_ms):
        granted, state, _ = take(state, now_ms, 7)
        total += granted
    most_wanted = 7 * (per_ms * 10 // step_ms)
    round_ms = per_ms * 65 / 64 + 2 * step_ms
    assert total >= min(most_wanted * 0.8, limit * (per_ms * 10 // round_ms))


jumps = st.lists(st.tuples(st.integers(0, 700), st.integers(0, 3000), st.integers(1, 30)), max_size=80)


@given(st.integers(1, 20), jumps)
def test_a_clock_set_back_opens_nothing(limit: int, history: list[tuple[int, int, int]]) -> None:
    """A clock that is set back lets no window of real time over the limit, and makes no wait longer."""
    state, real_ms, clock_ms = bucket(Rate(limit)), 0, 10**6
    grants: list[tuple[int, int]] = []
    for passed_ms, back_ms, wanted in history:
        real_ms += passed_ms
        clock_ms += passed_ms - back_ms
        granted, state, next_ms = take(state, clock_ms, wanted)
        assert clock_ms <= next_ms <= clock_ms + 1000
        grants.append((real_ms, granted))
    for start_ms, _ in grants:
        assert sum(count for at_ms, count in grants if start_ms <= at_ms < start_ms + 1000) <= limit
