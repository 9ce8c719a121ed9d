"""Makes values of a type out of its JSON Schema and a seeded random: few different ones, so that keys meet."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from random import Random  # noqa: TID251  seeded: it is the simulator's
from typing import Any

import msgspec

from antiphon.errors import AntiphonError

_TEXTS = ("a", "b", "c", "ab", "1", "12", "1234", "ABC", "a@b.example", "XY12", "2026-01-01", "00:00", "a b")
_TRIES = 40
_DEEPEST = 6
_MOMENTS = ("2026-01-01T00:00:00Z", "2026-06-30T12:00:00Z", "2026-12-31T23:59:59Z")
_FORMATS: dict[str, Sequence[str]] = {
    "date-time": _MOMENTS,
    "date": ("2026-01-01", "2026-06-30"),
    "time": ("12:00:00Z", "23:59:59Z"),
    "duration": ("PT1S", "P1D"),
    "uuid": tuple(f"00000000-0000-4000-8000-00000000000{n}" for n in range(5)),
    "email": ("a@b.example", "c@d.example"),
    "uri": ("https://a.example/", "https://b.example/"),
    "decimal": ("1.00", "9.99", "100"),
}


def schema_of(cls: Any) -> dict[str, Any]:
    """The JSON Schema of a type. Raises AntiphonError for one that has none."""
    try:
        if hasattr(cls, "__pydantic_validator__"):
            schema: dict[str, Any] = cls.model_json_schema() if hasattr(cls, "model_json_schema") else _adapted(cls)
            return schema
        return msgspec.json.schema(cls)
    except TypeError as error:
        raise AntiphonError(
            f"what comes in cannot be made up: {error}",
            where=getattr(cls, "__qualname__", str(cls)),
            mend="Say it with @app.traffic",
        ) from error


def _adapted(cls: Any) -> dict[str, Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(cls).json_schema()


class Maker:
    """Makes values of one type. *accepts* tells whether the type takes a value; what it never takes is refused."""

    def __init__(self, cls: Any, accepts: Any) -> None:
        self._schema = schema_of(cls)
        self._definitions = self._schema.get("$defs", {})
        self._accepts = accepts
        self._name = getattr(cls, "__qualname__", str(cls))
        self.make(Random(0))

    def make(self, random: Random) -> Any:
        """A value that the type accepts. Raises AntiphonError if none is found."""
        for _ in range(_TRIES):
            value = self._value(self._schema, random, 0)
            if self._accepts(value):
                return value
        raise AntiphonError(
            "no value was found that it accepts", where=self._name, mend="Say what comes in with @app.traffic"
        )

    def _value(self, schema: Mapping[str, Any], random: Random, depth: int) -> Any:
        if "$ref" in schema:
            return self._value(self._definitions[schema["$ref"].rpartition("/")[2]], random, depth + 1)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return random.choice(schema["enum"])
        if "default" in schema and random.random() < 0.3:
            return schema["default"]
        for kind in ("anyOf", "oneOf", "allOf"):
            if kind in schema:
                simple = [each for each in schema[kind] if each.get("type") == "null"] if depth > _DEEPEST else []
                return self._value(random.choice(simple or schema[kind]), random, depth + 1)
        types = schema.get("type", "null")
        return self._of_type(types if isinstance(types, str) else random.choice(types), schema, random, depth)

    def _of_type(self, type_: str, schema: Mapping[str, Any], random: Random, depth: int) -> Any:
        if type_ == "object":
            return self._object(schema, random, depth)
        if type_ == "array":
            least = schema.get("minItems", 0)
            most = least if depth > _DEEPEST else schema.get("maxItems", least + 2)
            return [self._value(schema.get("items", {}), random, depth + 1) for _ in range(random.randint(least, most))]
        if type_ == "boolean":
            return random.random() < 0.5
        if type_ in ("integer", "number"):
            return _number(type_, schema, random)
        return _text(schema, random) if type_ == "string" else None

    def _object(self, schema: Mapping[str, Any], random: Random, depth: int) -> dict[str, Any]:
        required = schema.get("required", ())
        return {
            name: self._value(field, random, depth + 1)
            for name, field in schema.get("properties", {}).items()
            if name in required or (depth <= _DEEPEST and random.random() < 0.5)
        }


def _number(type_: str, schema: Mapping[str, Any], random: Random) -> float:
    least = schema.get("minimum", schema.get("exclusiveMinimum", 0))
    most = schema.get("maximum", schema.get("exclusiveMaximum", least + 10))
    if type_ == "number":
        return round(random.uniform(least, most), 2)
    return random.randint(int(least), int(most))


def _text(schema: Mapping[str, Any], random: Random) -> str:
    found = _FORMATS.get(schema.get("format", ""))
    if found:
        return random.choice(found)
    least, most = schema.get("minLength", 0), schema.get("maxLength", 1000)
    texts = [(text * (1 + least // len(text)))[: max(least, len(text))][:most] for text in _TEXTS]
    pattern = schema.get("pattern")
    if pattern is not None:
        texts = [text for text in texts if re.search(pattern, text)] or texts
    picked: str = random.choice(texts)
    return picked
