"""Events as rows of the log, and rows of the log as events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from zlib import crc32

from antiphon.model.envelope import Envelope
from antiphon.ports import LoggedEvent


def log_row(envelope: Envelope, origin: int) -> tuple[Any, ...]:
    """The columns of *envelope* in the log, in the order of the ``append`` block."""
    correlation = envelope.correlation_id
    return (
        envelope.id,
        envelope.type,
        envelope.version,
        envelope.key,
        envelope.service,
        envelope.time_ms,
        None if correlation == envelope.id else correlation,
        envelope.causation_id,
        envelope.traceparent,
        envelope.target,
        envelope.request_id,
        envelope.deadline_ms,
        origin,
        envelope.data,
    )


def is_plain(envelope: Envelope) -> bool:
    """Whether *envelope* has nothing that only few have."""
    return (
        envelope.traceparent is None
        and envelope.target is None
        and envelope.request_id is None
        and envelope.deadline_ms is None
    )


def plain_row(envelope: Envelope, origin: int) -> tuple[Any, ...]:
    """The columns of a plain *envelope* in the log, in the order of the ``append_plain`` block."""
    correlation = envelope.correlation_id
    return (
        envelope.id,
        envelope.type,
        envelope.version,
        envelope.key,
        envelope.service,
        envelope.time_ms,
        None if correlation == envelope.id else correlation,
        envelope.causation_id,
        origin,
        envelope.data,
    )


def bucket_of(key: str | None, event_id: str) -> int:
    """Which of 256 buckets an event is in: those of a key are in one, those without a key anywhere."""
    return crc32((event_id if key is None else key).encode()) & 255


def end_of(beginning: str) -> str:
    """What comes after every text that begins with *beginning*."""
    return f"{beginning}\U0010ffff"


def logged(row: Sequence[Any]) -> LoggedEvent:
    """A row of the log (the columns of the ``read_`` blocks) as a value."""
    seq, event_id, type_, version, key, service, time_ms, correlation, causation, trace, *rest = row
    target, request_id, deadline_ms, origin, data = rest
    envelope = Envelope(
        event_id,
        type_,
        version,
        key,
        service,
        time_ms,
        data,
        correlation or event_id,
        causation,
        trace,
        target,
        request_id,
        deadline_ms,
    )
    return LoggedEvent(seq, envelope, origin)


def parts_of(rows: Sequence[tuple[Any, ...]], largest: int) -> Iterator[list[tuple[Any, ...]]]:
    """*rows* in parts of at most about so many bytes, a row at least."""
    part: list[tuple[Any, ...]] = []
    size = 0
    for row in rows:
        length = sum(4 * len(value) if isinstance(value, str) else len(value) for value in row if _is_long(value))
        if part and size + length > largest:
            yield part
            part, size = [], 0
        part.append(row)
        size += length + 16 * len(row)
    if part:
        yield part


def _is_long(value: Any) -> bool:
    return isinstance(value, str | bytes)
