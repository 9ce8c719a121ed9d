"""Foreign messages <-> events: CloudEvents as they are, JSON by the declared type, the rest by the application."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

import msgspec

from antiphon.errors import DeclarationError, InvalidEvent, PayloadTooLarge, Undecodable
from antiphon.model.channels import ChannelSpec, Message
from antiphon.model.envelope import Envelope
from antiphon.model.events import MAX_KEY, EventType, event_type_of
from antiphon.policy import regions
from antiphon.ports import Clock
from antiphon.wire import STRUCTURED, from_attributes, from_structured, is_json, strict_json, to_attributes

#: An id or a key that is longer is kept as its digest.
_LONGEST = 200
#: What every database keeps of the texts of an event, in characters.
_MOST = {"id": 300, "key": MAX_KEY, "service": 255, "correlation_id": 500, "causation_id": 500}
#: The end of the year 9999, in Unix milliseconds: whoever sends a message may write any number there.
_LAST_MS = 253_402_300_800_000
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
#: The CloudEvents attribute with the regions that an event has passed.
REGIONS = "regions"
#: The option of a channel between regions that sends on what came from other ones.
PASSES_ON = "passes_on"


class Mapper:
    """Maps the messages of one channel. *limit* bounds the data of an event, in bytes."""

    def __init__(self, channel: ChannelSpec, clock: Clock, limit: int) -> None:
        self._channel = channel
        self._clock = clock
        self._limit = limit

    # ------------------------------------------------------------------ in

    def envelopes(self, message: Message) -> list[Envelope]:
        """The events in *message*, which have the same ids each time that it comes. Raises InvalidEvent."""
        if len(message.body) > self._limit:
            reason = f"{len(message.body):,} bytes; the limit is {self._limit:,} bytes"
            raise PayloadTooLarge(message.topic, "body", reason)
        if message.is_mark:
            return []
        if message.problem is not None:
            _refuse(message, "$", message.problem)
        if self._channel.decode is not None:
            return self._decoded(message)
        if message.attributes or _is_structured(message):
            return [found for found in [self._cloud_event(message)] if found is not None]
        return [self._plain(message)]

    def _decoded(self, message: Message) -> list[Envelope]:
        assert self._channel.decode is not None
        try:
            found = self._channel.decode(message)
        except InvalidEvent:
            raise
        except Exception as error:
            reason = f"decode raised {type(error).__name__}: {error}"
            raise Undecodable(message.topic, "$", reason) from error
        events = found if isinstance(found, list | tuple) else [] if found is None else [found]
        message_id = self._id_of(message)
        known = self._channel.inbound.get(message.topic) or self._channel.received
        envelopes = []
        for number, event in enumerate(events):
            try:
                event_type = event_type_of(event)
            except DeclarationError:
                _refuse(message, "$", f"decode returned {type(event).__qualname__}, which is no event")
            if event_type not in known:
                _refuse(message, "$", f"decode returned {event_type.name}, which is not declared for it")
            event_id = message_id if len(events) == 1 else f"{message_id}:{number + 1}"
            envelopes.append(self._envelope(event_type, event, event_id, message))
        return envelopes

    def _plain(self, message: Message) -> Envelope:
        """A message that holds but the data, of the one type that is declared for its place."""
        types = self._types_of(message)
        if len(types) != 1:
            names = ", ".join(each.name for each in types)
            _refuse(message, "$", f"it does not say which of {names} it is")
        if message.row is not None:
            event = _of_row(types[0], message.row)
        elif message.content_type and not is_json(message.content_type):
            _refuse(message, "content type", f"expected JSON, got {message.content_type!r:.100}")
        else:
            strict_json(message.body, limit=self._limit, type_name=types[0].name)
            event = types[0].decode(message.body, types[0].version)
        return self._envelope(types[0], event, self._id_of(message), message)

    def _cloud_event(self, message: Message) -> Envelope | None:
        """A CloudEvent; None for one that has come back to the region that it began in."""
        received_ms = self._time_of(message)
        if message.attributes and not _is_structured(message):
            attributes = dict(message.attributes)
            passed = attributes.pop(REGIONS, None)
            if message.content_type:
                attributes["datacontenttype"] = message.content_type
            found = from_attributes(attributes, message.body, received_ms=received_ms, limit=self._limit)
        else:
            found = from_structured(message.body, received_ms=received_ms, limit=self._limit)
            passed = msgspec.json.decode(message.body).get(REGIONS)
        event_type = self._type_named(found.type, message)
        event = event_type.decode(found.data, found.version if event_type.name == found.type else event_type.version)
        service = found.service
        if self._channel.region is None:
            event_id = self._id_of(message) if self._channel.identify else _kept_id(service, found.id)
            service = service if _is_elsewhere(service) else f"//{self._channel.name}/{service}"
        else:
            event_id = found.id
            come = regions.arrive(service, passed, self._channel.region, self._channel.peer or "")
            if isinstance(come, regions.Looped):
                return None
            service = come
        return _checked(
            Envelope(
                id=_short(event_id),
                type=event_type.name,
                version=event_type.version,
                key=event_type.key_of(event) if event_type.key_field is not None else found.key,
                service=service,
                time_ms=found.time_ms,
                data=found.data if found.version == event_type.version else event_type.encode(event, self._limit),
                correlation_id=event_id if found.correlation_id == found.id else found.correlation_id,
                causation_id=found.causation_id,
                traceparent=found.traceparent,
            ),
            message,
        )

    def _types_of(self, message: Message) -> tuple[EventType, ...]:
        return self._channel.inbound.get(message.topic) or self._channel.received

    def _type_named(self, name: str, message: Message) -> EventType:
        """The declared type of that name; the only one there is, whatever the foreign system calls it."""
        types = self._types_of(message)
        for each in types:
            if each.name == name:
                return each
        if len(types) == 1 and self._channel.region is None:
            return types[0]
        _refuse(message, "type", f"{name!r:.100} is not declared for it")

    def _envelope(self, event_type: EventType, event: Any, event_id: str, message: Message) -> Envelope:
        return _checked(
            Envelope(
                id=_short(event_id),
                type=event_type.name,
                version=event_type.version,
                key=event_type.key_of(event) or message.key,
                service=self._channel.name,
                time_ms=self._time_of(message),
                data=event_type.encode(event, self._limit),
                correlation_id=_short(event_id),
            ),
            message,
        )

    def _id_of(self, message: Message) -> str:
        """What the message is called each time it comes: a new id where the foreign system has no name for it."""
        if self._channel.identify is not None:
            try:
                found: object = self._channel.identify(message)
            except Exception as error:
                reason = f"identify raised {type(error).__name__}: {error}"
                raise Undecodable(message.topic, "$", reason) from error
            if found is None or found == "":
                # As a name, it would make all such messages one, and those after the first be dropped as known.
                _refuse(message, "$", f"identify returned {found!r}, which names no message")
            return f"{self._channel.name}:{found}"
        return self._clock.new_id() if message.id is None else f"{self._channel.name}:{message.id}"

    def _time_of(self, message: Message) -> int:
        """When it was sent, as far as that is a time; else now."""
        sent = message.time_ms
        return self._clock.now_ms() if sent is None or not 0 <= sent < _LAST_MS else sent

    # ------------------------------------------------------------------ out

    def messages(self, envelope: Envelope) -> list[Message]:
        """*envelope* as it is sent to each foreign place that is declared for it; none if it came from there.

        Raises InvalidEvent, and whatever the application's ``encode`` raises.
        """
        channel = self._channel
        if envelope.service == channel.name or envelope.service.startswith(f"//{channel.name}/"):
            return []
        passed: str | None = None
        if channel.region is not None:
            passed = regions.leave(envelope.service, channel.region, channel.peer or "")
            was_born_here = regions.birth(envelope.service).region is None
            if passed is None or not (was_born_here or channel.options.get(PASSES_ON, False)):
                return []
        topics = [topic for topic, types in channel.outbound.items() if envelope.type in _names(types)]
        return [self._message(envelope, topic, passed) for topic in topics]

    def _message(self, envelope: Envelope, topic: str, passed: str | None) -> Message:
        channel = self._channel
        content_type = "application/json"
        attributes: dict[str, str] = {}
        if channel.encode is not None:
            event_type = next(each for each in channel.outbound[topic] if each.name == envelope.type)
            encoded = channel.encode(event_type.decode(envelope.data, envelope.version))
            body = encoded if isinstance(encoded, bytes) else msgspec.json.encode(encoded)
            content_type = "application/octet-stream" if isinstance(encoded, bytes) else content_type
        else:
            if channel.region is not None:
                source = regions.source_of(envelope.service, channel.region)
                envelope = msgspec.structs.replace(envelope, service=source)
            attributes, body = to_attributes(envelope)
            content_type = attributes.pop("datacontenttype")
        if passed is not None:
            attributes[REGIONS] = passed
        return Message(
            topic=topic,
            body=body,
            content_type=content_type,
            attributes=attributes,
            id=envelope.id,
            key=envelope.key,
            time_ms=envelope.time_ms,
        )


def _is_structured(message: Message) -> bool:
    """Whether the body is a CloudEvent whole: the content type decides, whatever attributes are beside it."""
    return message.content_type.partition(";")[0].strip().lower() == STRUCTURED


def structured(message: Message) -> bytes:
    """A CloudEvent in its binary form as one JSON object; any other message as its body."""
    if not message.attributes:
        return message.body
    head = msgspec.json.encode({**message.attributes, "datacontenttype": message.content_type})
    return head[:-1] + b',"data":' + message.body + b"}"


def _of_row(event_type: EventType, row: Mapping[str, Any]) -> Any:
    """An event of columns, whose values may be text: as what they stand for. An empty one is left to its default.

    Raises InvalidEvent with the field and the reason.
    """
    cls: Any = event_type.cls
    if event_type.kind == "pydantic":
        optional = {name for name, field in cls.model_fields.items() if not field.is_required()}
    else:
        info: Any = msgspec.inspect.type_info(cls)
        optional = {field.encode_name for field in info.fields if not field.required}
    values = {name: value for name, value in row.items() if name not in optional or value not in ("", None)}
    try:
        if event_type.kind == "pydantic":
            return cls.model_validate(values)
        return msgspec.convert(values, cls, strict=False)
    except ValueError as error:  # msgspec's and Pydantic's are such
        reason, _, field = str(error).partition(" - at `")
        raise InvalidEvent(event_type.name, field.rstrip("`") or "$", reason) from error


def _names(types: Iterable[EventType]) -> Sequence[str]:
    return [each.name for each in types]


def _is_elsewhere(service: str) -> bool:
    """Whether a source is no plain name, which could be that of a service here."""
    return any(mark in service for mark in "/:?#")


def _kept_id(source: str, event_id: str) -> str:
    """A CloudEvent is named by its source and its id; an id that is a UUID is enough by itself."""
    return event_id if _UUID.fullmatch(event_id) else f"{source}#{event_id}"


def _short(text: str) -> str:
    return (
        text if len(text) <= _LONGEST else f"{text[:100]}:{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}"
    )


def _checked(envelope: Envelope, message: Message) -> Envelope:
    """*envelope*, if every database can keep its texts. Raises Undecodable."""
    for name, most in _MOST.items():
        value = getattr(envelope, name)
        if value is None:
            continue
        if len(value) > most or "\0" in value or not _is_unicode(value):
            _refuse(message, name, f"{value!r:.100} cannot be kept: it is too long, or has characters that are none")
    return envelope


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse(message: Message, field: str, reason: str) -> NoReturn:
    raise Undecodable(message.topic, field, reason)
