"""The rule for tests whose engine is missing."""

import pytest
from _pytest.outcomes import Failed, Skipped

from tests.conftest import require


def test_a_found_engine_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test goes on when what it requires is there, on CI and elsewhere."""
    monkeypatch.setenv("CI", "true")
    require("sqlite", found=True)
    monkeypatch.delenv("CI")
    require("sqlite", found=True)


def test_a_missing_engine_skips_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a developer's machine a missing engine skips the test and is named."""
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(Skipped, match="postgres"):
        require("postgres", found=False)


def test_a_missing_engine_fails_on_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """On CI a missing engine fails the test, so that nothing goes untested unseen."""
    monkeypatch.setenv("CI", "true")
    with pytest.raises(Failed, match="postgres"):
        require("postgres", found=False)
