"""The statuses of a delivery, and the page that shows them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.errors import DeclarationError
from antiphon.model.delivery import DEAD, TRANSITIONS, Status, check_transition
from antiphon.policy.diagram import mermaid_state_diagram, transition_table

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "statuses.md"

statuses = st.sampled_from(Status)


def reachable(start: Status) -> set[Status]:
    """All statuses that can follow *start*, directly or later."""
    seen: set[Status] = set()
    ahead = [start]
    while ahead:
        new = set(TRANSITIONS[ahead.pop()]) - seen
        seen |= new
        ahead += new
    return seen


def test_the_table_is_closed_over_the_statuses() -> None:
    """Each status has its row, and nothing but a status follows."""
    assert set(TRANSITIONS) == set(Status)
    assert {new for following in TRANSITIONS.values() for new in following} <= set(Status)


def test_every_status_is_reached_and_can_be_completed() -> None:
    """From UNPROCESSED every status is reached, and from each but COMPLETED a delivery can complete."""
    assert reachable(Status.UNPROCESSED) == set(Status)
    assert all(Status.COMPLETED in reachable(status) for status in set(Status) - {Status.COMPLETED})


def test_completed_is_the_only_end() -> None:
    """Nothing follows COMPLETED; a dead letter can only be redriven."""
    assert {status for status in Status if not TRANSITIONS[status]} == {Status.COMPLETED}
    assert all(set(TRANSITIONS[status]) == {Status.UNPROCESSED} for status in DEAD)


@given(statuses, statuses)
def test_only_what_the_table_names_may_follow(old: Status, new: Status) -> None:
    """A transition is allowed if and only if the table names it; a refusal names what is allowed."""
    if new in TRANSITIONS[old]:
        check_transition(old, new)
    else:
        with pytest.raises(DeclarationError) as caught:
            check_transition(old, new)
        assert all(allowed in str(caught.value) for allowed in TRANSITIONS[old])


def test_the_diagram_draws_every_transition_once() -> None:
    """The diagram has one arrow for each transition, one to the start, one from the end."""
    arrows = [line.strip().split(": ")[0] for line in mermaid_state_diagram().splitlines()[1:]]
    drawn = {tuple(arrow.split(" --> ")) for arrow in arrows}
    expected = {(str(old), str(new)) for old, following in TRANSITIONS.items() for new in following}
    assert drawn == expected | {("[*]", "UNPROCESSED"), ("COMPLETED", "[*]")}
    assert len(arrows) == len(drawn)


def test_no_text_breaks_the_diagram() -> None:
    """No reason holds a character that ends a label in Mermaid or a cell in a table."""
    reasons = [why for following in TRANSITIONS.values() for why in following.values()]
    assert not any(char in why for why in reasons for char in ":;|\n#")


def test_the_page_shows_the_table_as_it_is() -> None:
    """The reference page holds the generated diagram and table; paste them again after a change."""
    page = PAGE.read_text(encoding="utf-8")
    assert f"```mermaid\n{mermaid_state_diagram()}\n```" in page
    assert transition_table() in page
    assert all(f"**{status}**" in page for status in Status)
