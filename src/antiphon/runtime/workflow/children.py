"""A run that another one waits for."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from antiphon.errors import ChildFailed, DeclarationError, WorkflowCancelled
from antiphon.model.events import event_type_of
from antiphon.model.workflows import ENDED, Advance, Kind, Mark, Run, RunState, WorkflowSpec, advance_envelope
from antiphon.runtime.workflow.turn import BRANCH, Turn
from antiphon.store import workflows as rows


class Returned(msgspec.Struct):
    """What a run's function returned: a value, or the data of an event of that type."""

    value: msgspec.Raw
    type: str | None = None
    version: int = 1


class Startable(Protocol):
    """A workflow as it is declared."""

    @property
    def spec(self) -> WorkflowSpec: ...


def run_key(spec: WorkflowSpec, event: object, own_key: str | None, event_id: str) -> str:
    """The key of the run that *event* begins."""
    key = spec.key_of(event) if spec.key_of is not None else own_key
    return str(key) if key is not None else event_id


async def await_child(turn: Turn, workflow: Startable, event: object) -> Any:
    """See `Workflow.child`."""
    spec = workflow.spec
    if spec.service != turn.spec.service:
        raise DeclarationError(
            f"{spec.name} is a workflow of another service",
            where=turn.spec.name,
            mend="Publish an event that starts it",
        )
    position, record = turn.find(Kind.CHILD, spec.name)
    if record is None:
        child_id = turn.clock.new_id()
        record = turn.add(position, Kind.CHILD, spec.name, Mark.WAITING, result=msgspec.json.encode(child_id))
        _start(turn, spec, child_id, event)
    if record.mark is Mark.WAITING:
        child_id = msgspec.json.decode(record.result or b'""', type=str)
        child = await rows.load_run(turn.tx.rows, child_id, spec.name)
        if turn.is_cancelled(record):
            order_key = child.order_key if child is not None else child_id
            cancel = Advance(child_id, "cancel", reason=turn.run.cancelled)
            _send(turn, spec.name, order_key, turn.run.correlation_id, cancel)
        elif BRANCH.get().frozen or child is None or child.state not in ENDED:
            turn.park(record)
        elif child.state is RunState.COMPLETED:
            turn.change(record, Mark.DONE, result=child.result)
        else:
            turn.change(record, Mark.FAILED, error_type=child.state.value, error=child.error or "")
    if record.mark is Mark.CANCELLED:
        raise WorkflowCancelled(f"cancelled: {turn.run.cancelled}", where=turn.spec.name)
    if record.mark is not Mark.DONE:
        raise ChildFailed(f"it ended {record.error_type}: {record.error}", where=spec.name)
    return read_result(spec, record.result)


def _start(turn: Turn, spec: WorkflowSpec, child_id: str, event: object) -> None:
    event_type = event_type_of(event)
    if event_type.name not in {each.name for each in spec.starts}:
        raise DeclarationError(f"{event_type.name} does not start it", where=spec.name)
    own_key = event_type.key_of(event)
    start = Advance(
        child_id,
        "start",
        name=event_type.name,
        data=msgspec.Raw(event_type.encode(event)),
        parent=f"{turn.spec.name}/{turn.run.id}",
        deadline_ms=turn.deadline_ms,
    )
    _send(turn, spec.name, own_key or child_id, turn.run.correlation_id, start)


def _send(turn: Turn, workflow: str, order_key: str, correlation_id: str, advance: Advance) -> None:
    """Send an internal event to another run of this service."""
    address = (workflow, order_key, correlation_id)
    clock = turn.clock
    turn.send(advance_envelope(advance, address, clock.new_id(), clock.now_ms(), turn.tx.cause))


def read_result(spec: WorkflowSpec, data: bytes | None) -> Any:
    """What a run of *spec* returned."""
    if data is None:
        return None
    returned = msgspec.json.decode(data, type=Returned)
    for event_type in spec.publishes:
        if event_type.name == returned.type:
            return event_type.decode(bytes(returned.value), returned.version)
    return msgspec.json.decode(bytes(returned.value))


async def tell_parent(turn: Turn, run: Run) -> None:
    """Move the run on that waits for this one, which has ended."""
    if run.parent is None:
        return
    workflow, _, parent_id = run.parent.rpartition("/")
    parent = await rows.load_run(turn.tx.rows, parent_id, workflow)
    if parent is not None and parent.state not in ENDED:
        _send(turn, workflow, parent.order_key, parent.correlation_id, Advance(parent_id))
