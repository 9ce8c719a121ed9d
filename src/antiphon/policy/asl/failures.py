"""The names of errors that a state fails with, and which of them a retrier or catcher means."""

from __future__ import annotations

from collections.abc import Iterable

from antiphon.errors import StateFailed

ALL = "States.ALL"
TASK_FAILED = "States.TaskFailed"
TIMEOUT = "States.Timeout"
HEARTBEAT_TIMEOUT = "States.HeartbeatTimeout"
RUNTIME = "States.Runtime"
QUERY = "States.QueryEvaluationError"
NO_CHOICE = "States.NoChoiceMatched"
INTRINSIC = "States.IntrinsicFailure"
RESULT_PATH = "States.ResultPathMatchFailure"
DATA_LIMIT = "States.DataLimitExceeded"
#: Ours, and no wildcard means it: somebody has cancelled the run.
CANCELLED = "Antiphon.Cancelled"
TOLERATED = "States.ExceedToleratedFailureThreshold"


def runtime_error(cause: str) -> StateFailed:
    """What no retrier and no catcher can mend: the definition and the data do not fit together."""
    return StateFailed(RUNTIME, cause)


def is_meant(error: str | None, names: Iterable[str]) -> bool:
    """Whether a retrier or catcher of *names* means *error*.

    Nothing means ``States.Runtime``. The wildcards mean no cancellation, and TaskFailed no time-out.
    """
    if error == RUNTIME:
        return False
    return any(name == error or _is_wildcard_for(name, error) for name in names)


def _is_wildcard_for(name: str, error: str | None) -> bool:
    if name == TIMEOUT:
        return error == HEARTBEAT_TIMEOUT
    return error != CANCELLED and (name == ALL or (name == TASK_FAILED and error != TIMEOUT))
