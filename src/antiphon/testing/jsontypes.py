"""The types of events' fields as JSON can tell them, and whether what one side writes the other can read.

A type is a name (``"text"``, ``"integer"``, ``"datetime"``, ``"any"``) or one of ``{"list": T}``, ``{"map": T}``,
``{"enum": [...]}``, ``{"either": [T, ...]}``, ``{"object": {name: T}}``, ``{"optional": T}`` for a field that need
not be there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, TypeGuard

import msgspec
from msgspec import inspect as shapes

JsonType = str | dict[str, Any]

_NAMES: dict[type, str] = {
    shapes.AnyType: "any",
    shapes.NoneType: "null",
    shapes.BoolType: "boolean",
    shapes.IntType: "integer",
    shapes.FloatType: "number",
    shapes.StrType: "text",
    shapes.BytesType: "bytes",
    shapes.DecimalType: "decimal",
    shapes.DateTimeType: "datetime",
    shapes.DateType: "date",
    shapes.TimeType: "time",
    shapes.TimeDeltaType: "duration",
    shapes.UUIDType: "uuid",
}
_PYTHON: dict[str, tuple[type, ...]] = {"text": (str,), "integer": (int,), "number": (int, float)}
_TEXTS = frozenset({"bytes", "decimal", "datetime", "date", "time", "duration", "uuid"})


@dataclass(frozen=True)
class Describer:
    """Describes classes as one who reads their events needs them, or (not *reading*) as one who writes them gives them.

    To a reader a field is optional if it has a default, to a writer if it may be left out.
    """

    reading: bool

    def fields(self, cls: Any, within: tuple[type, ...] = ()) -> dict[str, JsonType]:
        """The fields of an event class, or of what is nested in one, by their JSON names."""
        within = (*within, cls)
        found: dict[str, JsonType] = {}
        models = getattr(cls, "__pydantic_fields__", None)
        if models is not None:
            for name, info in models.items():
                described = self._type(_shape_of(info.annotation), within)
                is_optional = self.reading and not info.is_required()
                found[info.serialization_alias or name] = {"optional": described} if is_optional else described
            return found
        shape: Any = shapes.type_info(cls)
        omits = isinstance(shape, shapes.StructType) and cls.__struct_config__.omit_defaults
        for field in shape.fields:
            described = self._type(field.type, within)
            # A field that may be UNSET has no default of its own.
            is_unset = field.default is field.default_factory is msgspec.NODEFAULT
            is_optional = not field.required and (self.reading or omits or is_unset)
            found[field.encode_name] = {"optional": described} if is_optional else described
        return found

    def _type(self, shape: Any, within: tuple[type, ...]) -> JsonType:
        match shape:
            case shapes.Metadata():
                return self._type(shape.type, within)
            case shapes.UnionType():
                return _either([self._type(each, within) for each in shape.types])
            case shapes.ListType() | shapes.VarTupleType() | shapes.SetType() | shapes.FrozenSetType():
                return {"list": self._type(shape.item_type, within)}
            case shapes.TupleType():
                return {"list": _either([self._type(each, within) for each in shape.item_types])}
            case shapes.DictType():
                return {"map": self._type(shape.value_type, within)}
            case shapes.EnumType():
                return {"enum": sorted((each.value for each in shape.cls), key=json.dumps)}
            case shapes.LiteralType():
                return {"enum": sorted(shape.values, key=json.dumps)}
            case _:
                return _NAMES.get(type(shape)) or self._nested(shape, within)

    def _nested(self, shape: Any, within: tuple[type, ...]) -> JsonType:
        cls = getattr(shape, "cls", None)
        is_known = isinstance(shape, shapes.StructType | shapes.DataclassType) or hasattr(cls, "__pydantic_fields__")
        if cls is None or cls in within or not is_known:
            return "any"  # a type that holds itself is looked into once
        return {"object": self.fields(cls, within)}


def _shape_of(annotation: Any) -> Any:
    try:
        return shapes.type_info(annotation)
    except TypeError:
        return shapes.AnyType()  # a type that only Pydantic understands


def _either(parts: list[JsonType]) -> JsonType:
    different = sorted({json.dumps(part, sort_keys=True): part for part in parts}.items())
    return different[0][1] if len(different) == 1 else {"either": [part for _, part in different]}


def misfit(written: JsonType, wanted: JsonType) -> str | None:
    """Why not everything that is *written* can be read as what is *wanted*, to follow the field's name.

    None if it can.
    """
    if wanted == "any" or written == wanted:
        return None
    if isinstance(wanted, dict) and "optional" in wanted:
        return misfit(written["optional"] if _is(written, "optional") else written, wanted["optional"])
    if _is(written, "optional"):
        return misfit(written["optional"], wanted) or ", which may be left out now"
    if _is(written, "either"):
        return next(filter(None, (misfit(part, wanted) for part in written["either"])), None)
    if _is(wanted, "either"):
        return None if any(misfit(written, part) is None for part in wanted["either"]) else _retyped(written, wanted)
    for kind in ("list", "map"):
        if _is(written, kind) and _is(wanted, kind):
            why = misfit(written[kind], wanted[kind])
            return why and ("[]" if kind == "list" else ".*") + why
    if _is(written, "object") and _is(wanted, "object"):
        return _object_misfit(written["object"], wanted["object"])
    if _is(written, "enum"):
        allowed = wanted["enum"] if _is(wanted, "enum") else [v for v in written["enum"] if _value_fits(v, wanted)]
        more = [value for value in written["enum"] if value not in allowed]
        return f", which can be {', '.join(map(json.dumps, more))} now" if more else None
    widened = (wanted == "text" and written in _TEXTS) or (wanted, written) == ("number", "integer")
    return None if widened else _retyped(written, wanted)


def _object_misfit(written: dict[str, JsonType], wanted: dict[str, JsonType]) -> str | None:
    for name, part in wanted.items():
        if name in written:
            if why := misfit(written[name], part):
                return f".{name}{why}"
        elif not _is(part, "optional"):
            return f".{name}, which it does not have"
    return None


def _is(described: Any, kind: str) -> TypeGuard[dict[str, Any]]:
    return isinstance(described, dict) and kind in described


def _value_fits(value: object, wanted: JsonType) -> bool:
    kinds = _PYTHON.get(wanted, ()) if isinstance(wanted, str) else ()
    return isinstance(value, kinds) and not isinstance(value, bool)


def _retyped(written: JsonType, wanted: JsonType) -> str:
    return f" as {_word(wanted)}; it is {_word(written)} now"


def _word(described: JsonType) -> str:
    """A type as a person reads it."""
    if isinstance(described, str):
        return described
    ((kind, inner),) = described.items()
    if kind in ("either", "enum"):
        return " or ".join(_word(each) if kind == "either" else json.dumps(each) for each in inner)
    return f"{kind} of {_word(inner)}" if kind in ("list", "map") else kind
