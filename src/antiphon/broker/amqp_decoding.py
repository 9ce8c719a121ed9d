"""The library of AMQP, made to pass on what anybody sends.

pika stops reading a connection at a table of headers that it cannot decode: a time beyond the year 9999, a type that it
does not know. Such a message comes again on the next connection, and ends that too, so nothing after it would ever
come. Here such a table is empty, and what is wrong with the message is said by who decodes it. A fraction in a table
loses what is behind its point in pika alone; here it does not.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from typing import Any

from pika import data
from pika.exceptions import AMQPError

_LENGTH = struct.Struct(">I")
_FRACTIONS = {b"f": struct.Struct(">f"), b"d": struct.Struct(">d")}
_ERRORS = (ValueError, OverflowError, OSError, IndexError, RecursionError, struct.error, AMQPError)


def tolerate() -> None:
    """From now on, in this process, no header of a message ends its connection. Idempotent."""
    if not isinstance(data.decode_table, partial):
        data.decode_table = partial(_table, data.decode_table)
        data.decode_value = partial(_value, data.decode_value)


def _table(known: Callable[..., Any], encoded: bytes, offset: int) -> tuple[dict[Any, Any], int]:
    try:
        found: tuple[dict[Any, Any], int] = known(encoded, offset)
    except _ERRORS:
        return {}, offset + _LENGTH.size + _LENGTH.unpack_from(encoded, offset)[0]
    return found


def _value(known: Callable[..., Any], encoded: bytes, offset: int) -> tuple[Any, int]:
    fraction = _FRACTIONS.get(encoded[offset : offset + 1])
    if fraction is None:
        found: tuple[Any, int] = known(encoded, offset)
        return found
    return fraction.unpack_from(encoded, offset + 1)[0], offset + 1 + fraction.size
