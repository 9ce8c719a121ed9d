"""The simulator finds what it is there for: an engine that is broken in one place breaks a promise within few seeds."""

from pathlib import Path

import pytest

from tests.simulate.mutants import MUTANTS, control, hunt

#: Far more than each is found in (see the table in docs/explanation/simulator-mutants.md), far fewer than a thousand.
_AT_MOST = 100


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_found(name: str) -> None:
    """One deliberate mistake in the engine, and a promise is broken in one of the first seeds."""
    finding = hunt(MUTANTS[name], _AT_MOST)
    assert finding.found, f"{name} ({finding.says}) has survived {finding.seeds} seeds"


def test_the_engine_itself_breaks_no_promise() -> None:
    """In the worlds in which the mutants are found, and some more, the engine as it is breaks nothing."""
    assert control({mutant.trial: 4 for mutant in MUTANTS.values()}) == {}


def test_the_documentation_names_every_mutant() -> None:
    """Its table has one line for each, with what the mistake is; it is printed by ``--markdown``."""
    page = Path(__file__).parents[2] / "docs" / "explanation" / "simulator-mutants.md"
    mistakes = [
        line.split(" | ")[0].removeprefix("| ") for line in page.read_text("utf-8").splitlines() if " | " in line
    ]
    assert mistakes[1:] == [mutant.says for mutant in MUTANTS.values()]
