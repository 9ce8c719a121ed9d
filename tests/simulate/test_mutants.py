"""The simulator finds what it is there for: an engine that is broken in one place breaks a promise within few seeds."""

from pathlib import Path

import pytest

from tests.runtime.holding import HoldingUnit, hold_statements
from tests.simulate.mutants import MUTANTS, Trial, bounded, control, hunt, violations_of

#: Far more than each needs (see the table in docs/explanation/simulator-mutants.md), far fewer than a thousand.
_AT_MOST = 100
#: Their worlds last for days, and take as long as all others together.
_SLOW = {"retention_of_dead_letters", "retention_of_what_is_retried"}
#: Seeds of each trial that the engine as it is is looked at in, in the long tests.
_LONG = 50


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.soak) if name in _SLOW else name for name in MUTANTS]
)
def test_a_mutant_is_found(name: str) -> None:
    """One deliberate mistake in the engine breaks a promise in one of the first seeds; without it nothing does."""
    mutant = MUTANTS[name]
    finding = hunt(mutant, _AT_MOST)
    assert finding.found, f"{name} ({finding.says}) has survived {finding.seeds} seeds"
    assert control(mutant.trial, finding.seeds - 1) == ()


def test_a_world_that_has_broken_a_promise_is_not_waited_for() -> None:
    """It may never come to rest: what was seen on the way is told, and not that it turned in circles."""
    finding = hunt(MUTANTS["same_token_for_the_next"], _AT_MOST)
    assert finding.promises == ["G3 leases_change_hands_properly"]


@pytest.mark.soak
@pytest.mark.parametrize("where", {mutant.trial: None for mutant in MUTANTS.values()}, ids=str)
def test_the_engine_itself_breaks_no_promise(where: Trial) -> None:
    """In many worlds like those in which mutants are found, the engine as it is breaks nothing."""
    found = {seed: control(where, seed) for seed in range(_LONG)}
    assert {seed: violations for seed, violations in found.items() if violations} == {}


@pytest.mark.parametrize("name", ["cursor_past_a_retry", "settled_before_commit", "facts_change"])
def test_the_engine_breaks_no_promise_when_every_handler_is_trusted(name: str) -> None:
    """In worlds with failures, deaths and messages that get lost, batches are tried without savepoints first, with
    statements that travel together: nothing is broken."""
    with bounded() as patch:
        hold_statements(patch)
        for seed in range(6):
            assert violations_of(MUTANTS[name].trial, seed) == []
        assert HoldingUnit.messages


def test_the_documentation_names_every_mutant() -> None:
    """Its table has one line for each, with what the mistake is; ``--markdown`` prints it."""
    page = Path(__file__).parents[2] / "docs" / "explanation" / "simulator-mutants.md"
    lines = [line for line in page.read_text("utf-8").splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[1:]] == [each.says for each in MUTANTS.values()]
