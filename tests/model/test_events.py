"""Event classes: how they are declared, and what is wrong is said where it stands."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, make_dataclass
from enum import Enum, IntEnum
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field
from pydantic.dataclasses import dataclass as pydantic_dataclass

from antiphon.errors import DeclarationError, InvalidEvent, UnknownVersion
from antiphon.model.events import Event, EventType, event, event_type_of, upcast


class Booked(Event, key="booking_id", version=3, type="booking.booked"):
    booking_id: str
    seats: int
    currency: str


@upcast(Booked, from_version=1)
def _seats(old: dict[str, Any]) -> dict[str, Any]:
    return {"booking_id": old["id"], "seats": 1}


@upcast(Booked, from_version=2)
def _currency(old: dict[str, Any]) -> dict[str, Any]:
    return {**old, "currency": "EUR"}


def test_a_struct_declares_its_options_in_the_class_statement() -> None:
    """Name, version, key and scope are read from the class's keywords and known of class and instance."""
    found = event_type_of(Booked)
    assert (found.name, found.version, found.key_field) == ("booking.booked", 3, "booking_id")
    assert (found.kind, found.domain, found.cls) == ("struct", False, Booked)
    assert event_type_of(Booked("b1", 1, "EUR")) is found


def test_the_options_have_defaults() -> None:
    """A bare event has its class's name, version 1 and no key, and is published to others."""

    class Ticked(Event):
        pass

    found = event_type_of(Ticked)
    assert (found.name, found.version, found.key_field, found.domain) == ("Ticked", 1, None, False)
    assert found.encode(Ticked()) == b"{}"
    assert found.key_of(Ticked()) is None


def test_events_are_immutable_unless_they_say_so() -> None:
    """A subclass is frozen without asking; ``frozen=False`` is passed on to msgspec."""

    class Draft(Event, frozen=False):  # type: ignore[misc]
        text: str

    with pytest.raises(AttributeError):
        Booked("b1", 1, "EUR").seats = 2  # type: ignore[misc]
    draft = Draft("a")
    draft.text = "b"
    assert draft.text == "b"


def test_options_of_msgspec_pass_through() -> None:
    """``rename`` and the others work; the key is still named by the attribute."""

    class Renamed(Event, key="booking_id", rename="camel", kw_only=True, forbid_unknown_fields=True):
        booking_id: str
        seat: int | None = None

    found = event_type_of(Renamed)
    renamed = Renamed(booking_id="b1")
    assert found.encode(renamed) == b'{"bookingId":"b1","seat":null}'
    assert found.key_of(renamed) == "b1"
    with pytest.raises(InvalidEvent) as caught:
        found.decode(b'{"bookingId":"b1","seet":1}', 1)
    assert (caught.value.field, caught.value.reason) == ("$.seet", "unknown field")


def test_a_subclass_inherits_key_and_scope_and_nothing_else() -> None:
    """A subclass is an event of its own name and version; key and domain come from its parent."""

    class Parent(Event, key="id", version=4, type="parent", domain=True):
        id: str

    class Child(Parent):
        note: str = ""

    found = event_type_of(Child)
    assert (found.name, found.version, found.key_field, found.domain) == ("Child", 1, "id", True)


def test_a_dataclass_and_a_model_are_events_by_decorator() -> None:
    """The decorator gives a dataclass, a Pydantic model and a Pydantic dataclass the same options."""

    @event(key="id", version=2, type="d", domain=True)
    @dataclass(frozen=True, slots=True)
    class Plain:
        id: str

    @event(key="id")
    class Model(BaseModel):
        id: str

    @event(key="id")
    @pydantic_dataclass
    class Mixed:
        id: str

    plain = event_type_of(Plain)
    assert (plain.name, plain.version, plain.key_field, plain.domain) == ("d", 2, "id", True)
    assert [event_type_of(cls).kind for cls in (Plain, Model, Mixed)] == ["dataclass", "pydantic", "pydantic"]
    for obj in (Plain("a"), Model(id="a"), Mixed("a")):
        found = event_type_of(obj)
        assert found.decode(found.encode(obj), found.version) == obj
        assert found.key_of(obj) == "a"


def test_what_is_no_event_is_said_so() -> None:
    """Event itself, other values, and undeclared subclasses of decorated classes are no events."""

    @event()
    @dataclass
    class Plain:
        pass

    class Undeclared(Plain):
        pass

    for other in (Event, Undeclared, Undeclared(), str, "text", None):
        with pytest.raises(DeclarationError, match="not an event"):
            event_type_of(other)


class Colour(Enum):
    RED = "red"


class Number(IntEnum):
    ONE = 1


class Keyed(Event, key="key"):
    key: str | int | None


@pytest.mark.parametrize(
    ("annotation", "value", "key"),
    [
        (str, "a b", "a b"),
        (int, 7, "7"),
        (UUID, UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Colour, Colour.RED, "red"),
        (Number, Number.ONE, "1"),
        (str | None, None, None),
    ],
)
def test_keys_become_text(annotation: Any, value: object, key: str | None) -> None:
    """key_of gives the key field's value as text, and None where there is none."""

    sample: Any = event(key="key")(make_dataclass("Sample", [("key", annotation)]))
    assert event_type_of(sample).key_of(sample(value)) == key


def test_an_empty_key_is_refused() -> None:
    """An empty key orders nothing and cannot be a subject."""
    with pytest.raises(InvalidEvent) as caught:
        event_type_of(Keyed).key_of(Keyed(""))
    assert caught.value.field == "$.key"


def test_a_key_has_a_longest_length() -> None:
    """A broker that has no room for a longer one would hold up everything after it."""
    keyed = event_type_of(Keyed)
    assert keyed.key_of(Keyed("k" * 1_024)) == "k" * 1_024
    with pytest.raises(InvalidEvent, match="1,025 characters"):
        keyed.key_of(Keyed("k" * 1_025))


def declare_key() -> None:
    class Wrong(Event, key="nope"):
        id: str


def declare_key_type() -> None:
    class Wrong(Event, key="parts"):
        parts: list[str]


def declare_version_zero() -> None:
    class Wrong(Event, version=0):
        pass


def declare_version_text() -> None:
    class Wrong(Event, version="2"):
        pass


def declare_version_bool() -> None:
    class Wrong(Event, version=True):
        pass


def declare_type() -> None:
    class Wrong(Event, type="two words"):
        pass


def declare_domain() -> None:
    class Wrong(Event, domain=1):
        pass


def declare_unknown_option() -> None:
    class Wrong(Event, keys="id"):
        id: str


def declare_array() -> None:
    class Wrong(Event, array_like=True):
        id: str


def declare_unknown_type() -> None:
    class Wrong(Event):
        ratio: list[complex]


def declare_nested_model() -> None:
    class Model(BaseModel):
        pass

    class Wrong(Event):
        model: Model


def declare_twice() -> None:
    @event()
    @event()
    @dataclass
    class Wrong:
        pass


def declare_struct_twice() -> None:
    event(key="id")(Keyed)


def declare_function() -> None:
    event()(print)  # type: ignore[type-var]


def declare_plain_class() -> None:
    @event()
    class Wrong:
        pass


def declare_model_key() -> None:
    @event(key="parts")
    class Wrong(BaseModel):
        parts: list[str]


def declare_upcaster_too_new() -> None:
    upcast(Booked, from_version=3)


def declare_upcaster_of_nothing() -> None:
    upcast(Keyed)


def declare_upcaster_twice() -> None:
    upcast(Booked, from_version=2)(lambda old: old)


@pytest.mark.parametrize(
    ("declare", "said"),
    [
        (declare_key, "'nope', which is no field. Its fields are id"),
        (declare_key_type, "'parts' is not a str"),
        (declare_version_zero, "version is 0"),
        (declare_version_text, "version is '2'"),
        (declare_version_bool, "version is True"),
        (declare_type, "'two words'"),
        (declare_domain, "domain is 1"),
        (declare_unknown_option, "'keys'.* Options: key, version, type, domain"),
        (declare_array, "not an array"),
        (declare_unknown_type, "'ratio' has a type that JSON cannot carry: complex"),
        (declare_nested_model, "'model' has a type that JSON cannot carry"),
        (declare_twice, "already"),
        (declare_struct_twice, "already"),
        (declare_function, "above a class"),
        (declare_plain_class, "above @dataclass"),
        (declare_model_key, "'parts' is not a str"),
        (declare_upcaster_too_new, "Older versions: 1, 2"),
        (declare_upcaster_of_nothing, "none, since its version is 1"),
        (declare_upcaster_twice, "already"),
    ],
)
def test_a_wrong_declaration_fails_where_it_stands(declare: Callable[[], None], said: str) -> None:
    """Each wrong option, key, version or type is a DeclarationError that names what is allowed."""
    with pytest.raises(DeclarationError, match=said):
        declare()


class Early(Event):
    later: "Later | None" = None


class Later(msgspec.Struct):
    name: str


class Tree(Event, key="name"):
    name: str
    children: "list[Tree]" = msgspec.field(default_factory=list)


def test_annotations_may_name_what_is_defined_later() -> None:
    """Forward references and recursive events are resolved at first use."""
    early, tree = Early(Later("a")), Tree("a", [Tree("b", [Tree("c")])])
    for obj in (early, tree):
        found = event_type_of(obj)
        assert found.decode(found.encode(obj), 1) == obj


def test_an_annotation_that_is_never_defined_is_said_at_first_use() -> None:
    """What stays unresolved is a DeclarationError that says how to mend it."""

    class Lost(Event):
        what: "Nowhere"  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(DeclarationError, match=r"'Nowhere' is not defined.*module level"):
        event_type_of(Lost).encode(Lost(1))


def test_older_versions_are_upcast_step_by_step() -> None:
    """Data of version 1 goes through both upcasters, that of version 2 through one, and then the check."""
    found = event_type_of(Booked)
    assert found.known_versions == [1, 2, 3]
    assert found.decode(b'{"id":"b1"}', 1) == Booked("b1", 1, "EUR")
    assert found.decode(b'{"booking_id":"b1","seats":4}', 2) == Booked("b1", 4, "EUR")
    assert found.decode(b'{"booking_id":"b1","seats":4,"currency":"USD"}', 3) == Booked("b1", 4, "USD")


@pytest.mark.parametrize("version", [-1, 0, 4, 99])
def test_an_unknown_version_is_refused(version: int) -> None:
    """A newer version, or one that never was, is UnknownVersion and names the known ones."""
    with pytest.raises(UnknownVersion, match=f"version {version} is unknown; known: 1, 2, 3"):
        event_type_of(Booked).decode(b"{}", version)


def test_a_gap_between_upcasters_makes_older_versions_unknown() -> None:
    """Only versions from which an unbroken chain leads here can be read."""

    class Gapped(Event, version=4):
        pass

    upcast(Gapped, from_version=1)(lambda old: old)
    upcast(Gapped, from_version=3)(lambda old: old)
    assert event_type_of(Gapped).known_versions == [3, 4]
    with pytest.raises(UnknownVersion):
        event_type_of(Gapped).decode(b"{}", 1)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"{}", r"\$: the upcaster from version 1 failed: KeyError: 'id'"),
        (b"[]", "expected an object"),
        (b'{"id":1}', r"\$\.booking_id: expected str, got int"),
        (b'{"id":NaN}', r"\$\.id: NaN is not a JSON number"),
        (b'{"id":"a","id":"b"}', r"\$\.id: this key occurs twice"),
        (b"{", "not JSON"),
    ],
)
def test_bad_data_of_an_older_version_is_refused(data: bytes, said: str) -> None:
    """An upcaster that fails, or leads to data that breaks the contract, makes the event invalid."""
    with pytest.raises(InvalidEvent, match=said):
        event_type_of(Booked).decode(data, 1)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (float("nan"), r"\$\.a: nan is not a JSON number"),
        (object(), r"\$\.a: a value of type object cannot be JSON"),
        ({1: 1, "1": 2}, r"\$\.a: two keys that read the same"),
    ],
)
def test_an_upcaster_gives_plain_json(value: object, said: str) -> None:
    """What an upcaster returns has to be JSON as strictly as what a handler publishes."""

    class Loose(Event, version=2):
        a: object

    upcast(Loose)(lambda old: {"a": value})
    with pytest.raises(InvalidEvent, match=said):
        event_type_of(Loose).decode(b"{}", 1)


@given(st.text(), st.integers(0, 1000))
def test_upcasting_keeps_what_it_does_not_touch(name: str, seats: int) -> None:
    """The fields that an upcaster passes on arrive unchanged."""
    data = msgspec.json.encode({"booking_id": name, "seats": seats})
    assert event_type_of(Booked).decode(data, 2) == Booked(name, seats, "EUR")


def test_only_the_class_itself_is_encoded() -> None:
    """An object of another class is no event of this type, even if it looks the same."""
    found: EventType = event_type_of(Keyed)
    with pytest.raises(InvalidEvent, match="expected Keyed, got Booked"):
        found.encode(Booked("b1", 1, "EUR"))


def test_a_model_may_use_aliases() -> None:
    """Pydantic aliases are the names in the JSON text, on the way out as on the way in."""

    @event(key="booking_id")
    class Aliased(BaseModel):
        booking_id: str = Field(alias="bookingId")

    found = event_type_of(Aliased)
    obj = Aliased(bookingId="b1")
    assert found.encode(obj) == b'{"bookingId":"b1"}'
    assert found.decode(b'{"bookingId":"b1"}', 1) == obj


def test_events_work_without_pydantic() -> None:
    """Pydantic is not imported unless the application does."""
    script = (
        "import sys; from antiphon.model.events import Event, event_type_of\n"
        "class A(Event): n: int\n"
        "event_type_of(A).encode(A(1))\n"
        "assert not {'pydantic', 'pydantic_core'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
