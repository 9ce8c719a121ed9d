"""What all tests share: the event loop, Hypothesis's profile, and the rule for missing engines."""

import logging
import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

# Machines that run tests are shared and slow at times: an example's duration says nothing about the code.
settings.register_profile("ci", deadline=None)
settings.load_profile("ci")


@pytest.fixture
def anyio_backend() -> str:
    """Tests marked ``anyio`` run on asyncio, the one loop that Antiphon supports."""
    return "asyncio"


@pytest.fixture(autouse=True)
def _levels_of_logs() -> Iterator[None]:
    """A command that is called in this process may silence its logs: not those of the next test."""
    loggers = [logging.getLogger(name) for name in ("antiphon", "antiphon.demo", "aiormq", "httpx")]
    before = [each.level for each in loggers]
    yield
    for each, level in zip(loggers, before, strict=True):
        each.setLevel(level)


def require(name: str, found: bool) -> None:
    """Skip the test, naming the engine or extra *name* that it lacks, unless it was *found*.

    Under ``CI=true`` nothing may go untested unseen, so there the test fails instead.
    """
    if found:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"{name} is missing, and CI=true allows no skipping", pytrace=False)
    pytest.skip(f"{name} is missing")
