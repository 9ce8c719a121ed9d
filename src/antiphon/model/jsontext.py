"""Strict JSON: what other parsers read differently, or not at all, is refused with its path."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, NoReturn

import msgspec

from antiphon.errors import PayloadTooLarge, Undecodable

#: The largest payload unless another limit is set, in bytes.
MAX_PAYLOAD = 1024 * 1024
#: Levels of nesting. Parsers differ from some hundreds on, and ours depend on the stack they run in.
MAX_DEPTH = 100
#: Every integer up to here is exact as a double, which is what most JSON parsers make of it.
MAX_INTEGER = 2**53

PAST_2_53 = "an integer beyond 2^53 loses digits in other JSON parsers; send it as text"
NOT_UNICODE = "text that is not Unicode (a lone surrogate)"

_PLAIN_NAME = re.compile(r"\w+")
_SURROGATE = re.compile("[\ud800-\udfff]")
_MAX_DIGITS = 40

_decode: Callable[[bytes], Any] = msgspec.json.Decoder().decode
_encode: Callable[[Any], bytes] = msgspec.json.Encoder().encode
_ALL_DIGITS_ARE_0 = bytes.maketrans(b"123456789", b"000000000")
_AS_LONG_AS_2_53 = b"0" * len(str(MAX_INTEGER))
_UNSURE = object()


@dataclass(frozen=True, slots=True)
class Flaw:
    """A reason and the path to it, innermost part first."""

    reason: str
    parts: tuple[str | int, ...] = ()

    def below(self, part: str | int) -> Flaw:
        """The same flaw, seen from one level further up."""
        return Flaw(self.reason, (*self.parts, part))

    @property
    def path(self) -> str:
        """As in ``$.lines[0].price``."""
        return path_of(self.parts[::-1])


def path_of(parts: Sequence[str | int]) -> str:
    """The JSON path of *parts*, from the root ``$``."""
    steps = (
        f"[{part}]"
        if isinstance(part, int)
        else f".{part}"
        if _PLAIN_NAME.fullmatch(str(part))
        else f"[{json.dumps(str(part))}]"
        for part in parts
    )
    return "$" + "".join(steps)


def strict_json(data: bytes, *, limit: int = MAX_PAYLOAD, depth: int = MAX_DEPTH, type_name: str = "JSON") -> Any:
    """The value that *data* holds.

    Raises PayloadTooLarge beyond *limit* bytes. Raises Undecodable, with the path, for what is not UTF-8
    or not JSON, a key that occurs twice, NaN and infinities, integers past 2^53, lone surrogates, and
    nesting beyond *depth* levels. *type_name* is what errors call it.
    """
    if len(data) > limit:
        raise PayloadTooLarge(type_name, "$", f"{len(data):,} bytes of data; the limit is {limit:,} bytes")

    value = _as_we_write_it(data, depth)
    if value is not _UNSURE:
        return value

    def refuse(reason: str, path: str = "$") -> NoReturn:
        raise Undecodable(type_name, path, reason)

    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        refuse(f"not UTF-8: {error.reason} at byte {error.start}")
    parser = _Parser()
    try:
        value = parser.decode(text)
        suspect = parser.is_flawed or "\\u" in text or text.count("{") + text.count("[") > depth
        flaw = _find(value, depth) if suspect else None
    except json.JSONDecodeError as error:
        refuse(f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}")
    except RecursionError:
        refuse(f"nested deeper than {depth} levels")
    if flaw:
        refuse(flaw.reason, flaw.path)
    return value


def _as_we_write_it(data: bytes, depth: int) -> Any:
    """The value of text that is what we would write of that value, byte for byte; of any other, _UNSURE.

    No key can occur twice in it, and no number is one that would be written otherwise. What is left to look for takes
    a look at the bytes. It is nearly all of our own events, and costs half of looking at each part, or less.
    """
    if (
        b"\\u" in data
        or data.count(b"{") + data.count(b"[") > depth
        or _AS_LONG_AS_2_53 in data.translate(_ALL_DIGITS_ARE_0)
    ):
        return _UNSURE
    try:
        value = _decode(data)
        return value if _encode(value) == data else _UNSURE
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _UNSURE


class _Parser(json.JSONDecoder):
    """Puts a Flaw in the place of each bad value, since the hooks do not know where they are."""

    def __init__(self) -> None:
        super().__init__(
            object_pairs_hook=self._object,
            parse_int=self._integer,
            parse_float=self._float,
            parse_constant=self._constant,
        )
        self.is_flawed = False

    def _flaw(self, reason: str, *parts: str) -> Flaw:
        self.is_flawed = True
        return Flaw(reason, parts)

    def _object(self, pairs: list[tuple[str, Any]]) -> Any:
        result = dict(pairs)
        if len(result) == len(pairs):
            return result
        counts = Counter(key for key, _ in pairs)
        return self._flaw("this key occurs twice", next(key for key in counts if counts[key] > 1))

    def _integer(self, digits: str) -> Any:
        if len(digits) < _MAX_DIGITS and -MAX_INTEGER <= (number := int(digits)) <= MAX_INTEGER:
            return number
        return self._flaw(PAST_2_53)

    def _float(self, digits: str) -> Any:
        number = float(digits)
        return number if isfinite(number) else self._flaw("the number is too large")

    def _constant(self, name: str) -> Any:
        return self._flaw(f"{name} is not a JSON number")


def _find(value: Any, depth: int) -> Flaw | None:
    if isinstance(value, Flaw):
        return value
    if isinstance(value, str):
        return Flaw(NOT_UNICODE) if _SURROGATE.search(value) else None
    if not isinstance(value, (dict, list)):
        return None
    if depth == 0:
        return Flaw("nested too deeply here")
    for part, child in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(part, str) and _SURROGATE.search(part):
            return Flaw(f"a key that is {NOT_UNICODE}")
        if flaw := _find(child, depth - 1):
            return flaw.below(part)
    return None
