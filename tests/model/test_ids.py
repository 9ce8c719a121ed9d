"""Event ids: UUID version 7."""

from uuid import RFC_4122, UUID

from hypothesis import given
from hypothesis import strategies as st

from antiphon.model.ids import uuid7

MS = st.integers(0, 2**48 - 1)
TAIL = st.integers(0, 2**74 - 1)


@given(MS, TAIL)
def test_an_id_is_a_uuid_of_version_7(ms: int, tail: int) -> None:
    """RFC 9562: 48 bits of milliseconds, then version and variant in their places; written in lower case."""
    text = uuid7(ms, tail)
    parsed = UUID(text)
    assert str(parsed) == text
    assert parsed.version == 7
    assert parsed.variant == RFC_4122
    assert parsed.int >> 80 == ms


@given(st.tuples(MS, TAIL), st.tuples(MS, TAIL))
def test_ids_sort_as_their_time_and_tail(one: tuple[int, int], other: tuple[int, int]) -> None:
    """Ids as text compare like (milliseconds, tail), so that a log in id order is in time order."""
    assert (uuid7(*one) < uuid7(*other)) == (one < other)


@given(MS, st.integers(0, 2**80))
def test_a_tail_too_long_is_cut(ms: int, tail: int) -> None:
    """Only the tail's lower 74 bits count; time, version and variant stay intact."""
    assert uuid7(ms, tail) == uuid7(ms, tail % 2**74)
