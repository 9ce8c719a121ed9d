"""A trace read as a saga: which steps are done, which are undone, and what is still expected."""

from __future__ import annotations

from antiphon.model.delivery import DEAD, Status
from antiphon.model.views import DeliveryView, Saga, SagaState, SagaStep, StepState, TraceNode

#: What a step is, by what its compensation is.
_UNDOING: dict[StepState, StepState] = {"done": "undone", "expected": "undoing", "failed": "stuck"}


def saga_of(nodes: tuple[TraceNode, ...]) -> Saga:
    """The saga that the events of one correlation are.

    A step is a handler's delivery. One that is declared the compensation of another undoes it, and is no step of its
    own; a command that nobody has answered is still expected.
    """
    steps: list[SagaStep] = []
    undoing: list[tuple[TraceNode, DeliveryView]] = []
    for node in sorted(nodes, key=lambda node: (node.event.time_ms, node.event.id)):
        for delivery in node.deliveries:
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
    return Saga(state=_state(steps), steps=tuple(steps))


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


def _state(steps: list[SagaStep]) -> SagaState:
    states = {step.state for step in steps}
    if "stuck" in states:
        return "stuck"
    if states & {"expected", "undoing"}:
        return "running"
    if "undone" in states:
        return "compensated"
    return "failed" if "failed" in states else "completed"
