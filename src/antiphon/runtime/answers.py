"""What a service says of a command beside its handler's own reply: that it was refused, or not answered in time."""

from __future__ import annotations

import msgspec

from antiphon.model.commands import Refused, TimedOut
from antiphon.model.delivery import DeadLetter
from antiphon.model.envelope import Envelope
from antiphon.model.events import event_type_of
from antiphon.ports import INTERNAL, PUBLISHED, TIMEOUT_OF, Clock, Timer


def timeout_timer(command: Envelope, due_ms: int) -> Timer:
    """A timer that answers *command* with a `TimedOut` at *due_ms* (store)."""
    answer = timed_out(command, command.time_ms)
    return Timer(answer.id, due_ms, "store", None, answer, INTERNAL)


def timed_out(command: Envelope, time_ms: int) -> Envelope:
    """The answer that *command* has when nobody else has given one in time."""
    outcome = TimedOut(request_id=command.id, command=command.type)
    return _answer(command, outcome, f"{TIMEOUT_OF}{command.id}", command.service, time_ms)


def refusal(command: Envelope, verdict: DeadLetter, service: str, clock: Clock) -> tuple[Envelope, int]:
    """The answer, with its origin, to a command that *service* has set aside."""
    outcome = Refused(request_id=command.id, command=command.type, status=verdict.status, reason=verdict.reason)
    return _answer(command, outcome, clock.new_id(), service, clock.now_ms()), PUBLISHED


def as_reply(envelope: Envelope, command: Envelope) -> Envelope:
    """*envelope* as the answer to *command*: it goes back to the requester, and no deadline with it."""
    return msgspec.structs.replace(
        envelope,
        target=command.service,
        request_id=command.id,
        correlation_id=command.correlation_id,
        deadline_ms=None,
    )


def _answer(command: Envelope, outcome: Refused | TimedOut, event_id: str, service: str, time_ms: int) -> Envelope:
    event_type = event_type_of(outcome)
    return Envelope(
        event_id,
        event_type.name,
        event_type.version,
        command.key,
        service,
        time_ms,
        event_type.encode(outcome),
        command.correlation_id,
        command.id,
        command.traceparent,
        command.service,
        command.id,
    )
