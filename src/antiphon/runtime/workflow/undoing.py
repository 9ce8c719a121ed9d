"""Undoes what a run has done: each undo is a step of its own, the last step's first."""

from __future__ import annotations

from antiphon.model.workflows import Kind, Mark
from antiphon.policy.compensation import to_undo
from antiphon.runtime.workflow.attempting import Attempt, carry_out
from antiphon.runtime.workflow.steps import callee
from antiphon.runtime.workflow.turn import Turn


async def undo_all(turn: Turn, prefix: str) -> None:
    """Undo every step that is done and has an undo.

    Raises Parked while an undo waits for its retry, and when one has FAILED: the run is then stuck.
    """
    turn.compensating = True
    for done in to_undo(turn.undoable, turn.undone):
        known = callee(done.undo)
        name = known.name or f"undo of {done.name}"
        position, record = turn.find(Kind.UNDO, name, f"{prefix}{done.position}")
        named = {"result": done.result} if known.takes_result else {}
        wanted = Attempt(known, Kind.UNDO, name, done.args, done.retry, named=named)
        record = await carry_out(turn, wanted, position, record)
        if record.mark is Mark.FAILED:
            turn.halt(f"undo {name} of step {done.name} failed: {record.error_type}: {record.error}")
        turn.undone.add(done.position)
    turn.compensating = False
