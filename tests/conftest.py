"""What all tests share: the event loop, Hypothesis's profile, and the rule for missing engines."""

import gc
import logging
import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

# Machines that run tests are shared and slow at times: an example's duration says nothing about the code.
settings.register_profile("ci", deadline=None)
settings.load_profile("ci")

# What a shell runs in the background ignores Ctrl-C, and so would the commands that are tested, which is how they end.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """What thousands of tests are made of stays until the end: nobody need look for garbage in it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def anyio_backend() -> str:
    """Tests marked ``anyio`` run on asyncio, the one loop that Antiphon supports."""
    return "asyncio"


@pytest.fixture(autouse=True)
def _levels_of_logs() -> Iterator[None]:
    """A command that is called in this process may silence its logs: not those of the next test."""
    loggers = [logging.getLogger(name) for name in ("antiphon", "antiphon.demo", "httpx")]
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
