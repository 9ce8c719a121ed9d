"""The wire: envelopes as CloudEvents 1.0, read back by ourselves and by the public SDK."""

import base64
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cloudevents.core.bindings.http import HTTPMessage
from cloudevents.core.bindings.http import from_binary as sdk_from_binary
from cloudevents.core.bindings.http import from_structured as sdk_from_structured
from cloudevents.core.bindings.http import to_binary as sdk_to_binary
from cloudevents.core.bindings.http import to_structured as sdk_to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from antiphon.errors import InvalidEvent, PayloadTooLarge, Undecodable
from antiphon.model.envelope import Envelope
from antiphon.wire import (
    BATCH,
    STRUCTURED,
    from_batch,
    from_binary,
    from_http,
    from_structured,
    is_json,
    to_binary,
    to_structured,
    valid_traceparent,
)

CASES = Path(__file__).resolve().parents[2] / "shared" / "cases" / "cloudevents.json"

NOW = 1_700_000_000_123
ENVELOPE = Envelope(
    id="018bcfe5-687b-7000-8000-000000000001",
    type="BookingCreated",
    version=2,
    key='b 1 "é" 100%',
    service="booking",
    time_ms=NOW,
    data=b'{"booking_id":"b1","price":1.10,"note":null}',
    correlation_id="018bcfe5-687b-7000-8000-000000000000",
    causation_id="018bcfe5-687b-7000-8000-00000000000f",
    traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01",
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
NAME = st.text(st.characters(categories=["L", "N"], include_characters="._- "), min_size=1, max_size=20)
HEX = "0123456789abcdef"
TRACES = st.builds(
    "00-{}1-{}1-01".format,
    st.text(HEX, min_size=31, max_size=31),
    st.text(HEX, min_size=15, max_size=15),
)
DATA = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
ENVELOPES = st.builds(
    Envelope,
    id=TEXT,
    type=TEXT,
    version=st.integers(1, 10**6),
    key=st.none() | TEXT,
    service=NAME,
    time_ms=st.integers(-(10**13), 2 * 10**14),
    data=DATA.map(lambda value: json.dumps(value).encode()),
    correlation_id=TEXT,
    causation_id=st.none() | TEXT,
    traceparent=st.none() | TRACES,
)


def read(body: object, **more: Any) -> Envelope:
    """The envelope in the JSON text of *body*, received at NOW."""
    return from_structured(json.dumps(body).encode(), received_ms=NOW, **more)


def foreign(**attributes: Any) -> dict[str, Any]:
    """The smallest event of somebody else, with more attributes; None takes one away."""
    base = {"specversion": "1.0", "id": "1", "type": "com.example.made", "source": "https://example.com/x"}
    return {name: value for name, value in (base | attributes).items() if value is not ...}


def test_the_structured_form_has_the_standard_attributes() -> None:
    """One JSON object: the attributes of CloudEvents 1.0, our four extensions, and the data as it is."""
    body = to_structured(ENVELOPE)
    assert json.loads(body) == {
        "specversion": "1.0",
        "id": ENVELOPE.id,
        "source": "/booking",
        "type": "BookingCreated",
        "subject": ENVELOPE.key,
        "time": "2023-11-14T22:13:20.123Z",
        "dataschema": "urn:antiphon:event:BookingCreated:2",
        "datacontenttype": "application/json",
        "correlationid": ENVELOPE.correlation_id,
        "causationid": ENVELOPE.causation_id,
        "traceparent": ENVELOPE.traceparent,
        "service": "booking",
        "data": {"booking_id": "b1", "price": 1.1, "note": None},
    }
    assert ENVELOPE.data in body


def test_the_binary_form_has_ascii_headers() -> None:
    """Attributes become headers, percent-encoded as the HTTP binding says; the body is the data."""
    headers, body = to_binary(ENVELOPE)
    assert body == ENVELOPE.data
    assert headers["content-type"] == "application/json"
    assert headers["ce-subject"] == "b%201%20%22%C3%A9%22%20100%25"
    assert headers["ce-source"] == "/booking"
    assert headers["ce-time"] == "2023-11-14T22:13:20.123Z"
    assert all(value.isascii() and value.isprintable() for value in headers.values())


def test_what_is_not_there_is_not_written() -> None:
    """Without key, cause and trace there are no such attributes and headers."""
    bare = Envelope("1", "Ticked", 1, None, "clock", NOW, b"{}", "1")
    absent = {"subject", "causationid", "traceparent"}
    assert not absent & json.loads(to_structured(bare)).keys()
    assert not {f"ce-{name}" for name in absent} & to_binary(bare)[0].keys()


@given(ENVELOPES)
def test_an_envelope_survives_both_forms(envelope: Envelope) -> None:
    """What is read back is equal, data byte for byte, in structured, binary and batch form."""
    structured = to_structured(envelope)
    headers, body = to_binary(envelope)
    assert from_structured(structured, received_ms=0) == envelope
    assert from_binary(headers, body, received_ms=0) == envelope
    assert from_batch(b"[" + structured + b"," + structured + b"]", received_ms=0) == [envelope] * 2


@given(ENVELOPES)
def test_the_sdk_reads_and_writes_the_structured_form(envelope: Envelope) -> None:
    """The public SDK reads our text, and we read what it writes of it, with nothing lost."""
    message = HTTPMessage(headers={"content-type": STRUCTURED}, body=to_structured(envelope))
    event = sdk_from_structured(message, JSONFormat())
    assert event.get_id() == envelope.id
    assert event.get_type() == envelope.type
    assert event.get_subject() == envelope.key
    assert event.get_extension("correlationid") == envelope.correlation_id
    assert event.get_data() == json.loads(envelope.data)
    again = from_structured(sdk_to_structured(event, JSONFormat()).body, received_ms=0)
    assert same_but_spelling(again, envelope)


@given(ENVELOPES.filter(lambda envelope: envelope.data.startswith(b"{")))
def test_the_sdk_reads_and_writes_the_binary_form(envelope: Envelope) -> None:
    """The public SDK reads our headers and body, and we read its own, with nothing lost."""
    headers, body = to_binary(envelope)
    event = sdk_from_binary(HTTPMessage(headers=headers, body=body), JSONFormat())
    assert event.get_subject() == envelope.key
    assert event.get_data() == json.loads(envelope.data)
    message = sdk_to_binary(event, JSONFormat())
    assert same_but_spelling(from_binary(message.headers, message.body, received_ms=0), envelope)


def same_but_spelling(one: Envelope, other: Envelope) -> bool:
    """Whether two envelopes are equal, however their data is spaced and escaped."""

    def parts(envelope: Envelope) -> list[Any]:
        values = {name: getattr(envelope, name) for name in envelope.__struct_fields__}
        return [*values.values(), json.loads(values.pop("data"))]

    return [value for value in parts(one) if not isinstance(value, bytes)] == [
        value for value in parts(other) if not isinstance(value, bytes)
    ]


def test_the_sdk_makes_events_that_we_read() -> None:
    """An event made by the SDK, with extensions of its own, is read as a foreign event."""
    event = CloudEvent({"type": "t", "source": "https://x/y", "custom": "1", "subject": "k"}, {"a": 1})
    envelope = from_structured(sdk_to_structured(event, JSONFormat()).body, received_ms=0)
    assert (envelope.type, envelope.service, envelope.key) == ("t", "https://x/y", "k")
    assert json.loads(envelope.data) == {"a": 1}
    assert envelope.time_ms > 0


def test_a_foreign_event_needs_only_the_required_attributes() -> None:
    """Its correlation is its id, its version 1, its time that of its receipt, its data null."""
    assert read(foreign()) == Envelope(
        id="1",
        type="com.example.made",
        version=1,
        key=None,
        service="https://example.com/x",
        time_ms=NOW,
        data=b"null",
        correlation_id="1",
    )


@pytest.mark.parametrize("source", ["https://example.com/x", "#fragment", "urn:a:b", "/a/b", "//host/a", "/a%20b", "/"])
def test_a_foreign_source_is_kept(source: str) -> None:
    """Sent on, an event from elsewhere has the source that it came with."""
    assert json.loads(to_structured(read(foreign(source=source))))["source"] == source


def test_the_service_is_believed_only_with_its_source() -> None:
    """Another party's `service` extension does not make an event one of our service's."""
    assert read(foreign(source="/booking", service="booking")).service == "booking"
    assert read(foreign(source="/booking")).service == "booking"
    assert read(foreign(service="booking")).service == "https://example.com/x"


def test_a_foreign_schema_means_version_1() -> None:
    """Only our own dataschema tells a version; one that belongs to another type is refused."""
    assert read(foreign(dataschema="https://example.com/schema")).version == 1
    assert read(foreign(dataschema="urn:antiphon:event:com.example.made:7")).version == 7
    for wrong in (
        "urn:antiphon:event:other:7",
        "urn:antiphon:event:com.example.made:0",
        "urn:antiphon:event:x",
    ):
        with pytest.raises(Undecodable) as caught:
            read(foreign(dataschema=wrong))
        assert caught.value.field == "$.dataschema"


def test_a_bad_traceparent_is_ignored() -> None:
    """As W3C Trace Context asks, what is no traceparent is dropped, and one is derived instead."""
    for wrong in (
        "x",
        "",
        "00-" + "0" * 32 + "-" + "b" * 16 + "-01",
        "ff-" + "a" * 32 + "-" + "b" * 16 + "-01",
    ):
        assert read(foreign(traceparent=wrong)).traceparent is None


@pytest.mark.parametrize(
    ("text", "time_ms"),
    [
        ("2018-04-05T17:31:00Z", 1522949460000),
        ("2018-04-05T18:31:00+01:00", 1522949460000),
        ("2018-04-05T17:31:00.1239Z", 1522949460123),
        ("1969-12-31T23:59:59.999Z", -1),
    ],
)
def test_times_of_any_zone_are_read(text: str, time_ms: int) -> None:
    """A time in any zone and precision becomes milliseconds, rounded down."""
    assert read(foreign(time=text)).time_ms == time_ms


@pytest.mark.parametrize(
    ("attributes", "data"),
    [
        ({"data": {"a": [1, 2.50]}}, b'{"a": [1, 2.5]}'),
        ({"data": None}, b"null"),
        ({"data": "text", "datacontenttype": "text/plain"}, b'"text"'),
        ({"data": "<a/>", "datacontenttype": "application/xml"}, b'"<a/>"'),
        (
            {"data_base64": base64.b64encode(b'{"a":1}').decode(), "datacontenttype": "application/json"},
            b'{"a":1}',
        ),
        ({"data_base64": "4P8ARKo=", "datacontenttype": "application/octet-stream"}, b'"4P8ARKo="'),
        ({"data_base64": "4P8ARKo="}, b'"4P8ARKo="'),
        ({"data": {"a": 1}, "data_base64": None}, b'{"a": 1}'),
    ],
)
def test_data_becomes_json_text(attributes: dict[str, Any], data: bytes) -> None:
    """JSON data is taken as it is, also out of base64; other data becomes a JSON string."""
    assert read(foreign(**attributes)).data == data


@pytest.mark.parametrize(
    ("body", "field", "reason"),
    [
        (foreign(id=...), "$.id", "missing"),
        (foreign(id=None), "$.id", "missing"),
        (foreign(id=1), "$.id", "expected text, got 1"),
        (foreign(source=...), "$.source", "missing"),
        (foreign(source="a b"), "$.source", "expected a URI reference"),
        (foreign(specversion=...), "$.specversion", "missing"),
        (foreign(specversion="0.3"), "$.specversion", "'0.3' of CloudEvents is unknown; known: 1.0"),
        (foreign(time="2018-04-05T17:31:00"), "$.time", "RFC 3339 time with its zone"),
        (foreign(time="today"), "$.time", "RFC 3339"),
        (foreign(time=5), "$.time", "RFC 3339"),
        (foreign(dataschema="no/scheme"), "$.dataschema", "a URI with its scheme"),
        (foreign(datacontenttype="json"), "$.datacontenttype", "a media type"),
        (foreign(subject=""), "$.subject", "expected text"),
        (foreign(Upper="a"), "$.Upper", "lower-case letters and digits"),
        (foreign(ratio=1.5), "$.ratio", "text, an integer, true or false"),
        (foreign(nested={}), "$.nested", "text, an integer, true or false"),
        (foreign(big=2**31), "$.big", "32 bits"),
        (foreign(correlationid=5), "$.correlationid", "expected text"),
        (foreign(data=1, data_base64="MQ=="), "$.data_base64", "one of the two"),
        (foreign(data_base64="?"), "$.data_base64", "expected base64"),
        (foreign(data_base64=5), "$.data_base64", "expected base64"),
        (foreign(data_base64="/w==", datacontenttype="application/json"), "$.data_base64", "not UTF-8"),
        (foreign(data={"a": [2**53 + 1]}), "$.data.a[0]", "2^53"),
        ([], "$", "expected an object"),
    ],
)
def test_a_wrong_envelope_is_refused(body: object, field: str, reason: str) -> None:
    """Each broken rule of CloudEvents is Undecodable, with the field and the reason."""
    with pytest.raises(Undecodable) as caught:
        read(body)
    assert caught.value.field == field
    assert reason in caught.value.reason


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"id":"1","id":"2"}', "$.id"),
        (b'{"specversion":"1.0","data":{"a":1,"a":2}}', "$.data.a"),
        (b'{"data":{"a":NaN}}', "$.data.a"),
        (b"\xff", "$"),
        (b"{", "$"),
    ],
)
def test_text_that_is_read_differently_is_refused(body: bytes, field: str) -> None:
    """Duplicate keys, NaN and broken text are found in attributes and data alike."""
    with pytest.raises(Undecodable) as caught:
        from_structured(body, received_ms=NOW)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("headers", "body", "field"),
    [
        ({"ce-id": ""}, b"{}", "header ce-id"),
        ({"ce-time": "soon"}, b"{}", "header ce-time"),
        ({"ce-subject": "%FF"}, b"{}", "header ce-subject"),
        ({"ce-my_ext": "1"}, b"{}", "header ce-my_ext"),
        ({"content-type": "json"}, b"{}", "header content-type"),
        ({}, b"{", "body"),
        ({}, b'{"a":{"b":NaN}}', "body $.a.b"),
    ],
)
def test_a_wrong_binary_message_is_refused(headers: dict[str, str], body: bytes, field: str) -> None:
    """Errors name the header, or the place in the body."""
    with pytest.raises(Undecodable) as caught:
        from_binary(to_binary(ENVELOPE)[0] | headers, body, received_ms=NOW)
    assert caught.value.field == field


def test_headers_are_read_leniently() -> None:
    """Names in any case, quoted strings, other people's headers and needless percent-encoding are fine."""
    headers = {
        "CE-SpecVersion": "1.0",
        "Ce-Id": '"a \\"b\\""',
        "ce-TYPE": " %41%62 ",
        "ce-source": "/s",
        "ce-subject": "Euro%20%E2%82%AC%20%F0%9F%98%80",
        "User-Agent": "x%",
    }
    envelope = from_binary(headers, b"", received_ms=NOW)
    assert (envelope.id, envelope.type, envelope.key) == ('a "b"', "Ab", "Euro € 😀")
    assert envelope.data == b"null"


@pytest.mark.parametrize(
    ("content_type", "body", "data"),
    [("text/plain", "é".encode(), '"é"'.encode()), ("image/png", b"\x89PNG", b'"iVBORw=="')],
)
def test_other_bodies_become_json_strings(content_type: str, body: bytes, data: bytes) -> None:
    """Text is kept as text, binary data as base64."""
    headers = to_binary(ENVELOPE)[0] | {"content-type": content_type}
    assert from_binary(headers, body, received_ms=NOW).data == data


def test_a_message_is_read_in_the_form_it_tells() -> None:
    """The content type decides between structured, batch and binary; an unknown event format is refused."""
    structured = to_structured(ENVELOPE)
    headers, body = to_binary(ENVELOPE)
    for content_type in (STRUCTURED, "Application/CloudEvents+JSON; charset=utf-8"):
        assert from_http({"Content-Type": content_type}, structured, received_ms=0) == [ENVELOPE]
    assert from_http({"content-type": BATCH}, b"[" + structured + b"]", received_ms=0) == [ENVELOPE]
    assert from_http(headers, body, received_ms=0) == [ENVELOPE]
    with pytest.raises(Undecodable, match=r"application/cloudevents\+avro is unknown"):
        from_http({"content-type": "application/cloudevents+avro"}, b"", received_ms=0)


def test_an_error_in_a_batch_names_its_event() -> None:
    """Paths in a batch begin with the number of the event."""
    for body, field in (([foreign(), foreign(id="")], "$[1].id"), ([foreign(), 1], "$[1]"), ({}, "$")):
        with pytest.raises(Undecodable) as caught:
            from_batch(json.dumps(body).encode(), received_ms=NOW)
        assert caught.value.field == field


def test_data_over_the_limit_is_refused() -> None:
    """Data of exactly the limit is read, a byte more is PayloadTooLarge, whatever the form."""
    size = len(ENVELOPE.data)
    structured = to_structured(ENVELOPE)
    headers, body = to_binary(ENVELOPE)
    assert from_structured(structured, received_ms=0, limit=size) == ENVELOPE
    assert from_binary(headers, body, received_ms=0, limit=size) == ENVELOPE
    with pytest.raises(PayloadTooLarge):
        from_structured(structured, received_ms=0, limit=size - 1)
    with pytest.raises(PayloadTooLarge):
        from_binary(headers, body, received_ms=0, limit=size - 1)
    with pytest.raises(PayloadTooLarge):
        from_structured(b" " * 10**6, received_ms=0, limit=1000)


@given(st.binary(max_size=100), st.dictionaries(st.text(max_size=10), st.text(max_size=10), max_size=3))
def test_no_message_breaks_the_reader(body: bytes, headers: dict[str, str]) -> None:
    """Any bytes and headers are an envelope or an InvalidEvent; no other error escapes."""
    for mine in (
        headers,
        {f"ce-{name}": value for name, value in headers.items()},
        {"content-type": STRUCTURED},
    ):
        try:
            from_http(mine, body, received_ms=NOW)
        except InvalidEvent:
            pass


@given(st.dictionaries(st.sampled_from([*foreign(), "time", "data", "service", "dataschema"]), DATA))
def test_no_attribute_breaks_the_reader(attributes: dict[str, Any]) -> None:
    """Any JSON value for any attribute is read or refused."""
    try:
        read(foreign(**attributes))
    except InvalidEvent:
        pass


def cases() -> list[dict[str, Any]]:
    """The cases that the CloudEvents projects publish, if they lie beside the checkout."""
    if not CASES.exists():
        return []
    loaded: list[dict[str, Any]] = json.loads(CASES.read_text(encoding="utf-8"))
    return loaded


@pytest.mark.skipif(not CASES.exists(), reason="the CloudEvents cases are not beside the checkout")
def test_the_published_cases_are_judged_as_expected() -> None:
    """Every event, batch, content type and binding of the conformance cases has the expected verdict."""
    wrong = [case for case in cases() if verdict(case) != expected(case)]
    assert not wrong


def expected(case: dict[str, Any]) -> bool:
    return case["expected"] not in (False, "invalid")


def verdict(case: dict[str, Any]) -> bool:
    if case["kind"] == "content-type-is-json":
        return is_json(case["body"])
    body = case["body"] if isinstance(case["body"], str) else json.dumps(case["body"])
    headers = case.get("headers") or {"content-type": case["content_type"]}
    try:
        envelopes = from_http(headers, body.encode(), received_ms=NOW)
    except Undecodable:
        return False
    if isinstance(case["expected"], dict):
        attributes = json.loads(to_structured(envelopes[0]))
        assert attributes["data"] == case["expected"]["data_json"]
        assert envelopes[0].id == case["expected"]["attributes"]["id"]
        assert attributes["source"] == case["expected"]["attributes"]["source"]
    return True


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
def test_a_time_that_is_beyond_all_years_in_utc_is_refused(text: str) -> None:
    """Nobody could write it again as a CloudEvent."""
    event = {"specversion": "1.0", "id": "1", "source": "/a", "type": "t", "time": text}
    with pytest.raises(Undecodable, match="RFC 3339"):
        from_structured(msgspec.json.encode(event), received_ms=0)


@pytest.mark.parametrize(
    ("name", "longest"),
    [("id", 300), ("source", 255), ("type", 255), ("subject", 1024), ("correlationid", 500), ("causationid", 500)],
)
def test_what_no_store_could_keep_is_refused(name: str, longest: int) -> None:
    """A store that cannot keep one event would be given it again and again, and none of those after it."""
    event = {"specversion": "1.0", "id": "1", "source": "/a", "type": "t"}
    longer = {**event, name: "a" * (longest + 1)}
    with pytest.raises(Undecodable, match=f"it has {longest + 1:,} characters"):
        from_structured(msgspec.json.encode(longer), received_ms=0)
    from_structured(msgspec.json.encode({**event, name: "a" * longest}), received_ms=0)


def test_a_traceparent_that_is_too_long_is_ignored() -> None:
    """A later version of the format may add anything."""
    known = f"01-{'a' * 32}-{'b' * 16}-01"
    assert valid_traceparent(f"{known}-more") == f"{known}-more"
    assert valid_traceparent(f"{known}-{'x' * 300}") is None
