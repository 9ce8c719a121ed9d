"""Envelope <-> bytes: CloudEvents 1.0 as structured JSON, or as headers and body. The only encoder.

Besides the attributes of the standard there are extensions: ``correlationid``, ``causationid``, ``traceparent``
and ``service``; of a command or reply its ``kind`` and ``target``, of a reply the ``requestid`` that it answers; a
``deadline`` (RFC 3339). The version of the data stands in ``dataschema``, as
``urn:antiphon:event:<Type>:<version>``. Events from elsewhere need none of these: their correlation is
their own id, their version 1, their service what ``source`` says. Their other extensions are checked and
dropped.

Data that is not JSON becomes a JSON string: text as it is, binary data as base64.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated, NoReturn
from urllib.parse import quote, unquote, unquote_to_bytes

import msgspec

from antiphon.errors import PayloadTooLarge, Undecodable
from antiphon.model.envelope import Envelope
from antiphon.model.events import MAX_KEY
from antiphon.model.jsontext import MAX_PAYLOAD, strict_json

__all__ = [
    "BATCH",
    "STRUCTURED",
    "from_attributes",
    "from_batch",
    "from_binary",
    "from_http",
    "from_message",
    "from_structured",
    "is_json",
    "strict_json",
    "to_attributes",
    "to_binary",
    "to_structured",
    "valid_traceparent",
]

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"

#: Names of types and services come again and again. So few are remembered that their size does not matter.
_FEW = 128
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_SCHEMA_PREFIX = "urn:antiphon:event:"
#: What the attributes of an event may add to the size of its data.
_HEADROOM = 64 * 1024

_SCHEMA = re.compile(re.escape(_SCHEMA_PREFIX) + r"(?P<type>[^:]+):(?P<version>[1-9][0-9]{0,8})")
_NAME = re.compile(r"[a-z0-9]+")
_URI_REFERENCE = re.compile(r"[^\s\x00-\x20\x7f<>\"{}|\\^`]+")
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[^\s\x00-\x20\x7f<>\"{}|\\^`]+")
_MEDIA_TYPE = re.compile(r"[\w!#$&^.+*-]+/[\w!#$&^.+*-]+\s*(;.*)?", re.ASCII | re.DOTALL)
# "applications/json" is no media type, but it is seen in the wild.
_JSON_TYPE = re.compile(r"(applications?|text)/([\w.-]+\+)?json(\s*;.*)?", re.ASCII | re.DOTALL | re.IGNORECASE)
_TRACEPARENT = re.compile(
    r"(?!ff)(00(?=.{53}$)|(?!00)[0-9a-f]{2})-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?"
)
# CloudEvents HTTP binding, 3.1.3.2: printable ASCII but space, double quote and percent.
_HEADER_SAFE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')

_Time = Annotated[datetime, msgspec.Meta(tz=True)]

_TEXT = re.compile(r".+", re.DOTALL)
_STANDARD = {
    "specversion": (_TEXT, "text"),
    "id": (_TEXT, "text"),
    "type": (_TEXT, "text"),
    "source": (_URI_REFERENCE, "a URI reference"),
    "subject": (_TEXT, "text"),
    "time": (_TEXT, "an RFC 3339 time"),
    "dataschema": (_URI, "a URI with its scheme"),
    "datacontenttype": (_MEDIA_TYPE, "a media type"),
}
_OUR_EXTENSIONS = frozenset(
    {"correlationid", "causationid", "traceparent", "service", "kind", "target", "requestid", "deadline"}
)
#: What may be any text but none, which is most of what an event has: nothing else need be looked at then.
_ANY_TEXT = _OUR_EXTENSIONS | {name for name, (pattern, _) in _STANDARD.items() if pattern is _TEXT}

#: The characters of what is kept of an event beside its data. All of it may be so short.
_SHORT = 255
_LONGEST = {
    **dict.fromkeys(("type", "source", "target"), _SHORT),
    "id": 300,
    **dict.fromkeys(("correlationid", "causationid", "requestid"), 500),
    "subject": MAX_KEY,
}

Attributes = Mapping[str, object]

_texts = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class _Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """An envelope in the names of CloudEvents, in the order in which they are written."""

    specversion: str
    id: str
    source: str
    type: str
    time: str
    dataschema: str
    datacontenttype: str
    correlationid: str
    service: str
    subject: str | None = None
    causationid: str | None = None
    traceparent: str | None = None
    kind: str | None = None
    target: str | None = None
    requestid: str | None = None
    deadline: str | None = None
    data: msgspec.Raw | None = None


def to_structured(envelope: Envelope) -> bytes:
    """*envelope* as one JSON object, of content type ``STRUCTURED``."""
    return msgspec.json.encode(_event(envelope, msgspec.Raw(envelope.data)))


def to_binary(envelope: Envelope) -> tuple[dict[str, str], bytes]:
    """*envelope* as HTTP headers, with lower-case names, and the data as body."""
    attributes, data = to_attributes(envelope)
    headers = {"content-type": attributes.pop("datacontenttype")}
    for name, value in attributes.items():
        headers[f"ce-{name}"] = quote(value, safe=_HEADER_SAFE)
    return headers, data


def to_attributes(envelope: Envelope) -> tuple[dict[str, str], bytes]:
    """*envelope* as plain CloudEvents attributes, by name, and the data."""
    event = _event(envelope, None)
    values = {name: getattr(event, name) for name in event.__struct_fields__}
    return {name: value for name, value in values.items() if value is not None}, envelope.data


def from_attributes(
    attributes: Mapping[str, object], body: bytes, *, received_ms: int, limit: int = MAX_PAYLOAD
) -> Envelope:
    """The envelope in attributes by name, and a body; as from_structured."""
    if len(body) > limit:
        _refuse_size(body, limit)
    content_type = attributes.get("datacontenttype", "application/json")
    data = _json_text(body, str(content_type), "body", limit) if body else b"null"
    return _envelope(attributes, data, "attribute ", received_ms)


def from_structured(body: bytes, *, received_ms: int, limit: int = MAX_PAYLOAD) -> Envelope:
    """The envelope in a JSON object.

    *received_ms* is the time of an event that tells none; *limit* bounds its data, in bytes. Raises
    PayloadTooLarge, and Undecodable with the field and the reason.
    """
    value = strict_json(body, limit=limit + _HEADROOM, type_name="CloudEvent")
    if not isinstance(value, dict):
        _refuse("$", "expected an object")
    return _from_object(value, _texts(body), "$", received_ms, limit)


def from_batch(body: bytes, *, received_ms: int, limit: int = MAX_PAYLOAD) -> list[Envelope]:
    """The envelopes in a JSON array, which together may have *limit* bytes; as from_structured."""
    values = strict_json(body, limit=limit + _HEADROOM, type_name="CloudEvent")
    if not isinstance(values, list):
        _refuse("$", "expected an array of events")
    for number, value in enumerate(values):
        if not isinstance(value, dict):
            _refuse(f"$[{number}]", "expected an object")
    texts = msgspec.json.decode(body, type=list[dict[str, msgspec.Raw]])
    return [
        _from_object(value, text, f"$[{number}]", received_ms, limit)
        for number, (value, text) in enumerate(zip(values, texts, strict=True))
    ]


def from_binary(headers: Mapping[str, str], body: bytes, *, received_ms: int, limit: int = MAX_PAYLOAD) -> Envelope:
    """The envelope in HTTP headers, whatever their case, and a body; as from_structured."""
    attributes: dict[str, object] = {}
    for header, value in headers.items():
        name = header.lower()
        if name == "content-type":
            if not _MEDIA_TYPE.fullmatch(value):
                _refuse("header content-type", f"expected a media type, got {value!r:.100}")
            attributes["datacontenttype"] = value
        elif name.startswith("ce-"):
            attributes[name[3:]] = _from_header(header, value)
    if len(body) > limit:
        _refuse_size(body, limit)
    content_type = attributes.get("datacontenttype", "application/json")
    data = _json_text(body, str(content_type), "body", limit) if body else b"null"
    return _envelope(attributes, data, "header ce-", received_ms)


def from_http(headers: Mapping[str, str], body: bytes, *, received_ms: int, limit: int = MAX_PAYLOAD) -> list[Envelope]:
    """The envelopes in an HTTP message, in the form that its content type tells; as from_structured."""
    content_type = next((value for name, value in headers.items() if name.lower() == "content-type"), "")
    essence = content_type.partition(";")[0].strip().lower()
    if essence == BATCH:
        return from_batch(body, received_ms=received_ms, limit=limit)
    if essence == STRUCTURED:
        return [from_structured(body, received_ms=received_ms, limit=limit)]
    if essence.startswith("application/cloudevents"):
        _refuse("header content-type", f"the format {essence} is unknown; known: {STRUCTURED}, {BATCH}")
    return [from_binary(headers, body, received_ms=received_ms, limit=limit)]


def from_message(headers: Mapping[str, str], body: bytes, *, received_ms: int, limit: int = MAX_PAYLOAD) -> Envelope:
    """The one envelope in a message of a broker, whose headers are those of HTTP; as from_structured."""
    found = from_http(headers, body, received_ms=received_ms, limit=limit)
    if len(found) != 1:
        _refuse("header content-type", f"a message holds one event, not a batch of {len(found)}")
    return found[0]


def valid_traceparent(text: str) -> str | None:
    """*text* if it is a ``traceparent``; W3C Trace Context 3.2.2 has anything else ignored, and so is one that is too
    long to be kept."""
    return text if len(text) <= _SHORT and _TRACEPARENT.fullmatch(text) else None


def is_json(content_type: str) -> bool:
    """Whether data of *content_type* is JSON text."""
    return _JSON_TYPE.fullmatch(content_type) is not None


# --- out -------------------------------------------------------------------------------------------------


def _event(envelope: Envelope, data: msgspec.Raw | None) -> _Event:
    kind = envelope.kind
    return _Event(
        specversion="1.0",
        id=envelope.id,
        source=_source_of(envelope.service),
        type=envelope.type,
        time=_rfc3339(envelope.time_ms),
        dataschema=_schema(envelope.type, envelope.version),
        datacontenttype="application/json",
        correlationid=envelope.correlation_id,
        service=envelope.service,
        subject=envelope.key,
        causationid=envelope.causation_id,
        traceparent=envelope.traceparent,
        kind=None if kind == "event" else kind,
        target=envelope.target,
        requestid=envelope.request_id,
        deadline=None if envelope.deadline_ms is None else _rfc3339(envelope.deadline_ms),
        data=data,
    )


@lru_cache(_FEW)
def _schema(type_: str, version: int) -> str:
    return f"{_SCHEMA_PREFIX}{quote(type_, safe='')}:{version}"


@lru_cache(_FEW)
def _rfc3339(time_ms: int) -> str:
    text = (_EPOCH + time_ms * _MILLISECOND).isoformat(timespec="milliseconds")
    return text.removesuffix("+00:00") + "Z"


@lru_cache(_FEW)
def _source_of(service: str) -> str:
    # A service that is no plain name is the source of an event from elsewhere, kept as it came.
    return service if any(mark in service for mark in "/:?#") else f"/{quote(service, safe='')}"


# --- in --------------------------------------------------------------------------------------------------


def _from_object(
    value: dict[str, object], texts: dict[str, msgspec.Raw], path: str, received_ms: int, limit: int
) -> Envelope:
    plain, encoded = value.pop("data", None), value.pop("data_base64", None)
    if encoded is None:
        data = bytes(texts.get("data", b"null"))
    elif plain is not None:
        _refuse(f"{path}.data_base64", "there is data as well; an event has one of the two")
    else:
        data = _from_base64(encoded, value.get("datacontenttype"), f"{path}.data_base64", limit)
    if len(data) > limit:
        _refuse_size(data, limit)
    return _envelope(value, data, f"{path}.", received_ms)


def _envelope(attributes: Attributes, data: bytes, prefix: str, received_ms: int) -> Envelope:
    """Check all *attributes*, by CloudEvents 1.0 section 3; *prefix* and a name tell where one stands."""
    texts: dict[str, str] = {}
    for name, value in attributes.items():
        if value is None:
            continue
        if not value or type(value) is not str or name not in _ANY_TEXT:
            _check_attribute(name, value, prefix)
        if isinstance(value, str):
            texts[name] = value
    for name in ("specversion", "id", "source", "type"):
        if name not in texts:
            _refuse(prefix + name, "this required attribute is missing")
    if max(map(len, texts.values())) > _SHORT:
        _check_lengths(texts, prefix)
    version = texts["specversion"]
    if version != "1.0":
        _refuse(f"{prefix}specversion", f"version {version!r} of CloudEvents is unknown; known: 1.0")
    envelope = Envelope(
        id=texts["id"],
        type=texts["type"],
        version=_version(texts.get("dataschema", ""), texts["type"], prefix),
        key=texts.get("subject"),
        service=_service(texts["source"], texts.get("service", "")),
        time_ms=_time_ms(texts["time"], f"{prefix}time") if "time" in texts else received_ms,
        data=data,
        correlation_id=texts.get("correlationid") or texts["id"],
        causation_id=texts.get("causationid") or None,
        traceparent=valid_traceparent(texts.get("traceparent", "")),
        target=texts.get("target") or None,
        request_id=texts.get("requestid") or None,
        deadline_ms=_time_ms(texts["deadline"], f"{prefix}deadline") if texts.get("deadline") else None,
    )
    if texts.get("kind", envelope.kind) != envelope.kind:
        _refuse(f"{prefix}kind", "a command has a target, a reply a requestid too, an event neither")
    return envelope


def _check_lengths(texts: Mapping[str, str], prefix: str) -> None:
    """Refuse what not every store could keep: it would be tried again and again, and hold up what comes after it."""
    for name, most in _LONGEST.items():
        text = texts.get(name, "")
        if name == "source":
            text = _service(text, texts.get("service", ""))
        if len(text) > most:
            _refuse(prefix + name, f"it has {len(text):,} characters, and may have {most:,}")


def _check_attribute(name: str, value: object, prefix: str) -> None:
    if rule := _STANDARD.get(name):
        pattern, kind = rule
        if not isinstance(value, str) or not pattern.fullmatch(value):
            _refuse(prefix + name, f"expected {kind}, got {value!r:.100}")
    elif not _NAME.fullmatch(name):
        _refuse(prefix + name, "the name of an attribute has only lower-case letters and digits")
    elif name in _OUR_EXTENSIONS and not isinstance(value, str):
        _refuse(prefix + name, f"expected text, got {value!r:.100}")
    elif isinstance(value, int):
        if not -(2**31) <= value < 2**31:
            _refuse(prefix + name, "an integer attribute has at most 32 bits")
    elif not isinstance(value, str):
        _refuse(prefix + name, "an attribute is text, an integer, true or false")


@lru_cache(_FEW)
def _version(schema: str, type_: str, prefix: str) -> int:
    if not schema.startswith(_SCHEMA_PREFIX):
        return 1
    match = _SCHEMA.fullmatch(schema)
    if match is None or unquote(match["type"]) != type_:
        _refuse(f"{prefix}dataschema", f"{schema!r:.100} is not the schema of a version of this type")
    return int(match["version"])


@lru_cache(_FEW)
def _service(source: str, service: str) -> str:
    # The extension counts only where it agrees with the source; elsewhere it is someone else's word.
    if service and _source_of(service) == source:
        return service
    name = unquote(source.removeprefix("/"))
    return name if _source_of(name) == source else source


def _time_ms(text: str, field: str) -> int:
    try:
        # In UTC, where its first and last hours may be beyond all years: nobody could write that time again.
        time = msgspec.convert(text, _Time).astimezone(UTC)
    except (msgspec.ValidationError, OverflowError):
        _refuse(field, f"expected an RFC 3339 time with its zone, got {text!r:.100}")
    return (time - _EPOCH) // _MILLISECOND


def _from_header(header: str, value: str) -> str:
    text = value.strip()
    if len(text) >= 2 and text[0] == text[-1] == '"':
        # The binding asks receivers to take quoted strings too, with their backslashes.
        text = re.sub(r"\\(.)", r"\1", text[1:-1])
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        _refuse(f"header {header}", "its percent-encoding is not UTF-8")


def _from_base64(encoded: object, content_type: object, field: str, limit: int) -> bytes:
    try:
        raw = base64.b64decode(encoded, validate=True) if isinstance(encoded, str) else None
    except binascii.Error:
        raw = None
    if raw is None:
        _refuse(field, "expected base64 text")
    if isinstance(content_type, str) and is_json(content_type):
        return _json_text(raw, content_type, field, limit)
    return msgspec.json.encode(encoded)


def _json_text(body: bytes, content_type: str, field: str, limit: int) -> bytes:
    """*body* as JSON text: itself if it is, otherwise a JSON string of it."""
    if is_json(content_type):
        try:
            strict_json(body, limit=limit, type_name="CloudEvent")
        except Undecodable as error:
            _refuse(field if error.field == "$" else f"{field} {error.field}", error.reason)
        return body
    try:
        return msgspec.json.encode(body.decode())
    except UnicodeDecodeError:
        return msgspec.json.encode(base64.b64encode(body).decode())


def _refuse(field: str, reason: str) -> NoReturn:
    raise Undecodable("CloudEvent", field, reason)


def _refuse_size(data: bytes, limit: int) -> NoReturn:
    reason = f"{len(data):,} bytes of data; the limit is {limit:,} bytes"
    raise PayloadTooLarge("CloudEvent", "data", reason)
