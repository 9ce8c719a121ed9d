"""Loads the named blocks: queries.sql (the runtime), workflows.sql (workflows), desk.sql (what people ask)."""

from __future__ import annotations

from functools import cache
from importlib import resources

_FILES = ("queries.sql", "workflows.sql", "desk.sql")


@cache
def text(name: str) -> str:
    """The text of a file of this package."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


@cache
def blocks() -> dict[str, str]:
    """All named blocks, without their comments."""
    found: dict[str, str] = {}
    for block in (block for name in _FILES for block in text(name).split("-- name: ")[1:]):
        name, _, body = block.partition("\n")
        found[name.strip()] = "\n".join(line for line in body.strip().splitlines() if not line.startswith("--"))
    return found


def query(name: str) -> str:
    """The SQL of the block *name*. Raises KeyError if there is none."""
    return blocks()[name]
