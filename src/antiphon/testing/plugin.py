"""The pytest plugin: the timeline in the report of a failing test, and worlds whose databases outlive a failure.

pytest loads it wherever Antiphon is installed, so it imports nothing until a test uses it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from antiphon.app import App
    from antiphon.testing.world import World

_TITLE = "antiphon timeline"


@pytest.fixture
def antiphon_world(tmp_path: Path) -> Callable[..., World]:
    """Makes worlds: ``async with antiphon_world(app) as world``.

    The same as ``app.test(...)``, with the databases in pytest's ``tmp_path``, where pytest keeps those of the last
    runs: ``antiphon tail --data`` and ``antiphon trace`` look into them.
    """
    made = 0

    def make(app: App, **options: Any) -> World:
        nonlocal made
        made += 1
        return app.test(data=tmp_path / f"{app.name}-{made}", **options)

    return make


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    call: pytest.CallInfo[None],
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach the timeline of each world that is open, as one made by a fixture is, to the report of a failure."""
    report = yield
    worlds = sys.modules.get("antiphon.testing.world")
    if worlds is not None and report.failed and call.excinfo is not None:
        # A failed claim of the world's has told its timeline already.
        told = call.excinfo.errisinstance(worlds.WorldFailure)
        report.sections += [] if told else [(_TITLE, world.timeline()) for world in worlds.OPEN]
    return report
