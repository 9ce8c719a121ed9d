"""Event-driven microservices for Python that lose nothing.

The public names, and no logic. Each is imported from its home when it is first used, so that
``import antiphon`` stays quick and needs no library that the importing code does not use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from antiphon.version import __version__

if TYPE_CHECKING:
    from antiphon.app import App
    from antiphon.errors import (
        AntiphonError,
        InvalidEvent,
        Reject,
        StateFailed,
        StepFailed,
        WaitTimedOut,
        WorkflowCancelled,
    )
    from antiphon.model.commands import Command, Refused, TimedOut, command
    from antiphon.model.delivery import Status
    from antiphon.model.envelope import Envelope
    from antiphon.model.events import Event, event, upcast
    from antiphon.model.retry import Rate, Retry, days, hours, minutes, seconds
    from antiphon.model.trials import Look
    from antiphon.runtime.blocking import SyncTransaction
    from antiphon.runtime.effects import Effects
    from antiphon.runtime.transaction import Delivery, Transaction
    from antiphon.runtime.workflow.handle import Workflow
    from antiphon.runtime.workflow.resources import Heartbeat
    from antiphon.service import Service

__all__ = [
    "AntiphonError",
    "App",
    "Command",
    "Delivery",
    "Effects",
    "Envelope",
    "Event",
    "Heartbeat",
    "InvalidEvent",
    "Look",
    "Rate",
    "Refused",
    "Reject",
    "Retry",
    "Service",
    "StateFailed",
    "Status",
    "StepFailed",
    "SyncTransaction",
    "TimedOut",
    "Transaction",
    "WaitTimedOut",
    "Workflow",
    "WorkflowCancelled",
    "__version__",
    "command",
    "days",
    "event",
    "hours",
    "minutes",
    "seconds",
    "upcast",
]

_HOMES = {
    "antiphon.app": ("App",),
    "antiphon.errors": (
        "AntiphonError",
        "InvalidEvent",
        "Reject",
        "StateFailed",
        "StepFailed",
        "WaitTimedOut",
        "WorkflowCancelled",
    ),
    "antiphon.model.commands": ("Command", "Refused", "TimedOut", "command"),
    "antiphon.model.delivery": ("Status",),
    "antiphon.model.envelope": ("Envelope",),
    "antiphon.model.events": ("Event", "event", "upcast"),
    "antiphon.model.retry": ("Rate", "Retry", "days", "hours", "minutes", "seconds"),
    "antiphon.model.trials": ("Look",),
    "antiphon.runtime.blocking": ("SyncTransaction",),
    "antiphon.runtime.effects": ("Effects",),
    "antiphon.runtime.transaction": ("Delivery", "Transaction"),
    "antiphon.runtime.workflow.handle": ("Workflow",),
    "antiphon.runtime.workflow.resources": ("Heartbeat",),
    "antiphon.service": ("Service",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name from its home on first use (PEP 562) and keep it."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
