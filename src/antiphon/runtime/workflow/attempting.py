"""Carries out a step, or the undo of one: one attempt after another, each recorded with what it wrote."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import msgspec

from antiphon.errors import AmbiguousEffect, DeadlinePassed, DeclarationError, NotAnnotated, StateFailed
from antiphon.model.delivery import DeadLetter, RetryAt, Status, Verdict
from antiphon.model.retry import Retry
from antiphon.model.workflows import Kind, Mark, Record
from antiphon.policy.attempts import decide
from antiphon.policy.words import MESSAGE_LIMIT, bounded, describe, message_of, sole_error
from antiphon.runtime.effects import Effects
from antiphon.runtime.invoke import as_failure
from antiphon.runtime.transaction import Transaction
from antiphon.runtime.workflow.steps import Callee, begin, go_outside, leave, write
from antiphon.runtime.workflow.turn import BRANCH, Turn


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """What is to be called, and how often at most."""

    step: Callee
    kind: Kind
    name: str
    args: tuple[Any, ...]
    retry: Retry
    timeout: timedelta | None = None
    named: Mapping[str, Any] = {}
    #: Whose recorded calls to the outside are meant; None: those of the step's own position.
    calls_of: str | None = None


async def carry_out(turn: Turn, wanted: Attempt, position: str, record: Record | None) -> Record:
    """Attempt it until it is DONE or FAILED; returns its record. Raises Parked if it has to wait for an attempt."""
    branch = BRANCH.get()
    step = wanted.step
    while record is None or record.mark is Mark.RETRY:
        if record is not None and (branch.frozen or (record.due_ms or 0) > turn.now_ms):
            turn.park(record)
        late = turn.too_late() if turn.deadline_ms is not None and wanted.kind is Kind.STEP else None
        if late is not None:
            record = record or turn.add(position, wanted.kind, wanted.name, Mark.RETRY)
            return turn.change(record, Mark.FAILED, error_type=DeadlinePassed.__name__, error=late)
        branch.busy = wanted.name
        if step.has_effects:
            await leave(turn)
        tx = turn.tx if turn.tx.attached else Transaction(turn.tx.store, turn.tx.publisher, turn.tx.cause)
        if step.has_effects and turn.tx.lease is not None:
            tx.effects = Effects(turn.clock, turn.tx.lease, turn.run.id, tx, f"{wanted.calls_of or position}.")
        try:
            result, rest = await begin(step, wanted.args, wanted.named, tx, turn.clock)
            if rest is not None:
                result = await go_outside(turn, rest, step, wanted.timeout)
            data = write(result)
        except BaseException as error:
            await tx.back_to_mark(error)
            failure = as_failure(error)
            if failure is None:
                raise
            if tx.effects is not None:
                turn.outcomes.append(tx.effects)
            record = _failed(turn, wanted, position, record, failure)
            continue
        finally:
            branch.busy = None
        if record is None:
            record = turn.close(position, wanted.kind, wanted.name, data)
            record.attempts = 1
        else:
            turn.change(record, Mark.DONE, result=data, attempts=record.attempts + 1, due_ms=None)
        if turn.tx.attached:
            turn.collect(tx)
        else:
            await turn.checkpoint(tx)
    return record


def _failed(turn: Turn, wanted: Attempt, position: str, record: Record | None, failure: Exception) -> Record:
    now = turn.now_ms
    if record is None:
        record = turn.add(position, wanted.kind, wanted.name, Mark.RETRY, first_ms=now)
    number = record.attempts + 1
    first = now if record.first_ms is None else record.first_ms
    verdict: Verdict
    if isinstance(failure, NotAnnotated | DeclarationError):
        verdict = DeadLetter(Status.ERROR, describe(failure))
    else:
        verdict = decide(wanted.retry, failure, number, first, now, turn.clock.random())
    error = sole_error(failure)
    kind, message = _named(error)
    told = {"attempts": number, "error_type": kind, "error": message}
    if isinstance(error, AmbiguousEffect):
        turn.change(record, Mark.RETRY, **told)
        turn.halt(str(error))
    if not isinstance(verdict, RetryAt):
        return turn.change(record, Mark.FAILED, **told)
    turn.change(record, Mark.RETRY, due_ms=verdict.due_ms, **told)
    if verdict.due_ms > now:
        turn.set_timer(record, verdict.due_ms)
    return record


def _named(error: BaseException) -> tuple[str, str]:
    """The name and the message of an error, as they are recorded; one may say its name itself."""
    if isinstance(error, StateFailed) and error.error:
        return error.error, bounded(error.cause or "", MESSAGE_LIMIT)
    return type(error).__name__, message_of(error)
