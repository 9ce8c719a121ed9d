"""What commands write: tables and JSON on stdout, remarks on stderr."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from antiphon.policy.words import plain

_COLOURS = {"ERROR": 31, "FAILED": 31, "RETRY": 33, "IN_PROGRESS": 36, "error": 31, "warning": 33}


def say(text: str) -> None:
    """A remark, on stderr."""
    print(text, file=sys.stderr, flush=True)


def emit(value: Any) -> None:
    """*value*, a view or plain, as one line of JSON, on stdout."""
    import msgspec

    print(msgspec.json.encode(value).decode(), flush=True)


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """An aligned table on stdout: numbers to the right, text to the left, None as "-"."""
    rows = [list(row) for row in rows]
    cells = [[plain("-" if cell is None else cell) for cell in row] for row in rows]
    widths = [max(map(_width, column)) for column in zip(heads, *cells, strict=True)]
    right = [any(isinstance(row[at], int) for row in rows) for at in range(len(heads))]
    print("  ".join(map(_pad, heads, widths, right)).rstrip())
    for row in cells:
        print("  ".join(_paint(_pad(*each), each[0]) for each in zip(row, widths, right, strict=True)).rstrip())
    sys.stdout.flush()


def size(count: int) -> str:
    """A number of bytes in a handy unit."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024  # type: ignore[assignment]
    return f"{count:.4g} GiB"


def _pad(text: str, width: int, right: bool) -> str:
    room = " " * (width - _width(text))
    return room + text if right else text + room


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    return sum(2 if unicodedata.east_asian_width(each) in "WF" else not unicodedata.combining(each) for each in text)


def _paint(padded: str, text: str) -> str:
    colour = _COLOURS.get(text)
    if colour is None or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb" or not sys.stdout.isatty():
        return padded
    return f"\033[{colour}m{padded}\033[0m"
