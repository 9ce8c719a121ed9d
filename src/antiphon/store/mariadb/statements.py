"""Statements as the stores speak of them, in MariaDB's words: marks, upserts, names that MariaDB has taken itself."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal

import msgspec

# What nothing is looked for in: strings, names, comments.
_OPAQUE = r"""'(?:[^'\\]|''|\\.)*'|"(?:[^"]|"")*"|`(?:[^`]|``)*`|--[^\n]*|\#[^\n]*|/\*.*?\*/"""
_TOKEN = re.compile(
    _OPAQUE
    + r"""|(?P<mark>\?(?P<number>\d*))"""
    + r"""|(?P<conflict>\bON\s+CONFLICT\s*(?:\(\s*(?P<first>\w+)[^)]*\)\s*)?"""
    + r"""DO\s+(?:(?P<nothing>NOTHING)\b|UPDATE\s+SET\b))"""
    + r"""|(?<![\w.])[eE][xX][cC][lL][uU][dD][eE][dD]\.(?P<excluded>\w+)"""
    + r"""|(?P<delete>\bDELETE\s+FROM\s+(?P<table>\w+)\s+AS\s+(?P<alias>\w+))"""
    + r"""|(?<![\w`])(?P<word>key|cursor|CALL|rows)(?![\w`(])""",
    re.DOTALL,
)
_PIECE = re.compile(rf"{_OPAQUE}|(?P<end>;)", re.DOTALL)
_FIRST_WORD = re.compile(r"(?:\s|--[^\n]*(?:\n|$)|\#[^\n]*(?:\n|$)|/\*.*?\*/)*([A-Za-z]+)(?:\s+(\S+))?", re.DOTALL)
_SEVERAL_ROWS = re.compile(r"\)\s*,\s*\(|\bSELECT\b(?!.*\bVALUES\b)", re.IGNORECASE | re.DOTALL)

#: What ends a transaction unasked, or is the unit's to say.
_DEFINING = frozenset(("ALTER", "ANALYZE", "CREATE", "DROP", "GRANT", "OPTIMIZE", "RENAME", "REVOKE", "TRUNCATE"))
_ENDING = _DEFINING | {
    *("BEGIN", "CACHE", "CHANGE", "CHECK", "COMMIT", "FLUSH", "INSTALL", "LOAD", "LOCK", "RELEASE", "REPAIR", "RESET"),
    *("ROLLBACK", "SAVEPOINT", "SET", "SHUTDOWN", "START", "STOP", "UNINSTALL", "UNLOCK", "USE", "XA"),
}
_OURS = "antiphon_"


class Statement(msgspec.Struct, frozen=True):
    """A statement as it is sent: *order* says which parameter stands at which mark (None: one after the other).

    *kind* ``skip``: a row whose key is there already is left alone, which in *text* is a duplicate's error, and in
    *many*, for many rows at once, an update of nothing (None: it cannot be said). ``upsert``: it is updated instead.
    """

    text: str
    order: tuple[int, ...] | None = None
    kind: Literal["plain", "skip", "upsert"] = "plain"
    many: str | None = None
    is_single: bool = True
    reads: bool = False

    def bound(self, parameters: Sequence[Any]) -> tuple[Any, ...]:
        """*parameters* in the order of the marks."""
        if self.order is None:
            return tuple(parameters)
        return tuple(parameters[place] for place in self.order)


@lru_cache(maxsize=4096)
def understood(sql: str) -> Statement:
    """*sql* as MariaDB understands it.

    ``?`` and ``?1`` mark parameters, ``ON CONFLICT (...) DO NOTHING`` and ``DO UPDATE SET x = excluded.x`` are
    understood; in statements on Antiphon's own tables, columns may have the names ``key`` and ``cursor``.
    """
    is_ours = _OURS in sql
    order: list[int] = []
    kind: Literal["plain", "skip", "upsert"] = "plain"
    first: str | None = None
    is_numbered = False

    def replace(found: re.Match[str]) -> str:
        nonlocal kind, first, is_numbered
        if found["mark"]:
            is_numbered = is_numbered or bool(found["number"])
            order.append(int(found["number"]) - 1 if found["number"] else len(order))
            return "?"
        if found["conflict"]:
            first = found["first"]
            kind = "skip" if found["nothing"] else "upsert"
            return _CLAUSE if kind == "skip" else "ON DUPLICATE KEY UPDATE"
        if found["excluded"]:
            return f"VALUES({_quoted(found['excluded'])})"
        if found["delete"]:
            return f"DELETE {found['alias']} FROM {found['table']} AS {found['alias']}"
        if found["word"] and is_ours:
            return f"`{found[0]}`"
        return found[0]

    text = _TOKEN.sub(replace, sql)
    if is_ours:
        text = text.replace("DUPLICATE `key`", "DUPLICATE KEY")
    is_single = _SEVERAL_ROWS.search(sql) is None
    many = None
    if kind == "skip":
        if first is not None:
            column = _quoted(first)
            table = re.search(r"INSERT\s+INTO\s+(\w+)", text, re.IGNORECASE)
            many = text.replace(_CLAUSE, f"ON DUPLICATE KEY UPDATE {column} = {table[1] if table else ''}.{column}")
        text = text.replace(_CLAUSE, "") if is_single or many is None else many
    return Statement(
        text, tuple(order) if is_numbered else None, kind, many, is_single, first_word(sql) in ("SELECT", "WITH")
    )


_CLAUSE = "\0"


def _quoted(name: str) -> str:
    return f"`{name}`"


def first_word(sql: str) -> str:
    """What a statement begins with, in capitals."""
    found = _FIRST_WORD.match(sql)
    return found[1].upper() if found else ""


@lru_cache(maxsize=4096)
def ends_transaction(sql: str) -> str | None:
    """The word by which *sql* would end the transaction that it is in; None if it would not."""
    found = _FIRST_WORD.match(sql)
    if found is None or found[1].upper() not in _ENDING:
        return None
    word, second = found[1].upper(), (found[2] or "").upper()
    if (word in ("CREATE", "DROP") and second == "TEMPORARY") or (word == "SET" and second.startswith("@")):
        return None
    return word


def defines(sql: str) -> bool:
    """Whether *sql* makes or changes tables, which MariaDB keeps at once, whatever the transaction comes to."""
    return first_word(sql) in _DEFINING


def statements_of(script: str) -> Iterator[str]:
    """The statements of a script, one after the other. Comments stay where they are."""
    start = 0
    for piece in _PIECE.finditer(script):
        if piece["end"]:
            if first_word(script[start : piece.start()]):
                yield script[start : piece.start()]
            start = piece.end()
    if first_word(script[start:]):
        yield script[start:]
