"""Puts the files of a deployment into a directory, and overwrites nothing that somebody may have changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from antiphon.errors import AntiphonError


class Written(NamedTuple):
    """A file, and what became of it: written, unchanged (it was so already) or overwritten."""

    path: str
    state: str


def write(out: Path, files: Sequence[tuple[str, str]], *, force: bool) -> list[Written]:
    """Write *files*, name and text each, below *out*: all or, where one would be overwritten without *force*, none.

    Raises AntiphonError naming the files that are there and say something else, OSError.
    """
    done = []
    for name, text in files:
        path = out / name
        there = path.read_text(encoding="utf-8", errors="replace") if path.exists() else None
        state = "written" if there is None else "unchanged" if there == text else "overwritten"
        done.append(Written(str(path), state))
    changed = [each.path for each in done if each.state == "overwritten"]
    if changed and not force:
        raise AntiphonError(
            f"{', '.join(changed)} would be overwritten",
            where=str(out),
            mend="Name another directory with --out, or say --force",
        )
    for (name, text), each in zip(files, done, strict=True):
        if each.state != "unchanged":
            path = out / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return done
