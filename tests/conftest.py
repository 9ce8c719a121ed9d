"""What all tests share: the event loop, Hypothesis's profile, and the rule for missing engines."""

import os

import pytest
from hypothesis import settings

# Machines that run tests are shared and slow at times: an example's duration says nothing about the code.
settings.register_profile("ci", deadline=None)
settings.load_profile("ci")


@pytest.fixture
def anyio_backend() -> str:
    """Tests marked ``anyio`` run on asyncio, the one loop that Antiphon supports."""
    return "asyncio"


def require(name: str, found: bool) -> None:
    """Skip the test, naming the engine or extra *name* that it lacks, unless it was *found*.

    Under ``CI=true`` nothing may go untested unseen, so there the test fails instead.
    """
    if found:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"{name} is missing, and CI=true allows no skipping", pytrace=False)
    pytest.skip(f"{name} is missing")
