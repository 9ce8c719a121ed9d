"""Hypothesis strategies for event classes, made from their declared types.

Every event that is made passes the checks that publishing makes, and comes out of its JSON text as it went in.
Needs Hypothesis.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from functools import partial
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin
from zoneinfo import ZoneInfo

import hypothesis
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from msgspec import inspect as shapes

from antiphon.errors import DeclarationError, InvalidEvent
from antiphon.model.events import EventType, event_type_of
from antiphon.model.jsontext import MAX_INTEGER

E = TypeVar("E")
Any_ = SearchStrategy[Any]
Limits = Mapping[str, Any]

#: What bounds a value, by the names that msgspec's Meta, annotated-types and Pydantic have for it.
_LIMITS = ("gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length", "pattern", "max_digits", "decimal_places")
# Hypothesis adds the zone.
_YEARS = datetime(1900, 1, 1), datetime(2200, 1, 1)  # noqa: DTZ001
_ZONES = (UTC, timezone(timedelta(hours=-8)), timezone(timedelta(hours=5, minutes=45)), ZoneInfo("Europe/Prague"))


def events(cls: type[E], **fields: Any) -> SearchStrategy[E]:
    """Events of *cls*. *fields* says otherwise for some of them: a strategy, or a value that all shall have.

    Raises DeclarationError for a class that is no event, or a field that it does not have.
    """
    event_type = event_type_of(cls)
    made = {event_type.key_field: {"min_length": 1}} if event_type.key_field else {}
    known = dict(_fields(cls, made))
    if unknown := sorted(fields.keys() - known.keys()):
        raise DeclarationError(
            f"no field {', '.join(unknown)}", where=event_type.name, mend=f"Its fields are {', '.join(known)}"
        )
    chosen = {name: value if isinstance(value, SearchStrategy) else st.just(value) for name, value in fields.items()}
    return st.builds(partial(_construct, cls), **{**known, **chosen}).filter(partial(_can_be_published, event_type))


def _can_be_published(event_type: EventType, event: object) -> bool:
    try:
        event_type.key_of(event)
        return bool(event_type.decode(event_type.encode(event), event_type.version) == event)
    except InvalidEvent:
        return False


def _construct(cls: Callable[..., E], **fields: Any) -> E:
    """An object of *cls*; what its own checks refuse is no example."""
    try:
        return cls(**fields)
    except (TypeError, ValueError):  # Pydantic's ValidationError is a ValueError
        return hypothesis.reject()


# ---------------------------------------------------------------------- classes and their fields


def _fields(cls: Any, made: Mapping[str, Limits]) -> Iterable[tuple[str, Any_]]:
    """The strategy of each argument of *cls*. *made*: limits besides those that are declared."""
    models = getattr(cls, "__pydantic_fields__", None)
    if models is not None:
        for name, info in models.items():
            if getattr(info, "init", None) is False:
                continue
            limits = {**made.get(name, {}), **_limits(info.metadata)}
            alias = info.validation_alias if isinstance(info.validation_alias, str) else info.alias
            yield alias or name, _of_annotation(info.annotation, limits)
        return
    shape: Any = shapes.type_info(cls)
    hidden = {each.name for each in dataclasses.fields(cls) if not each.init} if dataclasses.is_dataclass(cls) else ()
    for field in shape.fields:
        if field.name not in hidden:
            yield field.name, _of_shape(field.type, made.get(field.name, {}))


def _of_class(cls: Any) -> Any_:
    """A nested struct, dataclass or model. One that holds itself is looked into when it is drawn."""
    return st.deferred(lambda: st.builds(partial(_construct, cls), **dict(_fields(cls, {}))))


# ---------------------------------------------------------------------- types


def _of_annotation(annotation: Any, limits: Limits) -> Any_:
    """A type as Pydantic has it: limits may stand at every part of it."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _of_annotation(arguments[0], {**_limits(arguments[1:]), **limits})
    if origin in (Union, types.UnionType):
        return st.one_of([_of_annotation(each, limits) for each in arguments])
    if origin in (list, set, frozenset) or (origin is tuple and arguments[1:] == (...,)):
        return _several(origin, _of_annotation(arguments[0], {}), limits)
    if origin is dict:
        keys, values = (_of_annotation(each, {}) for each in arguments)
        return st.dictionaries(keys, values, **_sizes(limits))
    if hasattr(annotation, "__pydantic_fields__"):
        return _of_class(annotation)
    return _of_shape(shapes.type_info(annotation), limits)


def _of_shape(shape: Any, limits: Limits) -> Any_:
    """A type as msgspec has it."""
    limits = {**{name: getattr(shape, name) for name in _LIMITS if getattr(shape, name, None) is not None}, **limits}
    match shape:
        case shapes.UnionType():
            return st.one_of([_of_shape(each, limits) for each in shape.types])
        case shapes.ListType() | shapes.VarTupleType() | shapes.SetType() | shapes.FrozenSetType():
            return _several(_COLLECTIONS[type(shape)], _of_shape(shape.item_type, {}), limits)
        case shapes.TupleType():
            return st.tuples(*(_of_shape(each, {}) for each in shape.item_types))
        case shapes.DictType():
            return st.dictionaries(_of_shape(shape.key_type, {}), _of_shape(shape.value_type, {}), **_sizes(limits))
        case shapes.TypedDictType():
            parts = {each.name: (_of_shape(each.type, {}), each.required) for each in shape.fields}
            required = {name: part for name, (part, is_required) in parts.items() if is_required}
            optional = {name: part for name, (part, is_required) in parts.items() if not is_required}
            return st.fixed_dictionaries(required, optional=optional)
        case shapes.NamedTupleType():
            return st.builds(shape.cls, **{each.name: _of_shape(each.type, {}) for each in shape.fields})
        case shapes.StructType() | shapes.DataclassType():
            return _of_class(shape.cls)
        case shapes.Metadata():
            return _of_shape(shape.type, limits)
        case shapes.EnumType():
            return st.sampled_from(list(shape.cls))
        case shapes.LiteralType():
            return st.sampled_from(shape.values)
        case shapes.CustomType():
            return _of_class(shape.cls) if hasattr(shape.cls, "__pydantic_fields__") else st.from_type(shape.cls)
        case _:
            return _SCALARS[type(shape)](limits)


def _several(collection: Any, items: Any_, limits: Limits) -> Any_:
    unique = collection in (set, frozenset)
    return st.lists(items, unique=unique, **_sizes(limits)).map(collection)


def _sizes(limits: Limits) -> dict[str, Any]:
    return {"min_size": limits.get("min_length", 0), "max_size": limits.get("max_length")}


def _limits(metadata: Iterable[Any]) -> dict[str, Any]:
    """The limits that annotations hold, whoever's they are. Pydantic's Field holds a list of them."""
    parts = [part for each in metadata for part in (each, *(getattr(each, "metadata", None) or ()))]
    return {name: getattr(each, name) for each in parts for name in _LIMITS if getattr(each, name, None) is not None}


# ---------------------------------------------------------------------- plain values


def _integers(limits: Limits) -> Any_:
    step = limits.get("multiple_of", 1)
    low = max(limits.get("ge", -MAX_INTEGER), limits.get("gt", -MAX_INTEGER - 1) + 1)
    high = min(limits.get("le", MAX_INTEGER), limits.get("lt", MAX_INTEGER + 1) - 1)
    return st.integers(math.ceil(low / step), math.floor(high / step)).map(lambda n: n * step)


def _floats(limits: Limits) -> Any_:
    low, high = limits.get("gt", limits.get("ge")), limits.get("lt", limits.get("le"))
    if step := limits.get("multiple_of"):
        bounds = {"ge": (-1e6 if low is None else low) / step, "le": (1e6 if high is None else high) / step}
        return _integers(bounds).map(lambda n: n * step)
    return st.floats(
        low, high, exclude_min="gt" in limits, exclude_max="lt" in limits, allow_nan=False, allow_infinity=False
    )


def _decimals(limits: Limits) -> Any_:
    low, high = limits.get("gt", limits.get("ge")), limits.get("lt", limits.get("le"))
    places, digits = limits.get("decimal_places"), limits.get("max_digits")
    if digits is not None:
        largest = Decimal(10) ** (digits - (places or 0)) - Decimal(10) ** -(places or 0)
        low = -largest if low is None else max(Decimal(low), -largest)
        high = largest if high is None else min(Decimal(high), largest)
        places = places or 0
    found = st.decimals(low, high, places=places, allow_nan=False, allow_infinity=False)
    return found.filter(lambda value: value not in (limits.get("gt"), limits.get("lt")))


def _texts(limits: Limits) -> Any_:
    least, most = limits.get("min_length", 0), limits.get("max_length")
    if pattern := limits.get("pattern"):
        # To Python `$` means before a final line break too, and to nobody else.
        whole = re.sub(r"(?<!\\)\$$", r"\\Z", pattern)
        return st.from_regex(whole).filter(lambda text: least <= len(text) <= (most or len(text)))
    return st.text(min_size=least, max_size=most)


def _bytes(limits: Limits) -> Any_:
    return st.binary(**_sizes(limits))


def _anything(_: Limits) -> Any_:
    leaves = st.none() | st.booleans() | _integers({}) | _floats({}) | st.text()
    return st.recursive(
        leaves, lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(), part, max_size=3), max_leaves=8
    )


def _datetimes(_: Limits) -> Any_:
    zones = st.sampled_from(_ZONES)
    return st.datetimes(*_YEARS, timezones=zones, allow_imaginary=False)


def _times(_: Limits) -> Any_:
    return st.times(timezones=st.sampled_from(_ZONES[:-1]))


_COLLECTIONS = {
    shapes.ListType: list,
    shapes.VarTupleType: tuple,
    shapes.SetType: set,
    shapes.FrozenSetType: frozenset,
}
_SCALARS: dict[type, Callable[[Limits], Any_]] = {
    shapes.AnyType: _anything,
    shapes.NoneType: lambda _: st.none(),
    shapes.BoolType: lambda _: st.booleans(),
    shapes.IntType: _integers,
    shapes.FloatType: _floats,
    shapes.DecimalType: _decimals,
    shapes.StrType: _texts,
    shapes.BytesType: _bytes,
    shapes.DateTimeType: _datetimes,
    shapes.TimeType: _times,
    shapes.DateType: lambda _: st.dates(),
    shapes.TimeDeltaType: lambda _: st.timedeltas(timedelta(-36_500), timedelta(36_500)),
    shapes.UUIDType: lambda _: st.uuids(),
}
