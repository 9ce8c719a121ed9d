"""A record of Kafka and the event that it is: the CloudEvents binding, attributes as headers ``ce_...``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from antiphon.broker.librdkafka import Header
from antiphon.errors import Undecodable
from antiphon.model.envelope import Envelope
from antiphon.wire import from_attributes, from_message, to_attributes

_PREFIX = "ce_"


def to_record(event: Envelope) -> tuple[bytes, bytes, list[Header]]:
    """The key, value and headers of *event*."""
    attributes, data = to_attributes(event)
    headers: list[Header] = [("content-type", attributes.pop("datacontenttype"))]
    headers += [(f"{_PREFIX}{name}", value.encode()) for name, value in attributes.items()]
    return (event.id if event.key is None else event.key).encode(), data, headers


def from_record(headers: Mapping[str, bytes | None], body: bytes, now_ms: int) -> Envelope:
    """The event of a record, whose content type tells whether headers or value say what it is. Raises InvalidEvent."""
    attributes = dict(_attributes(headers))
    content_type = _text("content-type", headers.get("content-type"))
    if not attributes or content_type.startswith("application/cloudevents"):
        return from_message({"content-type": content_type}, body, received_ms=now_ms)
    if content_type:
        attributes["datacontenttype"] = content_type
    return from_attributes(attributes, body, received_ms=now_ms)


def _attributes(headers: Mapping[str, bytes | None]) -> Iterator[tuple[str, str]]:
    for name, value in headers.items():
        if name.startswith(_PREFIX):
            yield name[len(_PREFIX) :], _text(name, value)


def _text(name: str, value: bytes | None) -> str:
    try:
        return (value or b"").decode()
    except UnicodeDecodeError as error:
        raise Undecodable("CloudEvent", f"header {name}", "it is not UTF-8") from error


def type_in(headers: Mapping[str, bytes | None]) -> str:
    """The type of the event, as far as the headers tell it."""
    return (headers.get(f"{_PREFIX}type") or b"").decode(errors="replace")
