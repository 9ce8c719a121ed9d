"""Every error that Antiphon raises, on one page.

An error says what went wrong, where, why, and how to mend it.
"""

from __future__ import annotations


class AntiphonError(Exception):
    """The root of all errors of Antiphon."""

    def __init__(self, what: str, *, where: str = "", mend: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.mend = mend

    def __str__(self) -> str:
        parts = [f"{self.where}: {self.what}" if self.where else self.what]
        if self.mend:
            parts.append(self.mend)
        return " ".join(part if part.endswith((".", "!", "?")) else f"{part}." for part in parts)


class DeclarationError(AntiphonError):
    """An event, service, handler or app is declared wrongly; raised where it is declared."""


class InvalidEvent(AntiphonError):
    """An event's data breaks its contract: refused at publish, a dead letter on receipt."""

    def __init__(self, type_name: str, field: str, reason: str, *, mend: str = "") -> None:
        super().__init__(f"{field}: {reason}", where=type_name, mend=mend)
        self.type_name = type_name
        self.field = field
        self.reason = reason

    def __reduce__(self) -> tuple[type[InvalidEvent], tuple[str, str, str]]:
        return type(self), (self.type_name, self.field, self.reason)


class UnknownVersion(InvalidEvent):
    """The event's version is newer than this code, or older with no upcaster that leads here."""


class PayloadTooLarge(InvalidEvent):
    """The encoded data exceeds the limit."""


class Undecodable(InvalidEvent):
    """The bytes are not JSON, or not an event's envelope."""


class NotAnnotated(AntiphonError):
    """A handler published an event that its return annotation does not name."""


class Reject(AntiphonError):
    """Raised by a handler: this event can never succeed; it becomes an ERROR dead letter at once."""


class RolledBack(AntiphonError):
    """One event undid its whole batch: a statement of the user's made SQLite roll back everything (``ON CONFLICT
    ROLLBACK`` in a table), or what moves a workflow on failed when it had written."""


class HandlerTimeout(AntiphonError):
    """The handler did not end within its time limit."""


class AmbiguousEffect(AntiphonError):
    """Nobody knows whether a call to the outside took effect; its event becomes a FAILED dead letter at once."""


class ProcessDied(AntiphonError):
    """What a dead letter died of whose attempts kept ending with their process; nothing raises it."""


class DeadlinePassed(AntiphonError):
    """What a dead letter died of that could not be started before its deadline; nothing raises it."""


class NotFound(AntiphonError):
    """There is no such event, handler, dead letter, redrive or store."""


class WorkflowError(AntiphonError):
    """What a workflow's function is told of what it has called; it may catch it, and else it is undone."""


class StepFailed(WorkflowError):
    """A step has used up its attempts. *error_type* and *message* are those of its last error."""

    def __init__(self, name: str, error_type: str, message: str, attempts: int) -> None:
        tries = "1 attempt" if attempts == 1 else f"{attempts} attempts"
        super().__init__(f"failed after {tries}: {error_type}: {message}", where=f"step {name}")
        self.name = name
        self.error_type = error_type
        self.message = message
        self.attempts = attempts

    def __reduce__(self) -> tuple[type[StepFailed], tuple[str, str, str, int]]:
        return type(self), (self.name, self.error_type, self.message, self.attempts)


class StateFailed(WorkflowError):
    """A state of a state machine has failed with the error name *error* and the *cause*.

    A function that a Task calls raises it to say which name its failure has for Retry and Catch.
    """

    def __init__(self, error: str | None = None, cause: str | None = None) -> None:
        super().__init__(": ".join(filter(None, (error, cause))) or "no error is named")
        self.error = error
        self.cause = cause

    def __reduce__(self) -> tuple[type[StateFailed], tuple[str | None, str | None]]:
        return type(self), (self.error, self.cause)


class WaitTimedOut(WorkflowError):
    """What a workflow waited for did not come in time."""


class ChildFailed(WorkflowError):
    """A child workflow did not complete."""


class WorkflowCancelled(WorkflowError):
    """The run is cancelled; raised where the function waits."""


class JournalMismatch(AntiphonError):
    """The code no longer does what the run's journal says that it did."""


class StoreError(AntiphonError):
    """The store could not do its work; nothing of the transaction was kept."""


class StoreLocked(StoreError):
    """Another connection holds the database's write lock for too long."""


class StoreFull(StoreError):
    """The disk is full, or the database reached its size limit."""


class StoreCorrupt(StoreError):
    """The file is not a database, or is damaged."""


class StoreVersion(StoreError):
    """The store was written by a version of Antiphon that this one cannot read."""


class BusError(AntiphonError):
    """The bus cannot be reached, or has not confirmed. Nothing is lost: what waits for it waits in the logs."""


class PositionUnknown(BusError):
    """A receiver has read further than the bus goes: it is not the bus that it read from."""


class LeaseLost(StoreError):
    """Another worker has taken the handler over; this one's unsettled work is rolled back."""
