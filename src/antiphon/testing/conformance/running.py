"""The run of the suite against one engine."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from antiphon.testing.conformance.engines import BACKLOG, Engine

#: No check takes so long.
_CHECK_S = 900


class Tally(msgspec.Struct):
    """How many checks an engine has passed and failed; *skipped*: it is not there."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0


async def run(engine: Engine, tell: Callable[[str, str], None], backlog: int = BACKLOG) -> Tally:
    """Hold *engine* to all its checks, a long *backlog* of so many events; *tell* is told the name of each that fails,
    and why."""
    tally = Tally()
    async with engine.reached() as url:
        if url is None:
            tally.skipped = len(engine.checks(""))
            return tally
        for name, check in engine.checks(url, backlog):
            with tempfile.TemporaryDirectory() as folder:
                try:
                    async with asyncio.timeout(_CHECK_S):
                        await check(Path(folder))
                except Exception as error:  # noqa: BLE001  whatever an engine raises that it may not is a finding
                    tally.failed += 1
                    tell(name, str(error) or type(error).__name__)
                else:
                    tally.passed += 1
    return tally
