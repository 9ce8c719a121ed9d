"""Foreign messages as events, and back: what is understood, what ids there are, what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel

from antiphon import App, Event, Service, event
from antiphon.channel.mapping import Mapper
from antiphon.errors import DeclarationError, InvalidEvent
from antiphon.model.channels import Message
from antiphon.model.envelope import Envelope
from antiphon.runtime.clock import SystemClock
from antiphon.wire import to_structured

UUID = "01890a5d-ac96-774b-bcce-b302099a8057"


class Placed(Event, key="order"):
    """An order."""

    order: str
    amount: Decimal
    due: date | None = None


class Cancelled(Event, key="order"):
    """Another event of the same place."""

    order: str


@event(key="order")
class PlacedModel(BaseModel):
    """The same in Pydantic's words."""

    order: str
    amount: Decimal
    count: int = 1


@event(key="order")
@dataclass
class PlacedDataclass:
    """The same as a dataclass."""

    order: str
    count: int = 1


def mapper(*types: type, limit: int = 1000, **options: Any) -> Mapper:
    """That of a channel whose one place is ``orders``, both ways."""
    app = App(Service("here"), name="mapped")
    given = {"inbound": {"orders": types}, "outbound": {"orders": types}, **options}
    return Mapper(app.channel("amqp://host/", name="up", **given), SystemClock(), limit)


def only(envelopes: Sequence[Envelope]) -> Envelope:
    """The one that there is."""
    (envelope,) = envelopes
    return envelope


def cloud_event(**more: Any) -> Message:
    """A CloudEvent in its structured form."""
    base = {"specversion": "1.0", "id": "7", "source": "/billing", "type": "Placed"}
    body = {**base, "data": {"order": "o", "amount": "1.50"}, **more}
    return Message(topic="orders", body=json.dumps(body).encode(), content_type="application/cloudevents+json")


def test_plain_json_is_the_event_of_its_place() -> None:
    """Its id is the foreign name of the message, its source the channel, its key that of the event."""
    found = only(mapper(Placed).envelopes(Message(topic="orders", body=b'{"order":"o","amount":"1.5"}', id="m1")))
    assert (found.id, found.type, found.key, found.service) == ("up:m1", "Placed", "o", "up")


def test_a_message_without_a_name_gets_a_new_one() -> None:
    """Two equal readings are two events."""
    message = Message(topic="orders", body=b'{"order":"o","amount":1}')
    here = mapper(Placed)
    assert only(here.envelopes(message)).id != only(here.envelopes(message)).id


def test_the_application_names_messages() -> None:
    """``identify`` is asked for every message, and its failure sets the message aside."""
    here = mapper(Placed, identify=lambda message: json.loads(message.body)["order"])
    assert only(here.envelopes(Message(topic="orders", body=b'{"order":"o9","amount":1}'))).id == "up:o9"
    with pytest.raises(InvalidEvent, match="identify"):
        mapper(Placed, identify=lambda message: message.headers["none"]).envelopes(
            Message(topic="orders", body=b'{"order":"o9","amount":1}')
        )


@pytest.mark.parametrize(
    ("event_id", "source", "expected", "service"),
    [
        (UUID, "/billing", UUID, "//up/billing"),
        ("7", "/billing", "billing#7", "//up/billing"),
        ("7", "https://else.where/x", "https://else.where/x#7", "https://else.where/x"),
    ],
)
def test_a_cloud_event_is_named_by_its_source_too(event_id: str, source: str, expected: str, service: str) -> None:
    """A foreign service is never taken for one of this app; an id that is a UUID stays."""
    found = only(mapper(Placed).envelopes(cloud_event(id=event_id, source=source)))
    assert (found.id, found.service) == (expected, service)


def test_a_cloud_event_of_several_types_says_which() -> None:
    """One that is not declared is refused; a single declared type has whatever foreign name."""
    here = mapper(Placed, Cancelled)
    assert only(here.envelopes(cloud_event(type="Cancelled"))).type == "Cancelled"
    with pytest.raises(InvalidEvent, match="not declared"):
        here.envelopes(cloud_event(type="com.example.placed"))
    assert only(mapper(Placed).envelopes(cloud_event(type="com.example.placed"))).type == "Placed"


@pytest.mark.parametrize(
    ("cls", "row"), [(Placed, {"due": "2026-01-02"}), (PlacedModel, {"count": "3"}), (PlacedDataclass, {"count": "3"})]
)
def test_rows_are_read_as_what_they_stand_for(cls: type, row: dict[str, str]) -> None:
    """Text of a column becomes the field's type; an empty one is left to its default; no key is no event."""
    here = mapper(cls)
    values = {"order": "o", "amount": "1.50"} if cls is not PlacedDataclass else {"order": "o"}
    data = json.loads(only(here.envelopes(Message(topic="orders", body=b"", row={**values, **row}))).data)
    assert data.get("count", 3) == 3
    empty = dict.fromkeys(row, "")
    assert only(here.envelopes(Message(topic="orders", body=b"", row={**values, **empty}))).key == "o"
    with pytest.raises(InvalidEvent):
        here.envelopes(Message(topic="orders", body=b"", row={"amount": "x"}))


def test_the_application_decodes_what_is_foreign() -> None:
    """One event, several with ids of their own, or none; what it must not return, and what it raises, is refused."""

    def decode(message: Message) -> Any:
        if message.body == b"boom":
            raise RuntimeError("boom")
        orders = message.body.decode().split()
        return [Cancelled(order=each) if each != "other" else PlacedDataclass(each) for each in orders] or None

    here = mapper(Cancelled, decode=decode)
    found = here.envelopes(Message(topic="orders", body=b"a b", id="m"))
    assert [(each.id, each.key) for each in found] == [("up:m:1", "a"), ("up:m:2", "b")]
    assert here.envelopes(Message(topic="orders", body=b"")) == []
    for body in (b"boom", b"other"):
        with pytest.raises(InvalidEvent, match="decode"):
            here.envelopes(Message(topic="orders", body=body))


@pytest.mark.parametrize(
    "message",
    [
        Message(topic="orders", body=b"x" * 1001),
        Message(topic="orders", body=b'{"order":"o","order":"p","amount":1}'),
        Message(topic="orders", body=b"\xff"),
        Message(topic="orders", body=b"<order/>", content_type="application/xml"),
        Message(topic="orders", body=b"", problem="half a line"),
        cloud_event(id=UUID, subject=None, data=None),
        cloud_event(source="a\u0000b"),
        Message(topic="orders", body=b'{"order":"a\\u0000b","amount":1}'),
        cloud_event(source="/" + "s" * 254),
    ],
)
def test_what_is_hostile_or_broken_is_refused(message: Message) -> None:
    """It is set aside alone, instead of breaking the transaction that would take it with others."""
    with pytest.raises(InvalidEvent):
        mapper(Placed).envelopes(message)


def test_an_id_that_is_too_long_is_kept_as_its_digest() -> None:
    """It is the same each time."""
    message = Message(topic="orders", body=b'{"order":"o","amount":1}', id="m" * 1000)
    first, second = (only(mapper(Placed).envelopes(message)).id for _ in range(2))
    assert first == second
    assert len(first) < 200


def test_an_event_goes_out_as_a_cloud_event_or_as_the_application_says() -> None:
    """With its id; and never by the channel that it came by."""
    here = mapper(Placed)
    came = only(here.envelopes(cloud_event(id=UUID)))
    assert here.messages(came) == []
    elsewhere = Mapper(
        App(Service("x"), name="y").channel("amqp://host/", name="down", outbound={"e/r": Placed, "q": Placed}),
        SystemClock(),
        1000,
    )
    sent = elsewhere.messages(came)
    assert [(each.topic, each.id, each.attributes["id"], each.key) for each in sent] == [
        ("e/r", UUID, UUID, "o"),
        ("q", UUID, UUID, "o"),
    ]
    assert json.loads(sent[0].body) == {"order": "o", "amount": "1.50"}


@pytest.mark.parametrize(("encoded", "body"), [(b"raw", b"raw"), ({"a": 1}, b'{"a":1}')])
def test_the_application_encodes(encoded: object, body: bytes) -> None:
    """Bytes as they are, anything else as JSON."""
    app = App(Service("x"), name="y")
    channel = app.channel("amqp://host/", name="down", outbound={"q": Cancelled}, encode=lambda _: encoded)
    event = Envelope(UUID, "Cancelled", 1, "o", "x", 0, b'{"order":"o"}', UUID)
    (message,) = Mapper(channel, SystemClock(), 1000).messages(event)
    assert (message.body, dict(message.attributes)) == (body, {})


class Inside(Event, domain=True):
    """What stays where it is."""


@pytest.mark.parametrize(
    ("url", "options", "said"),
    [
        ("amqp://h/", {}, "nothing comes or goes"),
        ("gopher://h/", {"inbound": {"q": Placed}}, "no channel is known"),
        ("amqp://user:hush@h/", {"inbound": {"q": Inside}}, "stays inside"),
        ("mqtt://h/", {"outbound": {"q": Placed}}, "nothing can come out|can come out"),
        ("amqp://h/", {"inbound": {"q": Placed}, "options": {"every": 1}}, "no option every"),
        ("amqp://h/", {"inbound": {"q": dict}}, "not an event"),
        ("amqp://h/", {"inbound": {"q": Placed}, "name": "here"}, "already"),
        ("nats://h/", {"region": "eu", "peer": "eu", "replicate": [Placed]}, "both"),
        ("nats://h/", {"region": "eu", "replicate": [Placed]}, "cannot name a region"),
        ("nats://h/", {"region": "eu", "peer": "us", "inbound": {"q": Placed}}, "replicate="),
    ],
)
def test_what_cannot_work_is_said_where_it_is_declared(url: str, options: dict[str, Any], said: str) -> None:
    """With the place, and no password."""
    with pytest.raises(DeclarationError, match=said) as caught:
        App(Service("here"), name="mapped").channel(url, **options)
    assert "test_mapping" in str(caught.value)
    assert "hush" not in str(caught.value)


def regional(here: str, peer: str, **options: Any) -> Mapper:
    """That of a channel between two regions."""
    app = App(Service("here"), name="geo")
    channel = app.channel("nats://h", region=here, peer=peer, replicate=[Placed], options=options)
    return Mapper(channel, SystemClock(), 1000)


def born(service: str) -> Envelope:
    """An event of that source."""
    return Envelope(UUID, "Placed", 1, "o", service, 5, b'{"order":"o","amount":"1"}', UUID)


def test_what_was_born_here_crosses_under_its_id() -> None:
    """Sent to the other region's place, it says where it was born and what it has passed; there it is what it was."""
    (sent,) = regional("eu", "us").messages(born("crm"))
    assert (sent.topic, sent.attributes["source"], sent.attributes["regions"]) == ("geo.eu.us", "region://eu/crm", "eu")
    come = only(regional("us", "eu").envelopes(sent))
    assert (come.id, come.key, come.time_ms, come.service) == (UUID, "o", 5, "region://eu/crm")


def test_what_came_from_elsewhere_is_sent_on_only_where_it_is_said() -> None:
    """And never to a region that it has passed."""
    assert regional("us", "asia").messages(born("region://eu/crm")) == []
    passes_on = regional("us", "asia", passes_on=True)
    (sent,) = passes_on.messages(born("region://eu/crm"))
    assert (sent.attributes["source"], sent.attributes["regions"]) == ("region://eu/crm", "eu,us")
    assert only(regional("asia", "us").envelopes(sent)).service == "region://eu/crm#us"
    assert passes_on.messages(born("region://asia/crm")) == []
    assert passes_on.messages(born("region://eu/crm#asia")) == []


def test_what_comes_back_is_dropped_by_the_receiver_too() -> None:
    """Whatever the sender has done: by the list, or by where it was born."""
    for source, passed in (("region://eu/crm", "us"), ("region://sa/crm", "sa,eu,us"), ("region://eu/crm", "eu,us")):
        (sent,) = regional("eu", "us").messages(born("crm"))
        returned = msgspec.structs.replace(
            sent, topic="geo.us.eu", attributes={**sent.attributes, "source": source, "regions": passed}
        )
        assert regional("eu", "us").envelopes(returned) == []


def test_what_decode_returns_that_is_no_event_is_refused() -> None:
    """The message is set aside; those after it come."""
    with pytest.raises(InvalidEvent, match="decode returned dict, which is no event"):
        mapper(Placed, decode=lambda message: {"order": "o"}).envelopes(Message(topic="orders", body=b"x"))


@pytest.mark.parametrize("nothing", [None, ""])
def test_a_message_without_a_name_is_not_taken_for_another_one(nothing: Any) -> None:
    """If all of them were called nothing, the second would be a duplicate of the first."""
    with pytest.raises(InvalidEvent, match="identify returned"):
        mapper(Placed, identify=lambda message: nothing).envelopes(
            Message(topic="orders", body=b'{"order":"o","amount":"1"}')
        )


def test_the_content_type_says_that_the_body_is_the_event() -> None:
    """Also where there are attributes beside it."""
    plain = cloud_event(time="2026-01-01T00:00:00Z")
    message = msgspec.structs.replace(plain, attributes={"id": "8", "type": "Other"})
    assert only(mapper(Placed).envelopes(message)) == only(mapper(Placed).envelopes(plain))


@pytest.mark.parametrize("time_ms", [2**62, -(2**62)])
def test_a_time_that_is_none_is_not_kept(time_ms: int) -> None:
    """Whoever sends a message may write any number there; it is the time at which it came then."""
    message = Message(topic="orders", body=b'{"order":"o","amount":"1"}', time_ms=time_ms)
    envelope = only(mapper(Placed).envelopes(message))
    assert to_structured(envelope)
    assert to_structured(only(mapper(Placed).envelopes(msgspec.structs.replace(cloud_event(), time_ms=time_ms))))


def test_what_a_channel_is_shown_as_has_no_secrets() -> None:
    """In a log, or where something goes wrong."""
    channel = App(Service("here"), name="mapped").channel(
        "webhook://", name="up", inbound={"orders": Placed}, options={"secret": "c2VjcmV0"}
    )
    assert "c2VjcmV0" not in repr(channel)
    channel = App(Service("here"), name="mapped").channel("amqp://u:hidden@host/", name="up", inbound={"q": Placed})
    assert "hidden" not in repr(channel)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nats://me:hush@h:42x2", "its port is no number"),
        ("amqp://me:hush@h/?nmae=a", "no option 'nmae'"),
        ("redis://:hush@h?nmae=a", "'nmae'"),
        ("kafka://me:hush@h:9092?nmae=a", "no option nmae"),
    ],
)
async def test_what_a_client_would_misunderstand_ends_the_start(url: str, said: str, tmp_path: Path) -> None:
    """It is not found out again and again while the app runs."""
    app = App(Service("here"), name="mapped")
    app.channel(url, name="down", outbound={"q": Placed})
    with pytest.raises(DeclarationError, match=said) as caught:
        async with app.run_in(tmp_path):
            pass
    assert "hush" not in str(caught.value)
