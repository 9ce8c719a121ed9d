"""The state diagram of a delivery, drawn from the one transition table."""

from __future__ import annotations

from antiphon.model.delivery import TRANSITIONS, Status


def mermaid_state_diagram() -> str:
    """The transitions as a Mermaid state diagram, without a code fence and without a last newline."""
    lines = ["stateDiagram-v2", f"    [*] --> {Status.UNPROCESSED}"]
    for old, following in TRANSITIONS.items():
        lines += [f"    {old} --> {new}: {why}" for new, why in following.items()]
        if not following:
            lines.append(f"    {old} --> [*]")
    return "\n".join(lines)


def transition_table() -> str:
    """The transitions as a Markdown table, without a last newline."""
    rows = [f"| {old} | {new} | {why} |" for old, following in TRANSITIONS.items() for new, why in following.items()]
    return "\n".join(["| From | To | When |", "|---|---|---|", *rows])
