"""The envelope: what is known of an event besides its data (CloudEvents 1.0 attributes and ours)."""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

Kind = Literal["event", "command", "reply"]


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """One event as it lies in a log.

    ``time_ms`` is Unix time in milliseconds, UTC. ``data`` is the JSON text of the event, as bytes.
    The first event of a process is its own correlation; what follows from it carries the same.
    What has a ``target`` is owed to the handlers of that service alone. Work that is because of it is not
    started after ``deadline_ms`` (Unix milliseconds).
    """

    id: str
    type: str
    version: int
    key: str | None
    service: str
    time_ms: int
    data: bytes
    correlation_id: str
    causation_id: str | None = None
    traceparent: str | None = None
    target: str | None = None
    request_id: str | None = None
    deadline_ms: int | None = None

    @property
    def kind(self) -> Kind:
        """An event, which is anybody's; a command to its target; or a reply to the command ``request_id``."""
        if self.request_id is not None:
            return "reply"
        return "event" if self.target is None else "command"

    @property
    def trace(self) -> str:
        """The W3C ``traceparent``: the one received, or one derived from correlation and id."""
        if self.traceparent is not None:
            return self.traceparent
        return derived_traceparent(self.correlation_id, self.id)


def derived_traceparent(correlation_id: str, event_id: str) -> str:
    """A valid ``traceparent`` that is the same for all events of one correlation."""
    return f"00-{_hex(correlation_id, 32)}-{_hex(event_id, 16)}-01"


def _hex(text: str, digits: int) -> str:
    plain = text.replace("-", "").lower()
    if len(plain) != 32 or plain.strip("0123456789abcdef"):
        plain = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    return plain[-digits:]
