"""What happened, as lines to read: who published what, who handled it when, every attempt, and why it ended so."""

from __future__ import annotations

from collections.abc import Iterator

from antiphon.model.views import DeliveryView, Saga, Trace, TraceNode, run_of
from antiphon.model.workflows import RecordView, RunView
from antiphon.policy.words import moment, plain, shortened


def began_ms(trace: Trace) -> int:
    """When the first event of a trace was published."""
    return min(node.event.time_ms for node in trace.nodes)


def trace_lines(trace: Trace, start_ms: int) -> Iterator[str]:
    """One line for each event, below the one that caused it, with its deliveries and the run that it began.

    Times count from *start_ms*.
    """
    begun: dict[str, list[RunView]] = {}
    for run in trace.runs:
        begun.setdefault(run.id, []).append(run)
    for node in trace.nodes:
        indent = "  " * node.depth
        event = node.event
        key = "" if event.key is None else f" [{plain(event.key)}]"
        to = "" if event.target is None else f" to {plain(event.target)}"
        yield f"{indent}{after(event.time_ms, start_ms)} {plain(event.type)}{key} by {event.service}{to}  {event.id}"
        if event.raw is not None:
            yield f"{indent}  undecodable: {plain(event.raw.why)}"
        for delivery in node.deliveries:
            for line in _delivery_lines(delivery, start_ms):
                yield f"{indent}  {line}"
        for run in begun.pop(run_of(event), ()):
            for line in _run_lines(run, start_ms):
                yield f"{indent}  {line}"
        if not node.deliveries and _ends_here(node, trace):
            yield f"{indent}  nobody handles it"


def saga_lines(saga: Saga) -> Iterator[str]:
    """How far a saga has come, and each of its steps: done, undone, still expected."""
    yield f"saga {saga.state}"
    for step in saga.steps:
        by = f" by {step.undone_by}" if step.undone_by else ""
        why = f": {plain(shortened(step.why))}" if step.why else ""
        yield f"  {step.state:<9}{step.name} [{plain(step.event_type)}]{by}{why}"


def _delivery_lines(delivery: DeliveryView, start_ms: int) -> Iterator[str]:
    times = "attempt" if delivery.attempts == 1 else "attempts"
    facts = [f"{delivery.attempts} {times}", after(delivery.updated_ms, start_ms)]
    if delivery.waits_for:
        facts.append(f"waits for {delivery.waits_for}")
    if delivery.due_ms is not None:
        facts.append(f"due {moment(delivery.due_ms)}")
    if delivery.reason:
        facts.append(plain(delivery.reason))
    if delivery.archived:
        facts.append(f"archived: {plain(delivery.archived)}")
    yield f"-> {delivery.handler} {delivery.status}: {', '.join(facts)}"
    outcomes = [attempt.outcome for attempt in delivery.history]
    for attempt in delivery.history if outcomes != ["completed"] else ():
        error = f": {attempt.error_type}: {shortened(attempt.message)}" if attempt.error_type else ""
        line = f"{after(attempt.at_ms, start_ms)} attempt {attempt.number} {attempt.outcome}{error}"
        yield f"     {plain(line)}"


def _run_lines(run: RunView, start_ms: int) -> Iterator[str]:
    """How a run stands, and what it has recorded."""
    why = run.waiting or run.error
    yield plain(
        f"run of {run.workflow} [{run.key}] {run.state}{f': {shortened(why)}' if why else ''}, "
        f"{after(run.updated_ms, start_ms)}"
    )
    for record in run.journal:
        yield f"   {plain(_record_line(record, start_ms))}"


def _record_line(record: RecordView, start_ms: int) -> str:
    line = f"{after(record.at_ms, start_ms)} {record.kind.value} {record.name} {record.mark}"
    if record.attempts > 1 or record.error_type:
        line += f": {record.attempts} {'attempt' if record.attempts == 1 else 'attempts'}"
    if record.error_type or record.error:
        line += f", {': '.join(filter(None, (record.error_type, shortened(record.error))))}"
    return line


def _ends_here(node: TraceNode, trace: Trace) -> bool:
    return all(other.event.causation_id != node.event.id for other in trace.nodes)


def after(ms: int, start_ms: int) -> str:
    """A moment as seconds since another: ``"+1.250s"``."""
    return f"+{(ms - start_ms) / 1000:.3f}s"
