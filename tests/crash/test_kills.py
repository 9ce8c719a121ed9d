"""Both examples, and an application with everything in flight, are killed under HTTP load and lose nothing."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from tests.crash.cases import CASES
from tests.crash.kills import Outcome, play

SOAK_KILLS = 150


def held(outcome: Outcome, kills: int) -> None:
    """Everything that was accepted has come to its end once, and the kills met work."""
    assert outcome.findings == Counter()
    assert outcome.kills >= kills
    assert outcome.accepted > outcome.crashes


@pytest.mark.parametrize(("name", "kills"), [("flight_booking", 4), ("enrollment", 3), ("lanes", 3)])
def test_kills_under_load_lose_nothing_and_repeat_nothing(tmp_path: Path, name: str, kills: int) -> None:
    """Workers that compete, the gateway, and all at once are killed; then the databases are audited."""
    held(asyncio.run(play(CASES[name], tmp_path, kills=kills, seed=20261121)), kills)


@pytest.mark.soak
@pytest.mark.parametrize("name", list(CASES))
def test_hundreds_of_kills(tmp_path: Path, name: str) -> None:
    """The same, for longer."""
    outcome = asyncio.run(play(CASES[name], tmp_path, kills=SOAK_KILLS, seed=1))
    held(outcome, SOAK_KILLS)
    assert outcome.answers_lost > 0
