"""How a redrive of many goes on, step by step."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.policy.redriving import LARGEST_STEP, LOOK_MS, WINDOW, End, Look, Redrive, Send, next_step

WAITING = Redrive(
    state="running",
    rate=None,
    stop_share=None,
    stop_after=5,
    next_ms=0,
    waiting=1_000,
    pending=0,
    failing=0,
    succeeded=0,
    failed=0,
)


def having(**changes: object) -> Redrive:
    """A redrive of a thousand, changed."""
    return msgspec.structs.replace(WAITING, **changes)


def test_without_limits_it_goes_in_large_steps() -> None:
    """A step is bounded, so that nobody else waits long for the store."""
    assert next_step(WAITING, 7) == Send(LARGEST_STEP, 7, "running")
    assert next_step(having(waiting=3), 7) == Send(3, 7, "running")


@pytest.mark.parametrize(
    ("rate", "count", "next_ms"), [(0.1, 1, 10_000), (1, 1, 1_000), (3, 1, 333), (50, 5, 100), (1e6, 250, 0)]
)
def test_a_rate_spaces_the_steps(rate: float, count: int, next_ms: int) -> None:
    """The next step comes when the rate allows it; a high rate sends some at a time."""
    assert next_step(having(rate=rate), 0) == Send(count, next_ms, "running")


def test_before_its_time_nothing_goes() -> None:
    """It waits until then; with a stop share it looks at outcomes meanwhile."""
    assert next_step(having(rate=1, next_ms=900), 0) == Look(900, "running")
    assert next_step(having(rate=1, next_ms=900, stop_share=0.5), 0) == Look(LOOK_MS, "running")


def test_a_canary_decides() -> None:
    """One goes; the others when it has succeeded; none when it has died. A skipped one is replaced."""
    canary = having(state="canary")
    assert next_step(canary, 5) == Send(1, 5, "canary")
    assert next_step(msgspec.structs.replace(canary, pending=1, failing=1), 5) == Look(LOOK_MS, "canary")
    assert next_step(msgspec.structs.replace(canary, succeeded=1), 5) == Send(LARGEST_STEP, 5, "running")
    assert next_step(msgspec.structs.replace(canary, failed=1), 5) == End("stopped", "the canary failed again")
    assert next_step(msgspec.structs.replace(canary, waiting=0), 5) == End("done")


def test_the_end_comes_with_the_last_outcome() -> None:
    """When all have gone it settles, and is done when nothing is pending."""
    assert isinstance(settling := next_step(having(waiting=0, pending=2), 0), Look)
    assert settling.state == "settling"
    assert next_step(having(waiting=0, succeeded=4, failed=9), 0) == End("done")


def test_a_share_of_failures_stops_it() -> None:
    """Of at least so many outcomes; one that is tried again after a failure counts as a failure."""
    strict = having(stop_share=0.2)
    assert isinstance(next_step(msgspec.structs.replace(strict, failed=4), 0), Send)
    assert isinstance(next_step(msgspec.structs.replace(strict, failed=1, succeeded=5), 0), Send)
    stopped = next_step(msgspec.structs.replace(strict, failed=1, succeeded=4), 0)
    assert stopped == End("stopped", "1 of 5 failed again; 1000 have not gone")
    assert isinstance(next_step(msgspec.structs.replace(strict, pending=1, failing=1, succeeded=4), 0), End)


def test_a_stop_share_bounds_what_is_untried() -> None:
    """Else all would have gone before the first outcome."""
    strict = having(stop_share=0.2)
    assert next_step(strict, 0) == Send(WINDOW, 0, "running")
    assert next_step(msgspec.structs.replace(strict, pending=WINDOW), 0) == Look(LOOK_MS, "running")
    assert next_step(msgspec.structs.replace(strict, pending=WINDOW, failing=2), 0) == Send(2, 0, "running")


@given(
    state=st.sampled_from(["canary", "running", "settling"]),
    rate=st.none() | st.floats(0.001, 1e6),
    share=st.none() | st.floats(0.01, 1),
    counts=st.tuples(*[st.integers(0, 500)] * 4),
    failing=st.integers(0, 500),
    now_ms=st.integers(0, 10**6),
    next_ms=st.integers(0, 10**6),
)
def test_every_step_makes_sense(
    state: str,
    rate: float | None,
    share: float | None,
    counts: tuple[int, int, int, int],
    failing: int,
    now_ms: int,
    next_ms: int,
) -> None:
    """Never more than wait, never before its time, never a wait of nothing, never an end that leaves some."""
    waiting, pending, succeeded, failed = counts
    redrive = Redrive(state, rate, share, 5, next_ms, waiting, pending, min(failing, pending), succeeded, failed)
    match next_step(redrive, now_ms):
        case Send(count, following_ms, _):
            assert 1 <= count <= waiting
            assert following_ms >= now_ms
            assert state == "canary" or now_ms >= next_ms
        case Look(wait_ms, _):
            assert wait_ms > 0
        case End("done", reason):
            assert (waiting, pending, reason) == (0, 0, None)
        case End(_, reason):
            assert reason
