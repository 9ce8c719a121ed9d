"""The test kit: a world to test an app in, one handler alone, strategies, contracts, conformance suites.

Each name is imported from its home when it is first used: pytest loads this package in every session.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from antiphon.testing.assertions import WorldFailure
    from antiphon.testing.clock import VirtualClock
    from antiphon.testing.faults import Fault
    from antiphon.testing.scenario import given
    from antiphon.testing.sync import in_world
    from antiphon.testing.world import World

__all__ = ["Fault", "VirtualClock", "World", "WorldFailure", "given", "in_world"]

_HOMES = {
    "Fault": "antiphon.testing.faults",
    "VirtualClock": "antiphon.testing.clock",
    "World": "antiphon.testing.world",
    "WorldFailure": "antiphon.testing.assertions",
    "given": "antiphon.testing.scenario",
    "in_world": "antiphon.testing.sync",
}


def __getattr__(name: str) -> Any:
    """Import a name from its home on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
