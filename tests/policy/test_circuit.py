"""Pausing a handler that fails on everything."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from antiphon.policy.circuit import (
    CLOSED,
    FIRST_PROBE_MS,
    LONGEST_PROBE_MS,
    THRESHOLD,
    Circuit,
    Permit,
    after_failure,
    after_success,
    burns_attempt,
    may_run,
    preferred,
    probe_delay,
)

randoms = st.floats(min_value=0, max_value=1, exclude_max=True)


def opened(now_ms: int = 0) -> Circuit:
    """A circuit that five deliveries have opened at *now_ms*, its probe due 1,000 ms later."""
    state = CLOSED
    for delivery in range(THRESHOLD):
        state = after_failure(state, delivery, now_ms, 0.999999)
    return state


def test_five_distinct_failures_in_a_row_pause() -> None:
    """The fifth distinct delivery to fail pauses the handler; the fourth does not."""
    state = CLOSED
    for delivery in range(4):
        state = after_failure(state, delivery, 0, 0.5)
        assert not state.paused
        assert may_run(state, 0) == (Permit.CLOSED, 0)
    assert after_failure(state, 4, 0, 0.5).paused


@given(st.lists(st.integers(0, THRESHOLD - 2), max_size=200), randoms)
def test_few_deliveries_never_pause(deliveries: list[int], random: float) -> None:
    """However often fewer deliveries than the threshold fail, one event least of all, nothing pauses."""
    state = CLOSED
    for now_ms, delivery in enumerate(deliveries):
        state = after_failure(state, delivery, now_ms, random)
        assert not state.paused
        assert burns_attempt(state)


def test_one_event_never_pauses_at_any_threshold() -> None:
    """Even with a threshold of one, a single event that fails again and again pauses nothing."""
    state = CLOSED
    for now_ms in range(10):
        state = after_failure(state, 7, now_ms, 0.5, threshold=1)
    assert not state.paused


def test_a_success_starts_the_count_again() -> None:
    """Failures with a success between them are not in a row."""
    state = CLOSED
    for delivery in range(100):
        state = after_failure(state, delivery, 0, 0.5)
        if delivery % 4 == 3:
            state = after_success(state)
        assert not state.paused


def test_a_pause_waits_then_probes_then_waits_longer() -> None:
    """While paused nothing runs until the probe is due; a failed probe doubles the wait up to 30 s."""
    state, now_ms, waits = opened(), 0, []
    for _ in range(8):
        permit, until_ms = may_run(state, now_ms)
        assert permit is Permit.WAIT
        waits.append(until_ms - now_ms)
        now_ms = until_ms
        assert may_run(state, now_ms - 1)[0] is Permit.WAIT
        assert may_run(state, now_ms) == (Permit.PROBE, now_ms)
        state = after_failure(state, 99, now_ms, 0.999999)
    assert waits == [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]


def test_the_first_success_closes() -> None:
    """One probe that succeeds ends the pause and forgets the failures."""
    assert after_success(opened()) == CLOSED


def test_a_pause_burns_no_attempts() -> None:
    """Failures while closed count as attempts, the one that opens it too; those of probes do not."""
    assert burns_attempt(CLOSED)
    assert not burns_attempt(opened())
    assert burns_attempt(after_success(opened()))


def test_stragglers_do_not_lengthen_the_pause() -> None:
    """Attempts that were under way when it opened, and fail before the probe, change nothing."""
    state = opened(now_ms=1000)
    for delivery in range(100, 350):
        assert after_failure(state, delivery, 1500, 0.5) == state


def test_a_probe_is_not_one_of_the_failing() -> None:
    """A probe takes a delivery that is not known to fail, else the one that failed longest ago."""
    state = opened()
    assert preferred(state, [0, 1, 77, 2]) == 77
    assert preferred(state, [3, 1, 2]) == 1
    state = after_failure(state, 1, 10_000, 0.5)
    assert preferred(state, [3, 1, 2]) == 2
    assert preferred(state, []) is None


@given(st.integers(1, 10**6), randoms)
def test_probe_delays_are_bounded(probe: int, random: float) -> None:
    """A wait is between half of its longest and all of it, and never over 30 s."""
    wait_ms = probe_delay(probe, random)
    assert FIRST_PROBE_MS // 2 <= wait_ms <= LONGEST_PROBE_MS
    assert wait_ms <= FIRST_PROBE_MS * 2 ** min(probe - 1, 10)
    assert probe_delay(probe, 0.0) <= wait_ms


steps = st.lists(st.tuples(st.booleans(), st.integers(0, 50), st.integers(-100_000, 100_000), randoms), max_size=60)


@given(steps, st.integers(1, 10))
def test_a_circuit_is_never_stuck(history: list[tuple[bool, int, int, float]], threshold: int) -> None:
    """After any history, with a clock that jumps too, something may run within 30 s and success closes."""
    state, now_ms = CLOSED, 10**6
    for succeeded, delivery, passed_ms, random in history:
        now_ms += passed_ms
        if succeeded:
            state = after_success(state)
        else:
            state = after_failure(state, delivery, now_ms, random, threshold=threshold)
        permit, until_ms = may_run(state, now_ms)
        assert (permit is Permit.CLOSED) == (not state.paused)
        assert now_ms <= until_ms <= now_ms + LONGEST_PROBE_MS
        assert may_run(state, until_ms)[0] is not Permit.WAIT
        assert len(state.failing) <= max(threshold, 2)
        assert len(set(state.failing)) == len(state.failing)
        assert not after_success(state).paused
