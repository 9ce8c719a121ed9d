"""Looking into event classes: their fields, and what the types of these can hold."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import msgspec
from msgspec import inspect as shapes

from antiphon.errors import DeclarationError

Fields = tuple[tuple[str, str], ...]

_KEY_SHAPES = (
    shapes.StrType,
    shapes.IntType,
    shapes.UUIDType,
    shapes.EnumType,
    shapes.LiteralType,
    shapes.DateType,
    shapes.NoneType,
)
_WATCHED_SHAPES = (
    shapes.IntType,
    shapes.FloatType,
    shapes.DecimalType,
    shapes.AnyType,
    shapes.CustomType,
)


@cache
def all_fields(cls: type) -> Fields:
    """(attribute, JSON name) of each field of a struct, dataclass or model; none for other classes."""
    if issubclass(cls, msgspec.Struct):
        return tuple(zip(cls.__struct_fields__, cls.__struct_encode_fields__, strict=True))
    models: Any = getattr(cls, "__pydantic_fields__", None)
    if models is not None:
        return tuple((name, info.serialization_alias or name) for name, info in models.items())
    if dataclasses.is_dataclass(cls):
        return tuple((field.name, field.name) for field in dataclasses.fields(cls))
    return ()


@cache
def watched_fields(cls: type) -> Fields:
    """The fields of *cls* that can hold what no event may: a naive time, an integer past 2^53, NaN, depth."""
    watched = {field.name for field in _class_fields(cls) if _is_watched(field.type, (cls,))}
    return tuple(pair for pair in all_fields(cls) if pair[0] in watched)


def check_json_types(cls: type) -> None:
    """Raise DeclarationError unless msgspec can write and read every field of *cls*."""
    for field in _class_fields(cls):
        if custom := _custom_type(field.type, (cls,)):
            raise DeclarationError(
                f"field {field.name!r} has a type that JSON cannot carry: {custom.__qualname__}",
                where=cls.__qualname__,
                mend="Use plain types, enums, dates, UUID, Decimal, structs or dataclasses of these",
            )


def check_key_field(cls: type, key_field: str) -> None:
    """Raise DeclarationError unless the values of *key_field* can be an event's key."""
    shape = next(field.type for field in _class_fields(cls) if field.name == key_field)
    parts = shape.types if isinstance(shape, shapes.UnionType) else (shape,)
    for part in parts:
        if not isinstance(part, (*_KEY_SHAPES, shapes.CustomType)):
            raise DeclarationError(
                f"the key field {key_field!r} is not a str, int, UUID, enum or date", where=cls.__qualname__
            )


@dataclasses.dataclass(frozen=True)
class _Field:
    name: str
    type: shapes.Type


def _class_fields(cls: Any) -> list[_Field]:
    models = getattr(cls, "__pydantic_fields__", None)
    if models is not None:
        return [_Field(name, _pydantic_shape(info.annotation)) for name, info in models.items()]
    shape = shapes.type_info(cls)
    if isinstance(shape, (shapes.StructType, shapes.DataclassType)):
        return [_Field(field.name, field.type) for field in shape.fields]
    return []


def _pydantic_shape(annotation: Any) -> shapes.Type:
    try:
        return shapes.type_info(annotation)
    except TypeError:
        # A type that only Pydantic understands is looked into at run time, value by value.
        return shapes.CustomType(annotation)


def _is_watched(shape: shapes.Type, within: tuple[Any, ...]) -> bool:
    if isinstance(shape, (shapes.DateTimeType, shapes.TimeType)):
        return shape.tz is None
    if isinstance(shape, _WATCHED_SHAPES):
        return True
    cls = getattr(shape, "cls", None)
    if cls is not None and cls in within:
        return True  # a recursive type: its depth has to be looked at
    return any(_is_watched(part, (*within, cls)) for part in _parts(shape))


def _custom_type(shape: Any, within: tuple[Any, ...]) -> type | None:
    cls: type | None = getattr(shape, "cls", None)
    if isinstance(shape, shapes.CustomType):
        return None if cls is object else cls
    if cls is not None and cls in within:
        return None
    found = (_custom_type(part, (*within, cls)) for part in _parts(shape))
    return next(filter(None, found), None)


def _parts(shape: Any) -> list[shapes.Type]:
    """The types that a container, union or class is made of."""
    single = ("item_type", "key_type", "value_type")
    return [
        *(getattr(shape, name) for name in single if hasattr(shape, name)),
        *getattr(shape, "item_types", ()),
        *getattr(shape, "types", ()),
        *(field.type for field in getattr(shape, "fields", ())),
    ]
