"""Loads the named blocks of SQL: queries.sql (the runtime), workflows.sql (workflows), desk.sql (what people ask).

What databases understand alike lies in this folder, what those on a server do, in ``served``; what one of them says in
its own way, in ``queries.sql`` of its own folder. The nearer block of a name counts.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

_SHARED = ("queries.sql", "workflows.sql", "desk.sql")


class Queries:
    """The blocks for one database: those of all, and those of *folders*, of which the last is its own."""

    def __init__(self, *folders: str) -> None:
        self._folders = folders
        self._blocks: dict[str, str] = {}

    def text(self, name: str) -> str:
        """The text of a file of the database's own folder."""
        return _text(self._folders[-1], name)

    def blocks(self) -> dict[str, str]:
        """All named blocks, without their comments."""
        if not self._blocks:
            own = ((folder, "queries.sql") for folder in self._folders)
            for text in (_text(*file) for file in (*((__package__, name) for name in _SHARED), *own)):
                for block in text.split("-- name: ")[1:]:
                    name, _, body = block.partition("\n")
                    lines = [line for line in body.strip().splitlines() if not line.startswith("--")]
                    self._blocks[name.strip()] = "\n".join(lines)
        return self._blocks

    def query(self, name: str) -> str:
        """The SQL of the block *name*. Raises KeyError if there is none."""
        return self.blocks()[name]


@cache
def _text(package: str, name: str) -> str:
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")


def views(**functions: str) -> str:
    """The event tables, as a script: ``antiphon_time(x)`` is a wall time as text, ``antiphon_text(x)`` bytes.

    *functions* gives, by name, an expression to be written instead, with ``{}`` for ``x``.
    """
    script = _text(__package__, "views.sql")
    for name, written in functions.items():
        while f"{name}(" in script:
            before, _, rest = script.partition(f"{name}(")
            depth, end = 1, 0
            while depth:
                depth += {"(": 1, ")": -1}.get(rest[end], 0)
                end += 1
            script = before + written.format(rest[: end - 1]) + rest[end:]
    return script
