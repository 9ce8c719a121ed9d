"""A trace read as a saga: which steps are done, which are undone, and what is still expected."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet

from antiphon.model.delivery import DEAD, Status
from antiphon.model.views import DeliveryView, Saga, SagaState, SagaStep, StepState, TraceNode
from antiphon.model.workflows import ENDED, Kind, Mark, RecordView, RunState, RunView

#: What a step is, by what its compensation is.
_UNDOING: dict[StepState, StepState] = {"done": "undone", "expected": "undoing", "failed": "stuck"}
#: What a step of a run is, by its record's mark; and by that of its undo.
_MARKED: dict[Mark, StepState] = {Mark.DONE: "done", Mark.WAITING: "expected", Mark.RETRY: "expected"}
_UNDO_MARKED: dict[Mark, StepState] = {Mark.DONE: "undone", Mark.RETRY: "undoing", Mark.FAILED: "stuck"}
_SHOWN = (Kind.STEP, Kind.CHILD)
_AWAITED = (Kind.WAIT, Kind.SLEEP)


def saga_of(nodes: tuple[TraceNode, ...], runs: Sequence[RunView] = ()) -> Saga:
    """The saga that the events of one correlation, and the *runs* of workflows that they moved, are.

    A step is a handler's delivery. One that is declared the compensation of another undoes it, and is no step of its
    own; a command that nobody has answered is still expected. Of a run the steps are what its journal has of them.
    """
    steps: list[SagaStep] = []
    undoing: list[tuple[TraceNode, DeliveryView]] = []
    moved = {name for run in runs for name in (run.workflow, f"{run.workflow}.inbox")}
    for node in sorted(nodes, key=lambda node: (node.event.time_ms, node.event.id)):
        for delivery in node.deliveries:
            if delivery.handler in moved and delivery.status is Status.COMPLETED:
                continue
            if delivery.compensates is None:
                steps.append(_step(delivery.handler, node, delivery))
            else:
                undoing.append((node, delivery))
    for node, delivery in undoing:
        _undo(steps, node, delivery)
    answered = {node.event.request_id for node in nodes}
    for node in nodes:
        handled = all(delivery.status is Status.COMPLETED for delivery in node.deliveries)
        if node.event.kind == "command" and node.event.id not in answered and handled:
            steps.append(
                SagaStep(
                    name=f"answer of {node.event.target}",
                    state="expected",
                    event_id=node.event.id,
                    event_type=node.event.type,
                )
            )
    state = _state({step.state for step in steps} | {_state_of(run) for run in runs if run.parent is None})
    return Saga(state=state, steps=(*steps, *(step for run in runs for step in _steps_of(run))))


def _steps_of(run: RunView) -> Iterator[SagaStep]:
    """What a run has done, and what it waits for."""
    undos = {_undone_place(each.position): each for each in run.journal if each.kind is Kind.UNDO}
    for record in run.journal:
        if record.kind in _SHOWN or (record.kind in _AWAITED and record.mark is Mark.WAITING):
            yield _step_of(run, record, undos.get(record.position))


def _step_of(run: RunView, record: RecordView, undo: RecordView | None) -> SagaStep:
    state, told = _MARKED.get(record.mark, "failed"), record
    if undo is not None:
        state, told = _UNDO_MARKED.get(undo.mark, "done"), undo
    return SagaStep(
        name=f"{run.workflow}: {record.kind.value} {record.name}",
        state=state,
        event_id=run.id,
        event_type=run.begun_by,
        undone_by=undo.name if undo is not None and undo.mark is not Mark.SKIPPED else None,
        why=told.error,
    )


def _undone_place(position: str) -> str:
    """The position of the step that the undo at *position* undoes."""
    return position.rpartition(".u")[2] if ".u" in position else position.removeprefix("end.")


def _state_of(run: RunView) -> StepState:
    """What a run is to the whole of the saga, as if it were one step."""
    if run.state is RunState.STUCK:
        return "stuck"
    if run.state not in ENDED:
        return "expected"
    if run.state is RunState.COMPLETED:
        return "done"
    return "failed" if run.state is RunState.FAILED else "undone"


def _step(name: str, node: TraceNode, delivery: DeliveryView) -> SagaStep:
    done = delivery.status is Status.COMPLETED
    return SagaStep(
        name=name,
        state="done" if done else "failed" if delivery.status in DEAD else "expected",
        event_id=node.event.id,
        event_type=node.event.type,
        why=None if done else delivery.reason,
    )


def _undo(steps: list[SagaStep], node: TraceNode, delivery: DeliveryView) -> None:
    """Mark the last step that *delivery* undoes. One that is no handler's (a route's) is not among *steps* yet."""
    name = delivery.compensates or ""
    number = next((n for n in reversed(range(len(steps))) if steps[n].name == name and steps[n].state == "done"), None)
    if number is None:
        done = SagaStep(name=name, state="done", event_id=node.event.id, event_type=node.event.type)
        steps.insert(0, done)
        number = 0
    step, undoing = steps[number], _step(delivery.handler, node, delivery)
    steps[number] = SagaStep(
        name=step.name,
        state=_UNDOING[undoing.state],
        event_id=step.event_id,
        event_type=step.event_type,
        undone_by=delivery.handler,
        why=undoing.why,
    )


def _state(states: AbstractSet[StepState]) -> SagaState:
    if "stuck" in states:
        return "stuck"
    if states & {"expected", "undoing"}:
        return "running"
    if "undone" in states:
        return "compensated"
    return "failed" if "failed" in states else "completed"
