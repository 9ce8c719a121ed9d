"""Undoes what a run has done, the last first: an undo is a step of its own, or a request to another service."""

from __future__ import annotations

import msgspec

from antiphon.errors import DeclarationError
from antiphon.model.commands import Refused
from antiphon.model.events import event_type_of
from antiphon.model.workflows import Kind, Mark, Record
from antiphon.policy.undoing import to_undo
from antiphon.runtime.workflow.attempting import Attempt, carry_out
from antiphon.runtime.workflow.steps import callee, write
from antiphon.runtime.workflow.turn import BRANCH, Taken, Turn, Undoable, UndoableRequest
from antiphon.store import workflows as rows


async def undo_all(turn: Turn, prefix: str) -> None:
    """Undo every step that is done and every request that was sent, if it has an undo.

    Raises Parked while an undo waits for its retry or its answer, and when one has FAILED: the run is then stuck.
    """
    turn.compensating = True
    for done in to_undo(turn.undoable, turn.undone):
        if isinstance(done, UndoableRequest):
            record = await _ask(turn, done, prefix)
        else:
            record = await _call(turn, done, prefix)
        if record.mark is Mark.FAILED:
            turn.halt(f"undo {record.name} of {done.name} failed: {record.error_type}: {record.error}")
        turn.undone.add(done.position)
    turn.compensating = False


def replies_to(command: object) -> tuple[type, ...]:
    """The events that may answer a *command* that undoes something. Raises DeclarationError for what is none."""
    event_type = event_type_of(command)
    if event_type.target is None:
        raise DeclarationError(
            f"undo={event_type.name} is no command, which would be answered when it is done",
            where=event_type.name,
            mend="Make it a Command",
        )
    return (*(each.cls for each in event_type.replies), Refused)


async def _call(turn: Turn, done: Undoable, prefix: str) -> Record:
    """The undo of a step."""
    known = callee(done.undo)
    name = known.name or f"undo of {done.name}"
    position, record = turn.find(Kind.UNDO, name, f"{prefix}{done.position}")
    named = {"result": done.result} if known.takes_result else {}
    wanted = Attempt(known, Kind.UNDO, name, done.args, done.retry, named=named)
    return await carry_out(turn, wanted, position, record)


async def _ask(turn: Turn, done: UndoableRequest, prefix: str) -> Record:
    """The command that takes a request back, and its answer."""
    name = event_type_of(done.command).name
    position, record = turn.find(Kind.UNDO, name, f"{prefix}{done.position}")
    if record is None:
        record = turn.add(position, Kind.UNDO, name, Mark.RETRY)
    if record.mark is Mark.RETRY and not BRANCH.get().frozen:
        asked = turn.publish(done.command)
        turn.change(record, Mark.WAITING, result=write(asked.id), attempts=record.attempts + 1)
    if record.mark in (Mark.RETRY, Mark.WAITING):
        await _look(turn, done.command, record)
    return record


async def _look(turn: Turn, command: object, record: Record) -> None:
    """Close the record with the answer. Raises Parked if there is none yet."""
    asked = msgspec.json.decode(record.result or b"null", type=str)
    types = [event_type_of(each).name for each in replies_to(command)]
    if not BRANCH.get().frozen:
        for arrival in await rows.arrivals(turn.tx.rows, turn.run, turn.run.correlation_id, types):
            turn.seen.add(arrival.seq)
            if arrival.causation_id != asked:
                continue
            if arrival.type == event_type_of(Refused).name:
                refused = msgspec.json.decode(arrival.data, type=Refused)
                turn.change(record, Mark.FAILED, error_type=refused.status.value, error=refused.reason)
            else:
                turn.taken.add(arrival.id)
                taken = Taken(arrival.id, arrival.type, arrival.version, msgspec.Raw(arrival.data))
                turn.change(record, Mark.DONE, result=write(taken))
            return
    turn.answers[record.position] = types
    turn.park(record)
