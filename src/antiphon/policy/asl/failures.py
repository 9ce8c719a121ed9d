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
TOLERATED = "States.ExceedToleratedFailureThreshold"


def runtime_error(cause: str) -> StateFailed:
    """What no retrier and no catcher can mend: the definition and the data do not fit together."""
    return StateFailed(RUNTIME, cause)


def is_meant(error: str | None, names: Iterable[str]) -> bool:
    """Whether a retrier or catcher of *names* means *error*.

    The wildcards mean neither ``States.Runtime``, which nothing catches, nor (TaskFailed) a time-out.
    """
    if error == RUNTIME:
        return False
    for name in names:
        if name in (error, ALL) or (name == TASK_FAILED and error != TIMEOUT):
            return True
        if name == TIMEOUT and error == HEARTBEAT_TIMEOUT:
            return True
    return False
