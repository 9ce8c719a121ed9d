"""Channels: what an app says of a system beside it, and what comes and goes there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from antiphon.model.events import EventType


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What a foreign system sends or is sent.

    *topic* is what that system calls the place: a queue, stream, subject, file or table. *attributes* are those of a
    CloudEvent in its binary form, by plain name; none, where the message is no such thing. *id* is what the system will
    call this message if it comes again; None where it does not say. Of what comes in, *token* is the channel's own, and
    *note* a name and a text that are kept in the transaction which takes the message, and given back at the next start.
    """

    topic: str
    body: bytes
    content_type: str = ""
    attributes: Mapping[str, object] = {}
    headers: Mapping[str, str] = {}
    id: str | None = None
    key: str | None = None
    time_ms: int | None = None
    row: Mapping[str, Any] | None = None
    token: Any = None
    note: tuple[str, str] | None = None
    is_mark: bool = False
    problem: str | None = None


#: What the application says of foreign formats: a message as an event, several, or none; an event as JSON or bytes;
#: what a message is called if it comes again.
Decode = Callable[[Message], Any]
Encode = Callable[[Any], Any]
Identify = Callable[[Message], str]


@dataclass(frozen=True)
class ChannelSpec:
    """A channel as it is declared: foreign names and the types of events that come and go there.

    *options* are those of the scheme of its *url*; both may hold secrets, so neither is in its repr. Of two regions
    *region* is this one, *peer* the other.
    """

    name: str
    app: str
    url: str = field(repr=False)
    inbound: Mapping[str, tuple[EventType, ...]]
    outbound: Mapping[str, tuple[EventType, ...]]
    source: str
    decode: Decode | None = None
    encode: Encode | None = None
    identify: Identify | None = None
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    region: str | None = None
    peer: str | None = None

    @property
    def received(self) -> tuple[EventType, ...]:
        """The types of what comes in, each once."""
        return tuple(dict.fromkeys(each for types in self.inbound.values() for each in types))

    @property
    def sent(self) -> tuple[EventType, ...]:
        """The types of what goes out, each once."""
        return tuple(dict.fromkeys(each for types in self.outbound.values() for each in types))
