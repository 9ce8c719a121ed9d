"""Contracts: what a consumer reads, in a file, and what a producer's build says to it."""

from __future__ import annotations

import dataclasses
import enum
import json
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
import pytest
from pydantic import BaseModel, Field

from antiphon import App, Event, InvalidEvent, Service, event
from antiphon.errors import DeclarationError
from antiphon.testing.contracts import Contract, ContractBroken, assert_kept
from antiphon.testing.jsontypes import misfit


class Place(msgspec.Struct):
    """Nested in what the consumer reads."""

    row: int
    letter: str = "A"


class SeatAssigned(Event, key="booking_id", rename="camel"):
    """The event as the consumer knows it."""

    booking_id: str
    seat: Place
    price: Decimal
    cabin: Literal["economy", "business"]
    remark: str | None = None


EXAMPLE = SeatAssigned("b-1", Place(12), Decimal("9.90"), "economy")


@pytest.fixture
def contract(tmp_path: Path) -> Path:
    """What the ticket service reads of a seat, in a file."""
    path = tmp_path / "contracts" / "ticket-seat.json"
    Contract("ticket", "seat").reads(EXAMPLE, "booking_id", "seat", "cabin", "remark").save(path)
    return path


def changed(**fields: Any) -> type:
    """The producer's class with some fields otherwise; None takes one away."""
    declared = {
        "bookingId": str,
        "seat": msgspec.defstruct("Place", [("row", int), ("letter", str)]),
        "cabin": Literal["economy"],
        "remark": str | None,
        "price": Decimal,
        **fields,
    }
    changed: type = made("SeatAssigned", {name: kind for name, kind in declared.items() if kind is not None})
    return changed


def made(name: str, fields: dict[str, Any], base: type = Event, **options: Any) -> Any:
    """A class of events."""
    metaclass: Any = type(Event)
    return metaclass(name, (base,), {"__annotations__": fields}, **options)


def problems(contract: Path, *producers: Any) -> list[str]:
    """What does not fit."""
    with pytest.raises(ContractBroken) as caught:
        assert_kept(contract, *producers)
    return str(caught.value).splitlines()


def test_the_file_says_what_is_read(contract: Path) -> None:
    """Versions, fields with their types, and examples of no more than these fields."""
    assert json.loads(contract.read_text()) == {
        "consumer": "ticket",
        "producer": "seat",
        "events": {
            "SeatAssigned": {
                "versions": [1],
                "fields": {
                    "bookingId": "text",
                    "seat": {"object": {"row": "integer", "letter": {"optional": "text"}}},
                    "cabin": {"enum": ["business", "economy"]},
                    "remark": {"optional": {"either": ["null", "text"]}},
                },
                "examples": [
                    {
                        "bookingId": "b-1",
                        "seat": {"row": 12, "letter": "A"},
                        "cabin": "economy",
                        "remark": None,
                    }
                ],
            }
        },
    }


def test_a_consumer_notices_that_its_file_is_old(contract: Path, tmp_path: Path) -> None:
    """The consumer's own build compares code and file; several calls add up; what is wrong is refused at once."""
    said = Contract("ticket", "seat").reads(EXAMPLE, "booking_id", "seat").reads(EXAMPLE, "cabin", "remark")
    with pytest.raises(ContractBroken, match=r"says something else; write it with contract.save"):
        said.assert_saved(contract)
    said.save(contract)
    said.assert_saved(contract)
    with pytest.raises(ContractBroken, match="is not there"):
        said.assert_saved(tmp_path / "nowhere.json")
    with pytest.raises(DeclarationError, match=r"no field saet. Its fields are booking_id, seat"):
        said.reads(EXAMPLE, "saet")
    with pytest.raises(InvalidEvent, match="cabin"):
        said.reads(SeatAssigned("b-1", Place(1), Decimal(1), "first"))  # type: ignore[arg-type]


def test_what_gives_all_that_is_read_keeps_the_contract(contract: Path) -> None:
    """The class itself, one that has more, fewer values, wider for nobody; of an app, a service, a directory."""
    for producer in (SeatAssigned, changed(), changed(more=int), changed(remark=None), changed(price=int)):
        assert_kept(contract, producer)
    service = Service("seat")

    @service.post("/seats")
    async def assign() -> SeatAssigned:
        return EXAMPLE

    assert_kept(contract, service)
    assert_kept(contract.parent, App(service))
    with pytest.raises(FileNotFoundError, match="no contract"):
        assert_kept(contract.parent.parent, SeatAssigned)


class Cabin(enum.Enum):
    """One more than the consumer knows."""

    ECONOMY = "economy"
    FIRST = "first"


NESTED = msgspec.defstruct("Nested", [("row", str), ("letter", str)])
ROWLESS = msgspec.defstruct("Rowless", [("letter", str)])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"bookingId": None, "booking": str}, ".bookingId, which it does not have; perhaps it was renamed to booking"),
        ({"bookingId": None, "price": int}, ".bookingId, which it does not have"),
        ({"bookingId": None, "about": str}, ".bookingId, which it does not have; perhaps it was renamed to about"),
        ({"bookingId": int}, ".bookingId as text; it is integer now"),
        ({"bookingId": str | None}, ".bookingId as text; it is null now"),
        ({"seat": NESTED}, ".seat.row as integer; it is text now"),
        ({"seat": ROWLESS}, ".seat.row, which it does not have"),
        ({"seat": list[int]}, ".seat as object; it is list of integer now"),
        ({"cabin": Cabin}, '.cabin, which can be "first" now'),
        ({"cabin": Literal["business"]}, ".cabin as \"economy\", which it cannot be: Invalid enum value 'economy'"),
        ({"bookingId": Annotated[str, msgspec.Meta(max_length=2)]}, '.bookingId as "b-1", which it cannot be: '),
    ],
)
def test_what_does_not_fit_is_named(contract: Path, change: dict[str, Any], problem: str) -> None:
    """Missing, renamed, of another type at any depth, a value too many, a value that is never sent."""
    (said,) = problems(contract, changed(**change))
    assert said.startswith(f"ticket reads SeatAssigned{problem}")


def test_every_problem_is_told_at_once(contract: Path) -> None:
    """Not only the first one."""
    assert len(problems(contract, changed(bookingId=int, seat=None, cabin=int))) == 3


def test_an_event_that_is_gone_or_newer_is_named(contract: Path) -> None:
    """Another name, nothing like it, a version that the consumer cannot read."""

    class SeatsAssigned(Event):
        pass

    class Other(Event):
        pass

    newer = made("SeatAssigned", {}, SeatAssigned, version=2)
    gone = "ticket reads SeatAssigned, which nobody here publishes"
    assert problems(contract, SeatsAssigned) == [f"{gone}; perhaps it was renamed to SeatsAssigned"]
    assert problems(contract, Other) == [gone]
    assert problems(contract, newer) == [
        "ticket reads SeatAssigned in version 1; it is published in version 2",
    ]


class Spot(BaseModel):
    """Nested in a model."""

    row: int


@event(key="token")
class Modelled(BaseModel):
    """Written as a Pydantic model."""

    token: UUID
    at: datetime
    count: Annotated[int, Field(le=9)]
    places: list[Spot] = []
    name: str = Field(default="", alias="theName")


@event(key="token")
@dataclasses.dataclass
class Plain:
    """As a dataclass."""

    token: str
    at: str
    count: float
    places: list[Any]


def test_all_sorts_of_classes(tmp_path: Path) -> None:
    """What Pydantic writes a dataclass reads, where the types allow it; and its own limits count for examples."""
    read = Contract("a", "b").reads(Plain("x", "y", 12, []), "token", "at", "count", "places")
    path = tmp_path / "c.json"
    text = json.dumps(json.loads(read._text()))
    path.write_text(text.replace('"Plain"', '"Modelled"'))
    assert [said.partition(":")[0] for said in problems(path, Modelled)] == [
        'a reads Modelled.at as "y", which it cannot be',
        "a reads Modelled.count as 12, which it cannot be",
        'a reads Modelled.token as "x", which it cannot be',
    ]
    model = Modelled(token=UUID(int=1), at=datetime.fromisoformat("2026-01-01T00:00Z"), count=3, theName="n")
    Contract("a", "b").reads(model).save(path)
    assert_kept(path, Modelled)
    path.write_text(path.read_text().replace('"Modelled"', '"Plain"'))
    assert problems(path, Plain)[:1] == ["a reads Plain.at as datetime; it is text now"]


class Omitting(Event, omit_defaults=True):
    """May leave a field out."""

    n: int = 0


class Leaving(Event):
    """May leave a field unset."""

    n: int | msgspec.UnsetType = msgspec.UNSET


@pytest.mark.parametrize("cls", [Omitting, Leaving])
def test_a_field_that_may_be_left_out_is_no_field_for_who_needs_it(tmp_path: Path, cls: type) -> None:
    """A writer that omits its defaults breaks a reader that has none."""
    needs = made(cls.__name__, {"n": int})
    Contract("a", "b").reads(needs(n=1)).save(tmp_path / "c.json")
    assert problems(tmp_path, cls) == [f"a reads {cls.__name__}.n, which may be left out now"]
    assert_kept(tmp_path, needs)


@pytest.mark.parametrize(
    ("written", "wanted", "fits"),
    [
        ("integer", "number", True),
        ("number", "integer", False),
        ("uuid", "text", True),
        ("text", "uuid", False),
        ("text", "any", True),
        ("any", "text", False),
        ({"list": "integer"}, {"list": "number"}, True),
        ({"list": "text"}, {"list": "number"}, False),
        ({"map": {"list": "text"}}, {"map": {"list": "uuid"}}, False),
        ({"either": ["integer", "null"]}, {"either": ["null", "number", "text"]}, True),
        ({"either": ["integer", "boolean"]}, "number", False),
        ({"enum": ["a", "b"]}, "text", True),
        ({"enum": ["a", 1]}, "text", False),
        ({"enum": [1]}, "integer", True),
        ({"object": {"a": "text", "b": "text"}}, {"object": {"a": "text", "c": {"optional": "text"}}}, True),
        ({"object": {"a": {"optional": "text"}}}, {"object": {"a": "text"}}, False),
        ({"map": "text"}, {"object": {"a": "text"}}, False),
    ],
)
def test_what_one_writes_and_the_other_can_read(written: Any, wanted: Any, fits: bool) -> None:
    """Everything that is written has to be readable; the other way round does not matter."""
    assert (misfit(written, wanted) is None) is fits
