"""Whether a workflow's code still does what a run's journal says, and what to do about it if not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from hashlib import blake2b

from antiphon.model.workflows import Kind, Record


def shape(records: Iterable[Record]) -> str:
    """A digest of what a run has called, and where: equal for runs that went the same way."""
    calls = sorted((each.position, each.kind.value, each.name) for each in records)
    return blake2b("\n".join(map("\t".join, calls)).encode(), digest_size=8).hexdigest()


def mismatch(record: Record, kind: Kind, name: str) -> str | None:
    """Why a call of *kind* and *name* is not the one that was recorded; None if it is."""
    if record.kind is kind and record.name == name:
        return None
    return (
        f"at position {record.position} the journal has {record.kind.value} {record.name!r}, "
        f"and the code calls {kind.value} {name!r}"
    )


def left_over(journal: Mapping[str, Record], visited: AbstractSet[str]) -> str | None:
    """Why the code did too little for what was recorded; None if it did all of it."""
    if len(journal) == len(visited):
        return None
    rest = journal.keys() - visited
    missing = sorted(place for place in rest if journal[place].kind is not Kind.VERSION)
    if not missing:
        return None
    first = journal[missing[0]]
    return (
        f"the journal has {first.kind.value} {first.name!r} at position {first.position}, "
        "and the code does not call it any more"
    )


def is_added(journal: Iterable[Record], kind: Kind, name: str) -> bool:
    """Whether a call that does not match is new in the code, so that a version branch around it mends the run."""
    return not any(each.kind is kind and each.name == name for each in journal)
