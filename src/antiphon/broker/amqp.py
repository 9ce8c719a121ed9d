"""The library of AMQP, made to pass on what anybody sends.

It ends the connection at a message whose properties it cannot read: a time beyond the year 9999, a text that is no
UTF-8. Such a message comes again on the next connection, and ends that too, so nothing after it would ever come. Here
the property is read as far as it can be, and what is wrong with the message is said by who decodes it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from typing import Any

from pamqp import decode

from antiphon.broker.naming import plain

#: What the library reads of a URL.
OPTIONS = ("heartbeat", "timeout", "auth", "cafile", "capath", "cadata", "certfile", "keyfile", "no_verify_ssl")
_LONGEST = 255
_LENGTH = struct.Struct(">I")
_TIME_SIZE = 8
_ERRORS = (ValueError, OverflowError, OSError, IndexError, RecursionError, struct.error)

_Decoder = Callable[[bytes], tuple[int, Any]]


def tolerate() -> None:
    """From now on, in this process, no property of a message ends its connection. Idempotent."""
    for name, otherwise in (("shortstr", _short), ("timestamp", _time), ("table", _table)):
        known: Any = decode.METHODS[name]
        if not isinstance(known, partial):
            decode.METHODS[name] = partial(_read, known, otherwise)


def _read(known: _Decoder, otherwise: _Decoder, value: bytes) -> tuple[int, Any]:
    try:
        return known(value)
    except _ERRORS:
        return otherwise(value)


def _short(value: bytes) -> tuple[int, str]:
    end = 1 + value[0]
    return end, value[1:end].decode(errors="replace")


def _time(value: bytes) -> tuple[int, None]:
    return _TIME_SIZE, None


def _table(value: bytes) -> tuple[int, dict[str, Any]]:
    return _LENGTH.size + _LENGTH.unpack_from(value)[0], {}


def message_id(event_id: str | None) -> str | None:
    """An event's id as that of a message, which has at most 255 bytes: a longer one's digest."""
    return event_id if event_id is None or len(event_id.encode()) <= _LONGEST else plain(event_id)
