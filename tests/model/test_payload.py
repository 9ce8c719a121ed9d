"""The contract of an event's data: what is kept through JSON, and what is refused, with field and reason."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from antiphon.errors import InvalidEvent, PayloadTooLarge, Undecodable
from antiphon.model.events import MAX_PAYLOAD, Event, event, event_type_of

WHOLE = st.integers(-(2**53), 2**53)
ZONES = st.builds(
    timezone, st.timedeltas(timedelta(hours=-12), timedelta(hours=12)).map(lambda t: t // 60000000 * 60000000)
)
MOMENTS = st.datetimes(datetime(1900, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))
FINITE = st.floats(allow_nan=False, allow_infinity=False)
DECIMALS = st.decimals(allow_nan=False, allow_infinity=False, places=4)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


class Cabin(Enum):
    ECONOMY = "economy"
    FIRST = "first"


class Leg(msgspec.Struct, frozen=True):
    flight: str
    departs: datetime


class Struct(Event, key="id"):
    id: UUID
    price: Decimal
    at: datetime
    cabin: Cabin
    leg: Leg
    seats: int
    ratio: float
    note: str | None = None
    value: int | str | None = None
    legs: list[Leg] = msgspec.field(default_factory=list)
    totals: dict[str, Decimal] = msgspec.field(default_factory=dict)
    times: dict[str, list[int]] = msgspec.field(default_factory=dict)
    pair: tuple[int, str] = (0, "")
    tags: set[str] = msgspec.field(default_factory=set)
    ok: bool = True
    day: date | None = None
    raw: bytes = b""


@event(key="id")
@dataclass(frozen=True)
class Data:
    id: UUID
    price: Decimal
    at: datetime
    cabin: Cabin
    leg: Leg
    seats: int
    ratio: float
    note: str | None = None
    value: int | str | None = None
    legs: list[Leg] = field(default_factory=list)
    totals: dict[str, Decimal] = field(default_factory=dict)
    times: dict[str, list[int]] = field(default_factory=dict)
    pair: tuple[int, str] = (0, "")
    tags: set[str] = field(default_factory=set)
    ok: bool = True
    day: date | None = None
    raw: bytes = b""


class ModelLeg(BaseModel):
    model_config = ConfigDict(frozen=True)
    flight: str
    departs: datetime


@event(key="id")
class Model(BaseModel):
    id: UUID
    price: Decimal
    at: datetime
    cabin: Cabin
    leg: ModelLeg
    seats: int
    ratio: float
    note: str | None = None
    value: int | str | None = None
    legs: list[ModelLeg] = []
    totals: dict[str, Decimal] = {}
    times: dict[str, list[int]] = {}
    pair: tuple[int, str] = (0, "")
    tags: set[str] = set()
    ok: bool = True
    day: date | None = None


KINDS = (Struct, Data, Model)
LEGS: dict[Any, Any] = {Struct: Leg, Data: Leg, Model: ModelLeg}


def fields_of(cls: Any) -> st.SearchStrategy[dict[str, Any]]:
    legs = st.builds(LEGS[cls], flight=TEXT, departs=MOMENTS)
    common: Mapping[str, st.SearchStrategy[Any]] = {
        "id": st.uuids(),
        "price": DECIMALS,
        "at": MOMENTS,
        "cabin": st.sampled_from(Cabin),
        "leg": legs,
        "seats": WHOLE,
        "ratio": FINITE,
        "note": st.none() | TEXT,
        "value": st.none() | WHOLE | TEXT,
        "legs": st.lists(legs, max_size=3),
        "totals": st.dictionaries(TEXT, DECIMALS, max_size=3),
        "times": st.dictionaries(TEXT, st.lists(WHOLE, max_size=3), max_size=3),
        "pair": st.tuples(WHOLE, TEXT),
        "tags": st.sets(TEXT, max_size=3),
        "ok": st.booleans(),
        "day": st.none() | st.dates(),
    }
    return st.fixed_dictionaries({**common, **({} if cls is Model else {"raw": st.binary(max_size=20)})})


def sample(cls: Any, **changes: Any) -> Any:
    """A valid event of *cls*, but for *changes*, which are not checked."""
    moment = datetime(2013, 1, 1, 5, 15, tzinfo=UTC)
    values: dict[str, Any] = {
        "id": UUID(int=1),
        "price": Decimal("12.50"),
        "at": moment,
        "cabin": Cabin.FIRST,
        "leg": LEGS[cls](flight="UA1545", departs=moment),
        "seats": 2,
        "ratio": 0.5,
    }
    if cls is Model:
        return Model(**values).model_copy(update=changes)
    return cls(**values | changes)


def refusal(obj: Any) -> InvalidEvent:
    with pytest.raises(InvalidEvent) as caught:
        event_type_of(obj).encode(obj)
    return caught.value


def receipt(cls: Any, **changes: Any) -> InvalidEvent:
    """Why the JSON text of a valid event is refused after *changes*, given as bytes of JSON."""
    data = event_type_of(cls).encode(sample(cls))
    for name, text in changes.items():
        values = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        data = msgspec.json.encode({**values, name: msgspec.Raw(text)})
    with pytest.raises(InvalidEvent) as caught:
        event_type_of(cls).decode(data, 1)
    return caught.value


@pytest.mark.parametrize("cls", KINDS)
def test_every_kind_of_field_is_kept(cls: Any) -> None:
    """Decoding the text of any valid event gives an equal one, whatever kind of class it is of."""

    @given(fields_of(cls))
    def check(values: dict[str, Any]) -> None:
        found = event_type_of(cls)
        obj = cls(**values)
        data = found.encode(obj)
        back = found.decode(data, 1)
        assert back == obj
        assert (type(back.price), back.at.utcoffset()) == (Decimal, timedelta(0))

    check()


@given(MOMENTS, ZONES)
def test_any_zone_is_kept_as_the_same_moment(moment: datetime, zone: timezone) -> None:
    """A datetime in another zone arrives as the same moment."""
    found = event_type_of(Struct)
    local = moment.astimezone(zone)
    assert found.decode(found.encode(sample(Struct, at=local)), 1).at == local


NAN = "nan is not a JSON number"
INFINITY = Decimal(math.inf)
INFINITE = "-inf is not a JSON number"
TOO_BIG = 2**53 + 1
NAIVE = datetime(2013, 1, 1)
BEYOND = "an integer beyond 2^53"


@pytest.mark.parametrize("cls", KINDS)
@pytest.mark.parametrize(
    ("changes", "path", "reason"),
    [
        ({"ratio": math.nan}, "$.ratio", NAN),
        ({"ratio": -math.inf}, "$.ratio", INFINITE),
        ({"note": math.nan}, "$.note", NAN),
        ({"price": Decimal("NaN")}, "$.price", "NaN is not a number"),
        (
            {"totals": {"a": Decimal(1), "b c": INFINITY}},
            '$.totals["b c"]',
            "Infinity is not a number",
        ),
        ({"seats": TOO_BIG}, "$.seats", BEYOND),
        ({"seats": -TOO_BIG}, "$.seats", BEYOND),
        ({"seats": 2**70}, "$.seats", BEYOND),
        ({"ratio": TOO_BIG}, "$.ratio", BEYOND),
        ({"value": TOO_BIG}, "$.value", BEYOND),
        ({"times": {"a": [1], "b": [1, 2, TOO_BIG]}}, "$.times.b[2]", BEYOND),
        ({"pair": (TOO_BIG, "")}, "$.pair[0]", BEYOND),
        ({"at": NAIVE}, "$.at", "a datetime needs a zone"),
        ({"seats": object()}, "$.seats", "a value of type object cannot be JSON"),
        ({"note": "\ud800"}, "$.note", "lone surrogate"),
        ({"totals": {"\ud800": Decimal(1)}}, "$.totals", "lone surrogate"),
    ],
)
def test_what_json_cannot_keep_is_refused_at_publish(cls: Any, changes: dict[str, Any], path: str, reason: str) -> None:
    """NaN, infinity, integers past 2^53, naive times and text that is not Unicode: refused with the field."""
    error = refusal(sample(cls, **changes))
    assert error.field == path
    assert reason in error.reason


@pytest.mark.parametrize("cls", KINDS)
def test_a_naive_time_is_found_below(cls: Any) -> None:
    """The zone is required in nested objects and lists too."""
    late = LEGS[cls](flight="a", departs=NAIVE)
    good = LEGS[cls](flight="a", departs=NAIVE.replace(tzinfo=UTC))
    assert refusal(sample(cls, leg=late)).field == "$.leg.departs"
    assert refusal(sample(cls, legs=[good, late])).field == "$.legs[1].departs"


@pytest.mark.parametrize("cls", [Struct, Data])
@pytest.mark.parametrize(
    ("changes", "path", "reason"),
    [
        ({"seats": "2"}, "$.seats", "expected int, got str"),
        ({"seats": None}, "$.seats", "expected int, got null"),
        ({"value": 1.5}, "$.value", "expected int or str or null, got float"),
        ({"cabin": "third"}, "$.cabin", "invalid enum value 'third'"),
        ({"times": {"a": [1], "b c": [1, "x"], "d": []}}, '$.times["b c"][1]', "expected int, got str"),
        ({"legs": [{"flight": "a"}]}, "$.legs[0].departs", "this required field is missing"),
        ({"totals": {"a": "1", "b": [], "c": "x"}}, "$.totals.b", "expected decimal, got array"),
    ],
)
def test_a_wrong_field_is_refused_at_publish(cls: Any, changes: dict[str, Any], path: str, reason: str) -> None:
    """A value of a wrong type is refused with its exact path, keys of dicts included."""
    error = refusal(sample(cls, **changes))
    assert (error.field, error.reason) == (path, reason)


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"seats": "2"}, "$.seats"),
        ({"value": [1]}, "$.value"),
        ({"times": {"a b": [1, "x"]}}, '$.times["a b"][1]'),
        ({"legs": [{"flight": "a"}]}, "$.legs[0].departs"),
    ],
)
def test_a_wrong_field_of_a_model_is_refused_at_publish(changes: dict[str, Any], path: str) -> None:
    """Pydantic's locations become the same paths; names of union members are no part of them."""
    assert refusal(sample(Model, **changes)).field == path


@pytest.mark.parametrize("cls", KINDS)
@pytest.mark.parametrize(
    ("name", "text", "path"),
    [
        ("seats", b'"2"', "$.seats"),
        ("seats", b"NaN", "$.seats"),
        ("ratio", b"NaN", "$.ratio"),
        ("ratio", b"-Infinity", "$.ratio"),
        ("price", b'"NaN"', "$.price"),
        ("seats", b"9007199254740993", "$.seats"),
        ("times", b'{"a":[-9007199254740993]}', "$.times.a[0]"),
        ("at", b'"2013-01-01T05:15:00"', "$.at"),
        ("at", b'"yesterday"', "$.at"),
        ("id", b'"1"', "$.id"),
        ("cabin", b'"third"', "$.cabin"),
        ("leg", b'{"flight":"a"}', "$.leg.departs"),
    ],
)
def test_the_same_contract_holds_on_receipt(cls: Any, name: str, text: bytes, path: str) -> None:
    """Whatever would be refused at publish is refused when it comes from elsewhere, with the field."""
    assert receipt(cls, **{name: text}).field == path


@pytest.mark.parametrize("cls", KINDS)
@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b'{"id":}', b"nope", b"{}x"])
def test_what_is_not_json_is_undecodable(cls: Any, data: bytes) -> None:
    """Bytes that are no JSON text at all are Undecodable, not merely invalid."""
    with pytest.raises(Undecodable, match=r"not (JSON|UTF-8)"):
        event_type_of(cls).decode(data, 1)


@pytest.mark.parametrize("cls", KINDS)
@pytest.mark.parametrize("data", [b"[]", b"null", b'"text"', b"1"])
def test_what_is_no_object_is_invalid(cls: Any, data: bytes) -> None:
    """An event's data is a JSON object."""
    with pytest.raises(InvalidEvent) as caught:
        event_type_of(cls).decode(data, 1)
    assert caught.value.field == "$"


@pytest.mark.parametrize("cls", KINDS)
def test_a_missing_field_is_named(cls: Any) -> None:
    """The first required field that is missing is named by its path."""
    with pytest.raises(InvalidEvent) as caught:
        event_type_of(cls).decode(b"{}", 1)
    assert (caught.value.field, caught.value.reason) == ("$.id", "this required field is missing")


@pytest.mark.parametrize("cls", KINDS)
@given(data=st.binary(max_size=60) | TEXT.map(str.encode))
def test_no_bytes_break_the_decoder(cls: Any, data: bytes) -> None:
    """Any bytes are an event or an InvalidEvent; no other error escapes."""
    with pytest.raises(InvalidEvent):
        event_type_of(cls).decode(data, 1)


class Anything(Event):
    value: object = None


JSON = st.recursive(
    st.none() | st.booleans() | WHOLE | FINITE | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_free_values_are_kept(value: object) -> None:
    """A field of any type keeps any JSON value."""
    found = event_type_of(Anything)
    assert found.decode(found.encode(Anything(value)), 1) == Anything(value)


@given(st.lists(st.sampled_from(["a", "b c"]) | st.just(0), max_size=5), st.sampled_from([math.nan, TOO_BIG]))
def test_a_bad_value_is_found_however_deep(steps: list[str | int], bad: float) -> None:
    """The path leads through objects and arrays to the bad value."""
    value: Any = bad
    for step in reversed(steps):
        value = {"good": 1, step: value} if isinstance(step, str) else [value, 1]
    path = "$.value" + "".join({"a": ".a", "b c": '["b c"]', 0: "[0]"}[step] for step in steps)
    assert refusal(Anything(value)).field == path


def test_nesting_is_bounded() -> None:
    """A hundred levels are enough for anyone; deeper or endless data is refused, both ways."""
    deep: Any = None
    for _ in range(5000):
        deep = [deep]
    endless: list[Any] = []
    endless.append(endless)
    for value in (deep, endless):
        assert "nested deeper than 100 levels" in refusal(Anything(value)).reason
    for levels in (101, 5000):
        data = b'{"value":' + b"[" * levels + b"]" * levels + b"}"
        with pytest.raises(InvalidEvent, match="nested"):
            event_type_of(Anything).decode(data, 1)
    shallow = b'{"value":' + b"[" * 99 + b"]" * 99 + b"}"
    assert event_type_of(Anything).encode(event_type_of(Anything).decode(shallow, 1)) == shallow


class Branch(Event):
    children: "list[Branch]" = msgspec.field(default_factory=list)


def test_recursive_events_are_bounded_too() -> None:
    """A chain of objects of the event's own class counts as nesting."""
    branch = Branch()
    for _ in range(150):
        branch = Branch([branch])
    assert "nested deeper" in refusal(branch).reason


@pytest.mark.parametrize("cls", KINDS)
def test_the_payload_is_limited(cls: Any) -> None:
    """Data over the limit is PayloadTooLarge and says both sizes; data of exactly the limit is published."""
    found = event_type_of(cls)
    obj = sample(cls)
    size = len(found.encode(obj))
    assert found.encode(obj, limit=size)
    with pytest.raises(PayloadTooLarge, match=f"{size} bytes of data; the limit is {size - 1} bytes"):
        found.encode(obj, limit=size - 1)


def test_the_limit_is_one_mebibyte_unless_set() -> None:
    """The default limit is 1 MiB of JSON text."""
    with pytest.raises(PayloadTooLarge, match="1,048,588 bytes of data; the limit is 1,048,576 bytes"):
        event_type_of(Anything).encode(Anything("x" * MAX_PAYLOAD))


def test_two_keys_with_the_same_text_are_refused() -> None:
    """1 and "1" would be the same key in JSON, and one value would be lost."""
    assert refusal(Anything({"a": {1: "x", "1": "y"}})).field == "$.value.a"


def test_a_struct_may_ask_for_local_times() -> None:
    """A time that is declared to have no zone is taken without one."""

    class Opening(Event):
        opens: Annotated[time, msgspec.Meta(tz=False)]
        closes: time

    obj = Opening(time(9), time(17, tzinfo=UTC))
    found = event_type_of(Opening)
    assert found.decode(found.encode(obj), 1) == obj
    error = refusal(Opening(time(9), time(17)))
    assert (error.field, error.reason) == ("$.closes", "a time needs a zone")


def test_constraints_of_the_types_are_part_of_the_contract() -> None:
    """What msgspec and Pydantic are told of a field's range is checked at publish."""

    class Priced(Event):
        amount: Annotated[int, msgspec.Meta(gt=0)]

    assert refusal(Priced(0)).field == "$.amount"


def test_a_class_may_refuse_its_own_data() -> None:
    """Whatever __post_init__ raises makes the event invalid, on receipt too."""

    class Picky(Event):
        name: str

        def __post_init__(self) -> None:
            if self.name == "bad":
                raise ValueError("no such name")
            if self.name == "worse":
                raise KeyError(self.name)

    found = event_type_of(Picky)
    with pytest.raises(InvalidEvent, match="no such name"):
        found.decode(b'{"name":"bad"}', 1)
    with pytest.raises(InvalidEvent, match="KeyError: 'worse'"):
        found.decode(b'{"name":"worse"}', 1)


def test_unknown_fields_are_ignored() -> None:
    """A newer producer may add fields without breaking an older consumer."""
    assert event_type_of(Anything).decode(b'{"value":1,"more":[1,2]}', 1) == Anything(1)


def test_changing_an_event_gives_an_event() -> None:
    """The usual copies of each kind are still events of their class."""
    changed = replace(sample(Data), seats=3)
    assert event_type_of(Data).decode(event_type_of(Data).encode(changed), 1).seats == 3
