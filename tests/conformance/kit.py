"""The suite's checks as tests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from antiphon.testing.conformance.engines import Engine
from antiphon.testing.conformance.load import LOAD_CHECKS

#: What takes seconds there that others do at once, emulators above all: under load they are asked in `make soak`.
SLOW = ("sqs", "sqs-standard", "eventbridge", "kinesis", "kafka")
_LOADS = {each.__name__ for each in LOAD_CHECKS}


def promises(engines: Iterable[Engine]) -> list[Any]:
    """Parameters of a test: an engine, and the name of each of its checks."""
    return [
        pytest.param(
            engine,
            check.name,
            id=f"{engine.name}-{check.name}",
            marks=[pytest.mark.soak] if engine.name in SLOW and check.name in _LOADS else [],
        )
        for engine in engines
        for check in engine.checks("", backlog=None)
    ]


def check_called(name: str, engine: Engine, url: str) -> Callable[[Path], Awaitable[None]]:
    """The check of this name at *url*; its backlog is short."""
    return next(check.run for check in engine.checks(url, backlog=None) if check.name == name)
