"""Strategies for event classes: what they make can be published, and comes back as it was."""

from __future__ import annotations

import dataclasses
import enum
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, TypedDict
from uuid import UUID

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from msgspec import Meta
from pydantic import BaseModel, Field, StringConstraints

from antiphon import Event, event
from antiphon.errors import DeclarationError
from antiphon.model.events import event_type_of
from antiphon.testing.strategies import events
from examples.enrollment import app as enrollment
from examples.flight_booking import app as flights


class Colour(enum.Enum):
    """Some colours."""

    RED = "red"
    BLUE = "blue"


class Leaf(msgspec.Struct, tag="leaf"):
    """The end of a tree."""

    weight: float


class Branch(msgspec.Struct, tag="branch"):
    """A tree that holds trees."""

    parts: "list[Leaf | Branch]"  # noqa: UP037  it is resolved late on purpose


@dataclasses.dataclass
class Address:
    """Nested in an event."""

    street: str
    number: int | None = None
    full: str = dataclasses.field(init=False, default="")


class Seat(NamedTuple):
    """Nested in an event."""

    row: int
    letter: str


class Extra(TypedDict, total=False):
    """Nested in an event."""

    note: str


class Everything(Event, key="order_id", rename="camel"):
    """A field of each type."""

    order_id: str
    price: Decimal
    at: datetime
    clock: time
    day: date
    span: timedelta
    token: UUID
    colour: Colour
    size: Literal["s", "m", 3]
    maybe: int | None
    ratio: float
    flag: bool
    blob: bytes
    tree: Leaf | Branch
    addresses: list[Address]
    seat: Seat
    extra: Extra
    pair: tuple[int, str]
    many: tuple[int, ...]
    tags: frozenset[str]
    marks: set[int]
    scores: dict[str, float]
    anything: Any
    nothing: None = None


class Limited(Event):
    """A field of each limit."""

    few: Annotated[int, Meta(gt=2, lt=7)]
    even: Annotated[int, Meta(ge=-3, le=99, multiple_of=2)]
    share: Annotated[float, Meta(gt=0, le=1)]
    half: Annotated[float, Meta(ge=0, multiple_of=0.5)]
    code: Annotated[str, Meta(pattern="^[A-Z]{2}[0-9]+$", max_length=5)]
    name: Annotated[str, Meta(min_length=2, max_length=3)]
    items: Annotated[list[Annotated[int, Meta(ge=0)]], Meta(min_length=1, max_length=2)]
    data: Annotated[bytes, Meta(max_length=4)]
    at: Annotated[datetime, Meta(tz=True)]


class Line(BaseModel):
    """Nested in a model."""

    sku: Annotated[str, StringConstraints(pattern=r"^[a-z]{3}$")]
    count: Annotated[int, Field(ge=1, le=9)]


@event(key="order_id")
class Modelled(BaseModel):
    """A Pydantic event."""

    order_id: UUID
    price: Annotated[Decimal, Field(gt=0, max_digits=10, decimal_places=2)]
    at: datetime
    lines: Annotated[list[Line], Field(min_length=1, max_length=3)]
    shares: dict[str, Annotated[float, Field(ge=0, le=1)]]
    tags: set[Colour] = set()
    comment: str | None = Field(default=None, alias="theComment", max_length=5)
    pair: tuple[int, ...] = ()


@event()
@dataclasses.dataclass(frozen=True)
class Checked:
    """A dataclass event that refuses some values itself."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("low is above high")


CLASSES = [Everything, Limited, Modelled, Checked]
EXAMPLES = [each.cls for app in (enrollment, flights) for each in app.event_types.values()]


@pytest.mark.parametrize("cls", [*CLASSES, *EXAMPLES], ids=lambda cls: cls.__name__)
def test_every_event_can_be_published_and_comes_back(cls: type) -> None:
    """Of every sort of class and field, and of all events of the examples."""
    declared = event_type_of(cls)

    @settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
    @given(made=events(cls))
    def holds(made: object) -> None:
        assert type(made) is cls
        assert declared.decode(declared.encode(made), declared.version) == made
        assert declared.key_of(made) != ""

    holds()


@given(made=events(Everything, price=Decimal("9.90"), order_id=st.sampled_from(["a", "b"])))
@settings(max_examples=20)
def test_a_field_can_be_said_otherwise(made: Everything) -> None:
    """By a value that all have, or by a strategy."""
    assert made.price == Decimal("9.90")
    assert made.order_id in ("a", "b")


@pytest.mark.parametrize(
    "condition",
    [
        lambda made: made.maybe is None and made.anything is not None,
        lambda made: isinstance(made.tree, Branch) and made.tree.parts,
        lambda made: made.at.utcoffset() != timedelta(0),
        lambda made: made.price < 0 and made.price != made.price.to_integral_value(),
        lambda made: "note" in made.extra and made.colour is Colour.BLUE,
        lambda made: made.addresses and made.addresses[0].number is not None,
    ],
)
def test_the_whole_range_of_a_type_is_made(condition: Any) -> None:
    """None, recursion, zones, fractions, optional keys: each is found."""
    find(events(Everything), condition, settings=settings(max_examples=1_000, phases=[Phase.generate]))


def test_what_it_cannot_know_is_told() -> None:
    """A field that the class has not, a class that is no event."""
    with pytest.raises(DeclarationError, match=r"no field prize. Its fields are few, even"):
        events(Limited, prize=1)
    with pytest.raises(DeclarationError, match="not an event"):
        events(Leaf)
