"""Statements and rows as the stores speak of them: ``?`` marks parameters, rows have index and name access."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from antiphon.store.named import Row, row_type

# What a question mark may stand in without being a mark: strings, names, comments, dollar quotes.
_TOKEN = re.compile(
    r"""(?P<double>\?\?)|(?P<mark>\?(?P<number>\d*))"""
    r"""|[eE]'(?:[^'\\]|''|\\.)*'|'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|/\*.*?\*/"""
    r"""|(?P<tag>\$(?:[A-Za-z_]\w*)?\$).*?(?P=tag)""",
    re.DOTALL,
)

#: PostgreSQL keeps no NUL in a text: this code point, which no text may use to say anything, stands for it.
_NUL = "\ufdd0"


@lru_cache(maxsize=4096)
def numbered(sql: str) -> bytes:
    """*sql*, encoded, with ``$1``, ``$2`` ... for its marks ``?`` and ``?1``; for an operator ``?`` say ``??``."""
    count = 0

    def replace(found: re.Match[str]) -> str:
        nonlocal count
        if found["double"]:
            return "?"
        if not found["mark"]:
            return found[0]
        if found["number"]:
            return f"${found['number']}"
        count += 1
        return f"${count}"

    return _TOKEN.sub(replace, sql).encode()


def kept(parameters: Sequence[Any]) -> Sequence[Any]:
    """*parameters* of a statement of ours, as PostgreSQL can keep them."""
    for value in parameters:
        if type(value) is str and "\0" in value:
            return [each.replace("\0", _NUL) if isinstance(each, str) else each for each in parameters]
    return parameters


def as_it_was(text: str | None) -> str | None:
    """A text that `kept` has gone over, as it was before."""
    return text.replace(_NUL, "\0") if text is not None and _NUL in text else text


def named_rows(cursor: Any) -> Callable[[Sequence[Any]], Row]:
    """Makes `Row`\\ s of what *cursor* has found (a row factory of psycopg)."""
    return row_type(tuple(column.name for column in cursor.description or ()))
