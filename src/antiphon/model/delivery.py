"""Deliveries: one event owed to one handler, its statuses, and what may follow what."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from antiphon.errors import DeclarationError


class Status(StrEnum):
    """The status of a delivery. There are no others."""

    UNPROCESSED = "UNPROCESSED"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    RETRY = "RETRY"
    ERROR = "ERROR"
    FAILED = "FAILED"


#: Dead letters: ERROR can never succeed as it is, FAILED has used up its attempts or its age.
DEAD = frozenset({Status.ERROR, Status.FAILED})

#: The one transition table. The diagram in the docs is generated from it.
TRANSITIONS: dict[Status, dict[Status, str]] = {
    Status.UNPROCESSED: {
        Status.IN_PROGRESS: "claimed by a worker that holds the handler's lease",
        Status.ERROR: "undecodable, or breaks its contract",
    },
    Status.IN_PROGRESS: {
        Status.COMPLETED: "the handler returned and its transaction committed",
        Status.RETRY: "the handler raised, its process died, or it was released by a stop",
        Status.ERROR: "the handler refused it, or its contract is broken",
        Status.FAILED: "attempts, age or crashes used up",
    },
    Status.RETRY: {
        Status.IN_PROGRESS: "due, claimed again",
        Status.FAILED: "its age is used up while it waits",
    },
    Status.ERROR: {Status.UNPROCESSED: "redrive"},
    Status.FAILED: {Status.UNPROCESSED: "redrive"},
    Status.COMPLETED: {},
}


def check_transition(old: Status, new: Status) -> None:
    """Raise DeclarationError unless *new* may follow *old*."""
    if new not in TRANSITIONS[old]:
        allowed = ", ".join(TRANSITIONS[old]) or "nothing"
        raise DeclarationError(f"a delivery cannot go from {old} to {new}; after {old} comes {allowed}")


class Done(msgspec.Struct, frozen=True):
    """Verdict: the delivery took effect."""


class RetryAt(msgspec.Struct, frozen=True):
    """Verdict: run it again at *due_ms* (store time, milliseconds)."""

    due_ms: int


class DeadLetter(msgspec.Struct, frozen=True):
    """Verdict: set it aside, with why."""

    status: Status
    reason: str


Verdict = Done | RetryAt | DeadLetter


class Failure(msgspec.Struct, frozen=True):
    """What an attempt died of, in words that can be stored."""

    error_type: str
    message: str
    traceback: str
    fingerprint: str
