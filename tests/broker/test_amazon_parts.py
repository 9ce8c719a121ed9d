"""What the buses on AWS do before they ask it anything: their URLs, waves, batches, canonical texts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.broker.amazon import batches, group_of, waves
from antiphon.broker.connecting import bus_at
from antiphon.broker.eventbridge import canonical
from antiphon.errors import DeclarationError
from antiphon.model.envelope import Envelope
from antiphon.model.retry import days
from antiphon.runtime.clock import SystemClock
from antiphon.testing.conformance.kit import envelope

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqs://user:secret@eu-west-1", "has a user"),
        ("sqs://eu-west-1?fifo=1", "no option 'fifo'"),
        ("sqs://eu-west-1?order=some", "no order 'some'"),
        ("eventbridge://eu-west-1", "keeps no order"),
    ],
)
def test_urls_that_are_refused(url: str, said: str, tmp_path: Path) -> None:
    """The error says what is wrong, and shows no password."""
    with pytest.raises(DeclarationError) as caught:
        bus_at(url, "app", keep=days(7))(tmp_path, clock=SystemClock(), owner="one")
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


_EVENTS = st.lists(st.sampled_from([None, "", "a", "b", "\x00"])).map(
    lambda keys: [envelope(n, key=key) for n, key in enumerate(keys)]
)


@given(_EVENTS)
def test_waves(events: list[Envelope]) -> None:
    """All events, none twice; in a wave no key twice; those of a key in their order."""
    found = list(waves(events))
    for wave in found:
        groups = [group_of(event) for event in wave]
        assert len(groups) == len(set(groups))
    for key in {event.key for event in events} - {None}:
        assert [e.id for wave in found for e in wave if e.key == key] == [e.id for e in events if e.key == key]
    assert sorted(e.id for wave in found for e in wave) == sorted(e.id for e in events)


@given(st.lists(st.binary(max_size=9)))
def test_batches(items: list[bytes]) -> None:
    """All items in their order, in batches that are neither too long nor too large."""
    found = list(batches(items, len, most=3, largest=10))
    assert [item for batch in found for item in batch] == items
    assert all(0 < len(batch) <= 3 and sum(map(len, batch)) <= 10 for batch in found)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text("aé\x00\u2028"),
        lambda inner: st.lists(inner) | st.dictionaries(st.text("ab"), inner),
    )
)
def test_canonical_text_survives_other_programs(value: object) -> None:
    """What another program reads and writes anew, in its own way, has one canonical text."""
    text = canonical(json.dumps(value).encode())
    if text is not None:
        assert json.loads(text) == value
        for anew in (json.dumps(json.loads(text)), json.dumps(json.loads(text), ensure_ascii=False, indent=1)):
            assert canonical(anew.encode()) == text
