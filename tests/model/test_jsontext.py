"""Strict JSON: foreign text is read by all parsers alike, or refused with its path."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.errors import PayloadTooLarge, Undecodable
from antiphon.model.jsontext import strict_json

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)


@given(JSON, st.booleans(), st.sampled_from([None, (",", ":")]))
def test_good_json_is_read_as_it_is(value: Any, ascii_only: bool, separators: tuple[str, str] | None) -> None:
    """Every JSON value within the limits is read, escaped or not, spaced or not."""
    text = json.dumps(value, ensure_ascii=ascii_only, separators=separators).encode()
    assert repr(strict_json(text)) == repr(value)


@given(JSON, st.none() | st.tuples(st.integers(0), st.integers(0, 255)))
def test_what_we_have_written_is_read_as_any_other_text(value: Any, damage: tuple[int, int] | None) -> None:
    """Which is known to be strict by its bytes: the parser that looks at each part finds or refuses the same."""
    text = bytearray(msgspec.json.encode(value))
    if damage is not None:
        place, byte = damage
        text[place % len(text)] = byte
    assert found_in(bytes(text)) == found_in(b" " + text)


def found_in(text: bytes) -> str:
    """The value, in which 1 is not 1.0."""
    try:
        return repr(strict_json(text))
    except Undecodable:
        return "refused"


@pytest.mark.parametrize(
    ("text", "path", "reason"),
    [
        (b'{"a":1,"a":1}', "$.a", "occurs twice"),
        (b'{"a":[{"b":1},{"c d":{"e":1,"e":2}}]}', '$.a[1]["c d"].e', "occurs twice"),
        (b'{"a":1,"\\u0061":2}', "$.a", "occurs twice"),
        (b'{"a":[0,NaN]}', "$.a[1]", "NaN is not a JSON number"),
        (b"Infinity", "$", "Infinity is not"),
        (b"[-Infinity]", "$[0]", "-Infinity is not"),
        (b"[1e400]", "$[0]", "too large"),
        (b"[9007199254740993]", "$[0]", "beyond 2^53"),
        (b'{"a":-9007199254740993}', "$.a", "beyond 2^53"),
        (b"[" + b"9" * 5000 + b"]", "$[0]", "beyond 2^53"),
        (b'["\\ud800"]', "$[0]", "lone surrogate"),
        (b'{"a":{"\\udfff":1}}', "$.a", "lone surrogate"),
        (b"\xff", "$", "not UTF-8: invalid start byte at byte 0"),
        (b'{"a":1', "$", "not JSON"),
        (b"", "$", "not JSON: Expecting value at line 1, column 1"),
        (b"\xef\xbb\xbf{}", "$", "not JSON"),
        (b"[1,]", "$", "not JSON"),
        (b"01", "$", "not JSON"),
        (b"'a'", "$", "not JSON"),
        (b'"\n"', "$", "not JSON"),
    ],
)
def test_what_parsers_read_differently_is_refused(text: bytes, path: str, reason: str) -> None:
    """Each is Undecodable, with the path and the reason."""
    with pytest.raises(Undecodable) as caught:
        strict_json(text)
    assert caught.value.field == path
    assert reason in caught.value.reason


@pytest.mark.parametrize("text", [b'["\\ud83d\\ude00"]', b'"9007199254740993"', b"9007199254740992", b"1e15"])
def test_what_only_looks_bad_is_read(text: bytes) -> None:
    """A surrogate pair, digits in text, the last exact integer: all are good."""
    assert strict_json(text) == json.loads(text)


def test_depth_is_bounded() -> None:
    """As deep as asked for is read, one deeper is refused, and no depth exhausts the stack."""
    assert strict_json(b"[" * 5 + b"]" * 5, depth=5) == [[[[[]]]]]
    for levels in (6, 200, 100_000):
        with pytest.raises(Undecodable, match="nested"):
            strict_json(b"[" * levels + b"]" * levels, depth=5)
    assert strict_json(b"[" + b"[]," * 500 + b"[]]", depth=2) == [[]] * 501


def test_size_is_bounded() -> None:
    """More bytes than the limit are not even parsed."""
    assert strict_json(b'"abc"', limit=5) == "abc"
    with pytest.raises(PayloadTooLarge, match="5 bytes of data; the limit is 4 bytes"):
        strict_json(b'"abc"', limit=4)


@given(st.binary(max_size=80))
def test_no_bytes_break_the_parser(data: bytes) -> None:
    """Any bytes are read or Undecodable; what is read is what Python's own parser reads."""
    try:
        value = strict_json(data)
    except Undecodable:
        return
    assert value == json.loads(data)
