"""The retry budget."""

from __future__ import annotations

import heapq
from random import Random
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.model.delivery import RetryAt
from antiphon.model.retry import Retry
from antiphon.policy.attempts import decide
from antiphon.policy.budget import (
    CAPACITY,
    REFILL_PER_S,
    RESERVE,
    Budget,
    allowance,
    earn,
    fresh,
    next_allowance_ms,
    spend,
)

STEP_MS = 10
OUTAGE_MS = 30_000
PATIENT = Retry(attempts=1000)


class Outcome(NamedTuple):
    """What a herd came to."""

    attempts: int
    seconds: float
    served: int
    failed: int


class Downstream:
    """A service that is down for 30 s and then serves 100 calls a second, *burst* of them at once."""

    def __init__(self, burst: int) -> None:
        self.burst = burst
        self.free = 0.0

    def pass_time(self, now_ms: int) -> None:
        self.free = min(self.burst, self.free + 0.1 * STEP_MS) if now_ms >= OUTAGE_MS else 0.0

    def call(self) -> bool:
        if self.free < 1:
            return False
        self.free -= 1
        return True


def herd(*, budgeted: bool, retry: Retry, seed: int, burst: int, latency_ms: int = 0) -> Outcome:
    """2,000 deliveries whose first attempt finds the service down, retried until each is settled."""
    random, service, budget = Random(seed), Downstream(burst), fresh(0)
    due = [(0, delivery, 1) for delivery in range(2000)]
    flying: list[tuple[int, int, int, bool]] = []
    now_ms = attempts = served = failed = 0
    while due or flying:
        service.pass_time(now_ms)
        left, started = allowance(budget, now_ms) if budgeted else len(due), 0
        while due and due[0][0] <= now_ms and (due[0][2] == 1 or started < left):
            _, delivery, attempt = heapq.heappop(due)
            started += attempt > 1
            attempts += 1
            heapq.heappush(flying, (now_ms + latency_ms, delivery, attempt, service.call()))
        succeeded = 0
        while flying and flying[0][0] <= now_ms:
            _, delivery, attempt, success = heapq.heappop(flying)
            verdict = decide(retry, OSError(), attempt, 0, now_ms, random.random())
            if success:
                succeeded += 1
            elif isinstance(verdict, RetryAt):
                heapq.heappush(due, (verdict.due_ms, delivery, attempt + 1))
            else:
                failed += 1
        budget = earn(spend(budget, now_ms, started), now_ms, succeeded)
        served += succeeded
        now_ms += STEP_MS
    return Outcome(attempts, now_ms / 1000, served, failed)


@pytest.mark.parametrize(("burst", "latency_ms"), [(100, 0), (1, 0), (100, 500), (1, 500), (100, 2000)])
def test_the_herd_is_kept_off(burst: int, latency_ms: int) -> None:
    """2,000 failures, 30 s of outage, 100/s: a third of the attempts, and done in half of the time.

    Bounds of 7,000 attempts and 100 s hold for a service with and without queues, quick and slow.
    """
    for seed in (1, 2, 3):
        free = herd(budgeted=False, retry=PATIENT, seed=seed, burst=burst, latency_ms=latency_ms)
        kept = herd(budgeted=True, retry=PATIENT, seed=seed, burst=burst, latency_ms=latency_ms)
        assert kept.served == free.served == 2000
        assert kept.attempts <= 7000
        assert kept.seconds <= 100
        assert free.attempts / kept.attempts >= 2.5
        assert free.seconds / kept.seconds >= 1.5


def test_the_budget_saves_deliveries() -> None:
    """With eight attempts each, a herd without a budget fails deliveries for good; with it, none."""
    free = herd(budgeted=False, retry=Retry(), seed=1, burst=1)
    kept = herd(budgeted=True, retry=Retry(), seed=1, burst=1)
    assert free.failed > 100
    assert kept.failed == 0
    assert kept.served == 2000


def test_a_small_reserve_at_the_start() -> None:
    """A handler that just started may retry a few times before anything succeeded."""
    assert allowance(fresh(5), 5) == RESERVE
    assert allowance(spend(fresh(5), 5, RESERVE), 5) == 0


def test_failing_on_everything_trickles() -> None:
    """Without a single success retries go on at the refill, no faster."""
    state, started = fresh(0), 0
    for now_ms in range(0, 60_000, 10):
        count = allowance(state, now_ms)
        state, started = spend(state, now_ms, count), started + count
    assert RESERVE + 59 * REFILL_PER_S <= started <= RESERVE + 60 * REFILL_PER_S


def test_a_success_admits_more_than_one_retry() -> None:
    """Each success earns one and a half retries, up to the capacity."""
    empty = spend(fresh(0), 0, RESERVE)
    assert allowance(earn(empty, 0, 1), 0) == 1
    assert allowance(earn(empty, 0, 2), 0) == 3
    assert allowance(earn(empty, 0, 10**6), 0) == CAPACITY


def test_the_next_retry_has_a_time() -> None:
    """An empty budget tells when its refill admits a retry: then, and not a millisecond sooner."""
    empty = spend(fresh(0), 0, RESERVE)
    due_ms = next_allowance_ms(empty, 0)
    assert due_ms == 1000 // REFILL_PER_S
    assert allowance(empty, due_ms - 1) == 0
    assert allowance(empty, due_ms) == 1
    assert next_allowance_ms(fresh(7), 7) == 7


operations = st.lists(st.tuples(st.booleans(), st.integers(0, 5000), st.integers(-5_000, 60_000)), max_size=60)


@given(operations)
def test_a_budget_stays_within_its_bounds(history: list[tuple[bool, int, int]]) -> None:
    """After any history, with a clock that jumps too, it holds between nothing and its capacity."""
    state, now_ms = fresh(0), 0
    for spends, count, passed_ms in history:
        now_ms += passed_ms
        before = allowance(state, now_ms)
        assert 0 <= before <= CAPACITY
        state = (spend if spends else earn)(state, now_ms, count)
        after = allowance(state, now_ms)
        assert 0 <= after <= CAPACITY
        assert after == max(0, before - count) if spends else after >= before
        assert next_allowance_ms(state, now_ms) <= now_ms + 1000 // REFILL_PER_S


@given(st.lists(st.integers(0, 3000), min_size=1, max_size=50))
def test_asking_often_gains_nothing(pauses_ms: list[int]) -> None:
    """Time is worth the same in many small pieces as in one."""
    state: Budget = spend(fresh(0), 0, RESERVE)
    now_ms = 0
    for pause_ms in pauses_ms:
        now_ms += pause_ms
        state = spend(state, now_ms, 0)
    assert allowance(state, now_ms) == allowance(spend(fresh(0), 0, RESERVE), now_ms)
