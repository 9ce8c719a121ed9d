"""The envelope: what is known of an event besides its data (CloudEvents 1.0 attributes and ours)."""

from __future__ import annotations

import hashlib

import msgspec


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """One event as it lies in a log.

    ``time_ms`` is Unix time in milliseconds, UTC. ``data`` is the JSON text of the event, as bytes.
    The first event of a process is its own correlation; what follows from it carries the same.
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
