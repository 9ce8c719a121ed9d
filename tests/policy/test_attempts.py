"""The verdict on a failed attempt."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from antiphon.errors import InvalidEvent, Reject
from antiphon.model.delivery import DeadLetter, RetryAt, Status
from antiphon.model.retry import Retry, hours, milliseconds, minutes, seconds
from antiphon.policy.attempts import crash_verdict, decide, delay, expired, longest_delay
from antiphon.policy.words import span

randoms = st.floats(min_value=0, max_value=1, exclude_max=True)
times = st.integers(min_value=0, max_value=2**45)
attempt_numbers = st.integers(min_value=1, max_value=10**9)


@st.composite
def policies(draw: st.DrawFn) -> Retry:
    """Any policy that may be declared."""
    first_ms = draw(st.integers(min_value=0, max_value=10**9))
    return Retry(
        attempts=draw(st.integers(min_value=1, max_value=10**6)),
        first=timedelta(milliseconds=first_ms),
        factor=draw(st.floats(min_value=1, allow_nan=False)),
        cap=timedelta(milliseconds=first_ms + draw(st.integers(min_value=0, max_value=10**10))),
        jitter=draw(st.booleans()),
        max_age=timedelta(milliseconds=draw(st.integers(min_value=1, max_value=10**11))),
        crashes=draw(st.integers(min_value=1, max_value=20)),
    )


def test_delays_double_up_to_the_cap() -> None:
    """Without jitter the waits are first, first x factor, ... and never more than the cap."""
    retry = Retry(first=seconds(1), factor=2, cap=seconds(10), jitter=False)
    assert [delay(retry, attempt, 0.5) for attempt in (1, 2, 3, 4, 5, 6)] == [
        1000, 2000, 4000, 8000, 10_000, 10_000,
    ]  # fmt: skip


def test_full_jitter_spreads_over_the_whole_wait() -> None:
    """With jitter the wait goes from nothing to the longest one, both included."""
    retry = Retry(first=seconds(1), jitter=True)
    assert delay(retry, 1, 0.0) == 0
    assert delay(retry, 1, 0.5) == 500
    assert delay(retry, 1, 0.9999999) == 1000


@given(policies(), attempt_numbers, randoms)
def test_a_delay_stays_within_its_bounds(retry: Retry, attempt: int, random: float) -> None:
    """A wait is never negative and never past the longest one, which is never past the cap."""
    longest = longest_delay(retry, attempt)
    assert 0 <= delay(retry, attempt, random) <= longest <= milliseconds(retry.cap)


@given(policies(), attempt_numbers, attempt_numbers)
def test_longest_delays_never_shrink(retry: Retry, one: int, other: int) -> None:
    """A later attempt never has a shorter longest wait, however large the numbers get."""
    assert longest_delay(retry, min(one, other)) <= longest_delay(retry, max(one, other))


@given(policies(), attempt_numbers, times, times, randoms)
def test_a_retry_is_within_attempts_and_age(
    retry: Retry, attempt: int, first_ms: int, elapsed_ms: int, random: float
) -> None:
    """A retry is due now or later, within the maximum age, with an attempt left; all else is FAILED."""
    now_ms = first_ms + elapsed_ms
    verdict = decide(retry, ValueError("x"), attempt, first_ms, now_ms, random)
    if isinstance(verdict, RetryAt):
        assert attempt < retry.attempts
        assert now_ms <= verdict.due_ms <= first_ms + milliseconds(retry.max_age)
        assert verdict.due_ms <= now_ms + milliseconds(retry.cap)
        assert expired(retry, first_ms, verdict.due_ms) is None
    else:
        assert isinstance(verdict, DeadLetter)
        assert verdict.status is Status.FAILED
        late = now_ms + milliseconds(retry.cap) > first_ms + milliseconds(retry.max_age)
        assert attempt >= retry.attempts or late


@given(policies(), st.integers(min_value=0, max_value=10**6), randoms)
def test_every_delivery_ends(retry: Retry, first_ms: int, random: float) -> None:
    """Failing each time, a delivery ends after exactly its attempts, or sooner by its age."""
    small = Retry(attempts=min(retry.attempts, 20), first=retry.first, factor=retry.factor, cap=retry.cap)
    now_ms, attempt = first_ms, 1
    while isinstance(verdict := decide(small, OSError(), attempt, first_ms, now_ms, random), RetryAt):
        now_ms, attempt = verdict.due_ms, attempt + 1
    assert attempt <= small.attempts


def test_a_refusal_is_an_error_at_once() -> None:
    """Reject and a broken contract are ERROR with their reason, with attempts left and whatever *on* says."""
    retry = Retry(on=(Reject, InvalidEvent))
    assert decide(retry, Reject("no such flight"), 1, 0, 0, 0.5) == DeadLetter(Status.ERROR, "Reject: no such flight.")
    broken = InvalidEvent("BookingCreated", "$.price", "must not be negative")
    assert decide(retry, broken, 1, 0, 0, 0.5) == DeadLetter(
        Status.ERROR, "InvalidEvent: BookingCreated: $.price: must not be negative."
    )


def test_a_refusal_inside_a_task_group_counts() -> None:
    """A group of one error, as a task group raises it, is judged as that error."""
    verdict = decide(Retry(), ExceptionGroup("tasks", [Reject("sold out")]), 1, 0, 0, 0.5)
    assert verdict == DeadLetter(Status.ERROR, "Reject: sold out.")


def test_types_to_give_up_on_fail_at_once() -> None:
    """A type in *give_up* fails without another attempt, also if *on* covers it."""
    retry = Retry(on=(Exception,), give_up=(LookupError,))
    assert decide(retry, KeyError("seat"), 1, 0, 0, 0.5) == DeadLetter(
        Status.FAILED, "the retry policy gives up on it: KeyError: 'seat'"
    )


def test_types_not_retried_fail_at_once() -> None:
    """A type outside *on* fails without another attempt."""
    assert decide(Retry(on=(OSError,)), ValueError("bad"), 1, 0, 0, 0.5) == DeadLetter(
        Status.FAILED, "the retry policy does not retry it: ValueError: bad"
    )
    assert isinstance(decide(Retry(on=(OSError,)), TimeoutError(), 1, 0, 0, 0.5), RetryAt)


def test_the_reason_tells_attempts_and_time() -> None:
    """When attempts are used up the dead letter says how many, in what time, and the last error."""
    spent = milliseconds(hours(3) + minutes(2)) + 59_000
    assert decide(Retry(), OSError("mail server down"), 8, 1000, 1000 + spent, 0.5) == DeadLetter(
        Status.FAILED, "gave up after 8 attempts in 3 h 2 min: OSError: mail server down"
    )
    assert decide(Retry(attempts=1), OSError(), 1, 0, 0, 0.5) == DeadLetter(
        Status.FAILED, "gave up after 1 attempt in 0 ms: OSError"
    )


def test_no_attempt_is_due_past_the_maximum_age() -> None:
    """A next attempt that would be due past the maximum age is not scheduled; the very last moment is."""
    retry = Retry(first=seconds(10), jitter=False, max_age=seconds(60))
    assert decide(retry, OSError(), 1, 0, 50_000, 0.5) == RetryAt(60_000)
    assert isinstance(decide(retry, OSError(), 1, 0, 50_001, 0.5), DeadLetter)


def test_age_runs_out_while_waiting() -> None:
    """A waiting delivery expires after its maximum age, not at it."""
    retry = Retry(max_age=hours(24))
    assert expired(retry, 500, 500 + milliseconds(hours(24))) is None
    assert expired(retry, 500, 500 + milliseconds(hours(30))) == DeadLetter(
        Status.FAILED, "gave up 1 d 6 h after the first attempt; 1 d are allowed"
    )


@given(policies(), st.integers(min_value=1, max_value=50), times)
def test_crashes_are_bounded(retry: Retry, crashes: int, now_ms: int) -> None:
    """A delivery that kills its process is retried within the cap until *crashes*, then set aside."""
    verdict = crash_verdict(retry, crashes, now_ms)
    if crashes < retry.crashes:
        assert isinstance(verdict, RetryAt)
        assert now_ms <= verdict.due_ms <= now_ms + milliseconds(retry.cap)
    else:
        assert isinstance(verdict, DeadLetter)
        assert verdict.status is Status.FAILED


def test_the_crash_reason_counts() -> None:
    """The dead letter of a killer says how often the process died."""
    assert crash_verdict(Retry(crashes=3), 3, 0) == DeadLetter(Status.FAILED, "its process died 3 times while it ran")


def test_an_error_that_cannot_be_printed_is_judged() -> None:
    """An error whose __str__ raises, or holds a lone surrogate, still gets a verdict with a reason."""

    class Unprintable(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    verdict = decide(Retry(attempts=1), Unprintable(), 1, 0, 0, 0.5)
    assert isinstance(verdict, DeadLetter)
    assert "its __str__ raised RuntimeError" in verdict.reason
    verdict = decide(Retry(attempts=1), ValueError("\ud800 \0 price", Decimal(1)), 1, 0, 0, 0.5)
    assert isinstance(verdict, DeadLetter)
    verdict.reason.encode()


@given(st.text(max_size=3000))
def test_a_reason_is_one_bounded_line(message: str) -> None:
    """Whatever an error says, its reason is one storable line of bounded size."""
    verdict = decide(Retry(attempts=1), ValueError(message), 1, 0, 0, 0.5)
    assert isinstance(verdict, DeadLetter)
    assert len(verdict.reason.encode()) < 600
    assert not set("\0\n") & set(verdict.reason)


def test_spans_read_in_two_units() -> None:
    """A span shows its largest unit and the next one if that is not zero."""
    read = {0: "0 ms", 999: "999 ms", 1000: "1 s", 61_000: "1 min 1 s", 3_600_000: "1 h",
            3_601_000: "1 h", 10_920_000: "3 h 2 min", 100_800_000: "1 d 4 h", -5: "0 ms"}  # fmt: skip
    assert {ms: span(ms) for ms in read} == read
