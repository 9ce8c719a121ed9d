"""The contract of an event's data: JSON text of one class, checked on the way out and on the way in.

The check is one typed decode in C. What the decoder cannot see (a zone that is missing, an integer that
a double cannot hold) is looked for afterwards, only in the fields whose type can hold it; what the encoder
hides (NaN becomes null) shows as a difference between the object and its decoded copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, time
from decimal import Decimal
from math import isfinite
from typing import Any, Literal
from uuid import UUID

import msgspec

from antiphon.errors import InvalidEvent, PayloadTooLarge
from antiphon.model.jsontext import MAX_DEPTH, MAX_INTEGER, NOT_UNICODE, PAST_2_53, Flaw, strict_json
from antiphon.model.reasons import msgspec_reason, pydantic_reason
from antiphon.model.shape import Fields, all_fields, check_json_types, watched_fields

Kind = Literal["struct", "dataclass", "pydantic"]
Leaf = Callable[[Any], str | None]
Dump = Callable[[Any], bytes]
Load = Callable[[bytes], Any]

_dump: Dump = msgspec.json.Encoder().encode
_UNENCODABLE = (TypeError, ValueError, OverflowError, RecursionError, msgspec.EncodeError)
_HARMLESS: frozenset[type] = frozenset({str, bytes, bool, type(None), UUID})


class Payload:
    """Encodes and decodes the data of one event class.

    Raises DeclarationError for a field type that JSON cannot carry, and NameError while an annotation
    names something that is not defined yet.
    """

    __slots__ = ("_dump", "_load", "_type_name", "_watched")

    def __init__(self, cls: type, kind: Kind, type_name: str) -> None:
        self._type_name = type_name
        self._dump, self._load = _pydantic_codec(cls) if kind == "pydantic" else _msgspec_codec(cls)
        self._watched = watched_fields(cls)

    def write(self, obj: object, limit: int) -> bytes:
        """The JSON text of *obj*, at most *limit* bytes; raises InvalidEvent, PayloadTooLarge."""
        try:
            data = self._dump(obj)
        except _UNENCODABLE as error:
            raise self._unencodable(obj, error) from error
        if len(data) > limit:
            reason = f"{len(data):,} bytes of data; the limit is {limit:,} bytes"
            raise PayloadTooLarge(self._type_name, "$", reason)
        try:
            copy = self.read(data)
        except InvalidEvent:
            # Where NaN became null, the decoder's complaint would be of the null.
            self._refuse_flaw(find_flaw(obj, _lost_in_json, all_fields))
            raise
        # Comparing costs a tenth of the decode, and is the only trace of a value that the encoder changed.
        if copy != obj:
            self._refuse_flaw(find_flaw(obj, _lost_in_json, all_fields))
        return data

    def read(self, data: bytes) -> Any:
        """The object that *data* holds; raises InvalidEvent, or Undecodable if it is not JSON at all."""
        try:
            obj = self._load(data)
        except Exception as error:  # a class's own __post_init__ or validator may raise anything
            raise self._undecodable(error, data) from error
        for name, json_name in self._watched:
            value = getattr(obj, name)
            # The types of most fields are settled here; find_flaw would say the same, ten times slower.
            kind = value.__class__
            if kind is int:
                if -MAX_INTEGER <= value <= MAX_INTEGER:
                    continue
            elif kind is datetime:
                if value.tzinfo is not None:
                    continue
            elif kind is Decimal:
                if value.is_finite():
                    continue
            elif kind in _HARMLESS:
                continue
            if flaw := find_flaw(value, _unlawful, watched_fields, depth=1):
                self._refuse_flaw(flaw.below(json_name))
        return obj

    def rewrite(self, value: object) -> bytes:
        """The JSON text of a plain *value* that stands for an event; raises InvalidEvent."""
        self._refuse_flaw(find_flaw(value, _lost_in_json, all_fields))
        try:
            return _dump(value)
        except _UNENCODABLE as error:
            raise self._unencodable(value, error) from error

    def _refuse_flaw(self, flaw: Flaw | None) -> None:
        if flaw:
            raise InvalidEvent(self._type_name, flaw.path, flaw.reason)

    def _unencodable(self, obj: object, error: Exception) -> InvalidEvent:
        flaw = find_flaw(obj, _unwritable, all_fields, skip=frozenset()) or Flaw(str(error))
        return InvalidEvent(self._type_name, flaw.path, flaw.reason)

    def _undecodable(self, error: Exception, data: bytes) -> InvalidEvent:
        # The strict parser sees first whatever is wrong with the text itself, and knows where.
        value = strict_json(data, limit=len(data), type_name=self._type_name)
        if isinstance(error, msgspec.ValidationError):
            return InvalidEvent(self._type_name, *msgspec_reason(error, value, self._fails_with))
        if hasattr(error, "errors"):
            return InvalidEvent(self._type_name, *pydantic_reason(error.errors()[0], value))
        return InvalidEvent(self._type_name, "$", f"{type(error).__name__}: {error}")

    def _fails_with(self, value: object) -> str | None:
        try:
            self._load(_dump(value))
        except msgspec.ValidationError as error:
            return str(error)
        return None


def _msgspec_codec(cls: type) -> tuple[Dump, Load]:
    check_json_types(cls)
    return _dump, msgspec.json.Decoder(cls).decode


def _pydantic_codec(cls: Any) -> tuple[Dump, Load]:
    # Both are public attributes of models and of Pydantic's dataclasses, so nothing has to be imported.
    def dump(obj: Any) -> bytes:
        data: bytes = cls.__pydantic_serializer__.to_json(obj, by_alias=True, warnings=False)
        return data

    def load(data: bytes) -> Any:
        return cls.__pydantic_validator__.validate_json(data, strict=True)

    return dump, load


def find_flaw(
    value: Any,
    leaf: Leaf,
    fields: Callable[[type], Fields],
    *,
    skip: frozenset[type] = _HARMLESS,
    depth: int = 0,
) -> Flaw | None:
    """The first flaw that *leaf* sees in *value* or below it.

    *fields* says which fields of an object to look at, *skip* which types never have a flaw.
    """
    if depth > MAX_DEPTH:
        return Flaw(f"nested deeper than {MAX_DEPTH} levels")
    if reason := leaf(value):
        return Flaw(reason)
    children: Iterable[tuple[Any, Any]]
    if isinstance(value, dict):
        children = value.items()
    elif isinstance(value, (list, tuple, set, frozenset)):
        children = enumerate(value)
    else:
        children = [(json_name, getattr(value, name)) for name, json_name in fields(type(value))]
    for part, child in children:
        kind = child.__class__
        if kind in skip or (kind is int and -MAX_INTEGER <= child <= MAX_INTEGER):
            continue
        if flaw := find_flaw(child, leaf, fields, skip=skip, depth=depth + 1):
            return flaw.below(part if isinstance(value, (list, tuple, set, frozenset)) else str(part))
    return None


def _unlawful(value: Any) -> str | None:
    """What no event may hold, whichever way it came."""
    if isinstance(value, int):
        return None if -MAX_INTEGER <= value <= MAX_INTEGER else PAST_2_53
    if isinstance(value, float):
        return None if isfinite(value) else f"{value} is not a JSON number"
    if isinstance(value, Decimal):
        return None if value.is_finite() else f"{value} is not a number"
    if isinstance(value, (datetime, time)):
        return None if value.tzinfo is not None else f"a {type(value).__name__} needs a zone"
    return None


def _lost_in_json(value: Any) -> str | None:
    """What JSON text cannot give back."""
    if isinstance(value, dict):
        if len({str(key) for key in value}) < len(value):
            return "two keys that read the same as text"
        return _unwritable(value)  # Pydantic writes a replacement for keys that are not Unicode
    return None if isinstance(value, (datetime, time)) else _unlawful(value)


def _unwritable(value: Any) -> str | None:
    """Why a leaf, or a key of a dict, cannot be JSON."""
    if isinstance(value, dict):
        reasons = (_unwritable_key(key) for key in value)
        return next(filter(None, reasons), None)
    cls: Any = type(value)
    if issubclass(cls, (list, tuple, set, frozenset)) or all_fields(cls):
        return None
    try:
        _dump(value)
    except UnicodeEncodeError:
        return NOT_UNICODE
    except _UNENCODABLE:
        return f"a value of type {cls.__qualname__} cannot be JSON"
    return None


def _unwritable_key(key: Any) -> str | None:
    try:
        _dump({key: None})
    except UnicodeEncodeError:
        return f"a key that is {NOT_UNICODE}"
    except _UNENCODABLE:
        return f"a key of type {type(key).__qualname__} cannot be JSON"
    return None
