"""The handlers of a workflow: one moves its runs on, the other keeps what arrives for them."""

from __future__ import annotations

from typing import Any

import msgspec

from antiphon.errors import DeclarationError, InvalidEvent, NotAnnotated, Reject, StoreError, WorkflowCancelled
from antiphon.model.envelope import Envelope
from antiphon.model.events import EventType
from antiphon.model.workflows import (
    ENDED,
    Advance,
    Kind,
    Mark,
    Run,
    RunState,
    WorkflowSpec,
    advance_envelope,
    check_run_transition,
)
from antiphon.policy.journal import left_over
from antiphon.policy.words import describe, sole_error
from antiphon.ports import INTERNAL
from antiphon.runtime.invoke import as_failure
from antiphon.runtime.transaction import Delivery, Transaction
from antiphon.runtime.workflow.children import Returned, run_key, tell_parent
from antiphon.runtime.workflow.handle import Workflow
from antiphon.runtime.workflow.steps import write
from antiphon.runtime.workflow.turn import BRANCH, SIGNAL, Parked, Turn
from antiphon.runtime.workflow.undoing import undo_all
from antiphon.runtime.workflow.watching import ForeignAwait, Watched
from antiphon.store import workflows as rows

_SEVERAL = (list, tuple)
#: The marks of an undo that is under way: what is being undone cannot be cancelled any more.
_UNDOING = (Mark.RETRY, Mark.WAITING, Mark.FAILED)
_encode = msgspec.json.Encoder().encode


class Engine:
    """Moves the runs of one workflow on; it has a function for each version that is still in the code."""

    def __init__(self, first: WorkflowSpec) -> None:
        self.versions = {first.version: first}
        #: The newest: new runs begin with it.
        self.spec = first

    def add(self, spec: WorkflowSpec) -> None:
        """Another version."""
        self.versions[spec.version] = spec
        self.spec = self.versions[max(self.versions)]

    # ------------------------------------------------------------------ the two handlers

    async def advance(self, event: Any, tx: Transaction, delivery: Delivery) -> None:
        """Begin a run, or move one on. Raises Reject for a key that has a live run, InvalidEvent, StoreError."""
        envelope = delivery.envelope
        if isinstance(event, Advance):
            run = await self._addressed(event, tx, envelope)
        else:
            run = await self._begun_by(event, tx, envelope)
            event = Advance(run.id, deadline_ms=tx.take_deadline()) if run is not None else event
        if run is None or run.state in ENDED:
            return
        if run.nr == 0 and run.order_key != envelope.key:
            # Its deliveries are ordered by the key of the run from the start.
            turn = Turn(self.spec, run, [], tx)
            if event.deadline_ms is not None:
                turn.limit(event.deadline_ms)
            turn.send(turn.advance_envelope(Advance(run.id)))
            await turn.finish(RunState.WAITING)
            return
        await self._turn(run, event, tx, envelope)

    async def receive(self, event: Any, tx: Transaction, delivery: Delivery) -> None:
        """Keep what arrives, and move on the runs that may await it."""
        envelope, spec = delivery.envelope, self.spec
        unit = await tx.unit()
        now = tx.publisher.clock.now_ms()
        await rows.put_arrival(unit, spec.name, envelope, envelope.type, envelope.correlation_id, envelope.data, now)
        for run_id, address in await rows.awaiting_runs(tx.rows, spec.name, envelope):
            advance = advance_envelope(Advance(run_id), address, tx.publisher.clock.new_id(), now, envelope)
            tx.outgoing.append((advance, INTERNAL))

    # ------------------------------------------------------------------ which run

    async def _addressed(self, advance: Advance, tx: Transaction, envelope: Envelope) -> Run | None:
        """The run that is to move on; None if it has been removed."""
        run = await rows.load_run(tx.rows, advance.run, self.spec.name)
        if run is not None or advance.act != "start":
            return run
        event_type = _type_of(self.spec, advance.name or "")
        data = bytes(advance.data)
        event = event_type.decode(data, event_type.version)
        key = run_key(self.spec, event, event_type.key_of(event), advance.run)
        run = await self._new(tx, envelope, advance.run, key, (event_type.name, event_type.version, data))
        run.parent = advance.parent
        return run

    async def _begun_by(self, event: Any, tx: Transaction, envelope: Envelope) -> Run | None:
        """The run that *event* begins, or has begun."""
        key = run_key(self.spec, event, envelope.key, envelope.id)
        return await self._new(tx, envelope, envelope.id, key, (envelope.type, envelope.version, envelope.data))

    async def _new(
        self, tx: Transaction, envelope: Envelope, run_id: str, key: str, start: tuple[str, int, bytes]
    ) -> Run:
        """A run that is not written yet; that of *run_id* if it was begun before. Raises Reject."""
        known = await rows.known(tx.rows, self.spec.name, key, run_id, envelope.id)
        if known.has_begun and (found := await rows.load_run(tx.rows, run_id, self.spec.name)) is not None:
            return found
        if known.live is not None:
            raise Reject(
                f"run {known.live} of key {key!r} is not over", where=self.spec.name, mend="Redrive it when it is over"
            )
        now = tx.publisher.clock.now_ms()
        return Run(
            id=run_id,
            workflow=self.spec.name,
            key=key,
            order_key=envelope.key or run_id,
            version=self.spec.version,
            state=RunState.RUNNING,
            correlation_id=envelope.correlation_id,
            start_seq=known.start_seq,
            start_type=start[0],
            start_version=start[1],
            start_data=start[2],
            started_ms=now,
            updated_ms=now,
        )

    # ------------------------------------------------------------------ one turn

    async def _turn(self, run: Run, advance: Advance, tx: Transaction, envelope: Envelope) -> None:
        spec = self.versions.get(run.version, self.spec)
        records = await rows.load_journal(tx.rows, run.nr) if run.nr else []
        turn = Turn(spec, run, records, tx)
        if run.nr == 0 and advance.deadline_ms is not None:
            turn.limit(advance.deadline_ms)
        if advance.act == "signal":
            name = f"{SIGNAL}{advance.name}"
            unit = await tx.unit()
            await rows.put_arrival(unit, spec.name, envelope, name, run.id, bytes(advance.data), run.updated_ms)
            tx.mark() if tx.attached else await tx.checkpoint()
        if not await _act(turn, advance):
            return
        turn.cancelling = run.cancelled is not None and not any(
            each.mark is Mark.CANCELLED or (each.kind is Kind.UNDO and each.mark in _UNDOING) for each in records
        )
        run.state = RunState.RUNNING
        try:
            state = await move_on(turn)
            check_run_transition(RunState.RUNNING, state)
            if state in ENDED:
                await tell_parent(turn, run)
            await turn.finish(state)
        except StoreError:
            raise
        except Exception as error:
            if not turn.tx.attached:
                raise
            # What the steps have written is in the batch already: all of it goes, or the journal would not know it.
            raise StoreError(f"run {run.id} could not be written: {describe(error)}", where=spec.name) from error


async def _act(turn: Turn, advance: Advance) -> bool:
    """Do what is asked of the run besides moving on; False if that is all."""
    run, act, halted = turn.run, advance.act, turn.run.state in (RunState.PAUSED, RunState.STUCK)
    failed_undos = [each for each in turn.journal.values() if each.kind is Kind.UNDO and each.mark is Mark.FAILED]
    if act == "pause":
        turn.stuck = advance.reason or "paused"
        await turn.finish(RunState.PAUSED)
        return False
    if act == "cancel":
        if run.cancelled is None:
            run.cancelled = advance.reason or "no reason given"
        return True
    if act == "skip":
        if run.state is not RunState.STUCK:
            return False
        for record in failed_undos:
            turn.change(record, Mark.SKIPPED, error=f"skipped: {advance.reason}")
        if not failed_undos:
            run.error = f"given up: {advance.reason}"
            await tell_parent(turn, run)
            await turn.finish(RunState.FAILED)
        return bool(failed_undos)
    if act == "resume":
        for record in failed_undos:
            turn.change(record, Mark.RETRY, attempts=0, first_ms=None, due_ms=None)
        return halted
    return not halted


async def move_on(turn: Turn) -> RunState:
    """Call the function, answered from the journal as far as that goes; returns the state that it leads to."""
    token = BRANCH.set(turn.root)
    try:
        state = await _call(turn)
    except Parked:
        state = RunState.COMPENSATING if turn.compensating else RunState.WAITING
    except ForeignAwait as error:
        turn.stuck = f"it awaits something outside a step at {error.place}; call it in a step"
    finally:
        BRANCH.reset(token)
    if turn.stuck is None:
        turn.stuck = left_over(turn.journal, turn.visited)
    return state if turn.stuck is None else RunState.STUCK


async def _call(turn: Turn) -> RunState:
    run, spec = turn.run, turn.spec
    event = _type_of(spec, run.start_type).decode(run.start_data, run.start_version)
    try:
        result = await Watched(spec.fn(event, Workflow(turn)))
        if turn.root.parked or turn.stuck is not None:
            raise Parked
        _publish_result(turn, result)
    except (StoreError, Parked, ForeignAwait):
        raise
    except BaseException as error:
        failure = as_failure(error)
        if failure is None:
            raise
        return await _fail(turn, failure)
    if run.cancelled is not None and turn.compensated:
        return RunState.CANCELLED
    return RunState.COMPENSATED if turn.compensated else RunState.COMPLETED


async def _fail(turn: Turn, failure: Exception) -> RunState:
    """The function has raised: undo what was done."""
    error = sole_error(failure)
    if isinstance(error, DeclarationError | NotAnnotated):
        turn.halt(f"the code is wrong: {describe(error)}")
    turn.run.error = turn.run.error or describe(error)
    await undo_all(turn, "end.")
    if isinstance(error, WorkflowCancelled):
        return RunState.CANCELLED
    return RunState.COMPENSATED if turn.undone else RunState.FAILED


def _publish_result(turn: Turn, result: Any) -> None:
    """Publish the events that the function returned, and keep what it returned."""
    if result is None:
        return
    events = turn.spec.published
    if type(result) in events:
        envelope = turn.publish(result)
        returned = Returned(msgspec.Raw(envelope.data), envelope.type, envelope.version)
    else:
        for event in result if isinstance(result, _SEVERAL) else ():
            if type(event) in events:
                turn.publish(event)
        returned = Returned(msgspec.Raw(write(result)))
    turn.run.result = _encode(returned)


def _type_of(spec: WorkflowSpec, name: str) -> EventType:
    for event_type in spec.starts:
        if event_type.name == name:
            return event_type
    raise InvalidEvent(name, "type", f"it does not start {spec.name} any more")
