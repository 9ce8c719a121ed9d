"""What a statement of the user's does: whether it only reads, and whether it may run in our transaction."""

from __future__ import annotations

import re
from functools import lru_cache

from antiphon.errors import DeclarationError

_OURS = frozenset(
    {"BEGIN", "COMMIT", "END", "ROLLBACK", "SAVEPOINT", "RELEASE", "ATTACH", "DETACH", "VACUUM", "PRAGMA"}
)
_READS = frozenset({"SELECT", "VALUES", "EXPLAIN"})
_WRITES = ("INSERT", "UPDATE", "DELETE", "REPLACE")
# What may stand before the first word.
_LEADING = re.compile(r"(?:[\s;\ufeff]|--[^\n]*(?:\n|\Z)|/\*.*?(?:\*/|\Z))*", re.DOTALL)
_WORD = re.compile(r"[A-Za-z]*")
# Each of them makes SQLite end the whole transaction, the work of others in it included.
_ENDS_ALL = re.compile(r"\b(?:OR|CONFLICT)\s+ROLLBACK\b|\bRAISE\s*\(\s*ROLLBACK\b", re.IGNORECASE)


@lru_cache(maxsize=4096)
def only_reads(sql: str) -> bool:
    """Whether *sql* only reads. Raises DeclarationError for a statement that would break the transaction."""
    start = _LEADING.match(sql)
    found = _WORD.match(sql, start.end() if start else 0)
    first = found[0].upper() if found else ""
    if first in _OURS:
        raise DeclarationError(
            f"{first} is the runtime's: the transaction is begun and ended for you", where=sql.strip()[:60]
        )
    if _ENDS_ALL.search(sql):
        raise DeclarationError(
            "a conflict would roll back the whole transaction, not only this statement",
            where=sql.strip()[:60],
            mend="Let it raise (OR ABORT, which is the default), or use OR IGNORE or ON CONFLICT DO UPDATE",
        )
    if first == "WITH":
        upper = sql.upper()
        return not any(word in upper for word in _WRITES)
    return first in _READS
