"""Errors, texts and times in words that can be stored and read."""

from __future__ import annotations

from datetime import UTC, datetime

#: Longest message that is kept of an error, in bytes of UTF-8.
MESSAGE_LIMIT = 4096

_UNITS = (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000))


def span(ms: int) -> str:
    """*ms* milliseconds in its two largest units: ``"3 h 2 min"``, ``"45 s"``, ``"850 ms"``."""
    if ms < 1_000:
        return f"{max(ms, 0)} ms"
    parts: list[str] = []
    for unit, size in _UNITS:
        count, rest = divmod(ms, size)
        if count:
            parts.append(f"{count} {unit}")
            ms = rest
        elif parts:
            break
    return " ".join(parts[:2])


def storable(text: str) -> str:
    """*text* as every store can keep it: no NUL, no lone surrogates."""
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


def bounded(text: str, limit: int) -> str:
    """*text* made storable and cut in its middle to at most *limit* bytes of UTF-8.

    The start says what, the end says where: both are kept, the end with two thirds of the room.
    """
    # A character takes at least a byte, so cutting by characters first spares encoding a huge text.
    if len(text) > 2 * limit:
        text = text[:limit] + text[-limit:]
    data = storable(text).encode()
    if len(data) <= limit:
        return data.decode()
    mark = b" [...] "
    head = (limit - len(mark)) // 3
    tail = limit - len(mark) - head
    return (data[:head] + mark + data[-tail:]).decode("utf-8", "ignore")


def sole_error(error: BaseException) -> BaseException:
    """The error itself, or the only one inside a group of one, as task groups raise it."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def type_name(error: BaseException) -> str:
    """The error's type with its module: ``"ValueError"``, ``"sqlite3.OperationalError"``."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def message_of(error: BaseException, limit: int = MESSAGE_LIMIT) -> str:
    """The error's own text, at most *limit* bytes; an error that cannot be printed is no second failure."""
    try:
        text = str(error)
    except Exception as broken:  # noqa: BLE001  (a user's __str__ may raise anything)
        text = f"<no message: its __str__ raised {type(broken).__name__}>"
    return bounded(text, limit)


def describe(error: BaseException, limit: int = 500) -> str:
    """``"ValueError: price is negative"``, on one line of at most *limit* bytes."""
    message = " ".join(message_of(error).split())
    return bounded(f"{type(error).__name__}: {message}" if message else type(error).__name__, limit)


def plain(value: object) -> str:
    """*value* on one line, without characters that a terminal obeys."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else " " if each.isspace() else "\ufffd" for each in text)


def shortened(text: str | None, limit: int = 100) -> str | None:
    """The beginning of *text*, on one line of at most *limit* characters."""
    if text is None:
        return None
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 3]}..."


def moment(ms: int) -> str:
    """A time in Unix milliseconds as RFC 3339 in UTC."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
