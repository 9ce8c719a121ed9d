"""An attempt, and what it led to: decided here as a value, applied by the store."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from antiphon.errors import (
    AmbiguousEffect,
    AntiphonError,
    DeadlinePassed,
    InvalidEvent,
    NotAnnotated,
    ProcessDied,
    Reject,
)
from antiphon.model.delivery import DeadLetter, Done, RetryAt, Status, Verdict
from antiphon.model.envelope import Envelope
from antiphon.model.handlers import HandlerSpec
from antiphon.policy import budget as budgets
from antiphon.policy import circuit as circuits
from antiphon.policy.attempts import crash_verdict, decide, expired
from antiphon.policy.fairness import Shares
from antiphon.policy.fingerprint import failure_of
from antiphon.policy.words import describe, span
from antiphon.ports import Clock, LoggedEvent, OpenDelivery, Settled, Store
from antiphon.runtime.answers import refusal

_DONE = Done()


class Attempt(msgspec.Struct, gc=False):
    """One execution of a delivery, about to happen. *number* counts from 1; *lane* is whom its time is charged to."""

    event: LoggedEvent
    number: int
    first_ms: int
    fresh: bool = True
    crashes: int = 0
    suspect: bool = False
    lane: str | None = None
    begun_ms: int = 0

    @property
    def key(self) -> str | None:
        """The key that orders it."""
        return self.event.envelope.key


def again(delivery: OpenDelivery, now_ms: int) -> Attempt:
    """The next attempt of a delivery that has a row."""
    first = now_ms if delivery.first_ms is None else delivery.first_ms
    return Attempt(delivery.event, delivery.attempts + 1, first, False, delivery.crashes, delivery.suspect)


class Judge:
    """Turns outcomes into verdicts for one handler, and remembers how the handler fares as a whole."""

    def __init__(self, spec: HandlerSpec, store: Store, clock: Clock) -> None:
        self._spec = spec
        self._store = store
        self._clock = clock
        self.circuit = circuits.CLOSED
        self.budget = budgets.fresh(store.store_ms())
        self.last_error = ""
        self.shares = Shares()

    def begins(self, attempt: Attempt) -> None:
        """The attempt starts: from now on its time is its lane's."""
        if attempt.lane is not None:
            attempt.begun_ms = self._clock.boot_ms()
            self.shares.begin(attempt.lane)

    def _ends(self, attempt: Attempt) -> None:
        if attempt.lane is not None:
            self.shares.end(attempt.lane, self._clock.boot_ms() - attempt.begun_ms)

    def done(self, attempt: Attempt) -> Settled:
        """The attempt succeeded."""
        self._ends(attempt)
        return Settled(attempt.event, _DONE, attempt.fresh, attempt.number, attempt.first_ms)

    def succeeded(self, count: int) -> None:
        """So many attempts have taken effect: a paused handler resumes, and retries are earned."""
        if count:
            self.circuit = circuits.after_success(self.circuit)
            self.budget = budgets.earn(self.budget, self._store.store_ms(), count)

    def failed(self, attempt: Attempt, error: BaseException) -> Settled:
        """The attempt raised *error*."""
        self._ends(attempt)
        retry, now = self._spec.retry, self._store.store_ms()
        own_fault = isinstance(error, Reject | InvalidEvent | NotAnnotated | AmbiguousEffect)
        burns = own_fault or circuits.burns_attempt(self.circuit)
        verdict: DeadLetter | RetryAt | Done
        if isinstance(error, NotAnnotated):
            verdict = DeadLetter(Status.ERROR, describe(error))
        elif burns:
            verdict = decide(retry, error, attempt.number, attempt.first_ms, now, self._clock.random())
        else:
            verdict = expired(retry, attempt.first_ms, now) or RetryAt(now)
        if not own_fault:
            self.last_error = describe(error)
            self.circuit = circuits.after_failure(self.circuit, attempt.event.seq, now, self._clock.random())
        return Settled(
            attempt.event,
            verdict,
            attempt.fresh,
            attempt.number,
            attempt.first_ms,
            failure_of(error),
            burns,
            answer=self._answer(attempt, verdict),
        )

    def crashed(self, attempt: Attempt) -> Settled | None:
        """The verdict on an event that kept killing its process; None while it may be tried again."""
        verdict = crash_verdict(self._spec.retry, attempt.crashes, self._store.store_ms())
        if not isinstance(verdict, DeadLetter):
            return None
        return self._not_started(attempt, verdict, ProcessDied(verdict.reason, where=self._spec.name))

    def too_late(self, attempt: Attempt) -> Settled | None:
        """The verdict on an event whose deadline has passed; None while it may be started.

        What undoes the work of others is owed, however late it is.
        """
        deadline_ms = attempt.event.envelope.deadline_ms
        if deadline_ms is None or self._spec.compensates is not None:
            return None
        late_ms = self._clock.now_ms() - deadline_ms
        if late_ms <= 0:
            return None
        verdict = DeadLetter(Status.FAILED, f"its deadline passed {span(late_ms)} before it could be started")
        return self._not_started(attempt, verdict, DeadlinePassed(verdict.reason, where=self._spec.name))

    def _not_started(self, attempt: Attempt, verdict: DeadLetter, why: AntiphonError) -> Settled:
        return Settled(
            attempt.event,
            verdict,
            attempt.fresh,
            attempt.number - 1,
            attempt.first_ms,
            failure_of(why),
            crashed=True,
            answer=self._answer(attempt, verdict),
        )

    def _answer(self, attempt: Attempt, verdict: Verdict) -> tuple[Envelope, int] | None:
        """What the requester of a command is told that is set aside."""
        envelope = attempt.event.envelope
        if envelope.target is None or envelope.kind != "command" or not isinstance(verdict, DeadLetter):
            return None
        return refusal(envelope, verdict, self._spec.service, self._clock)

    def admit(self, waiting: Sequence[OpenDelivery], most: int) -> list[Attempt]:
        """The waiting deliveries that may run now, at most so many: retries as far as the budget goes."""
        now = self._store.store_ms()
        left = budgets.allowance(self.budget, now)
        admitted: list[Attempt] = []
        retries = 0
        held: set[str | None] = set()
        for delivery in waiting:
            key = delivery.event.envelope.key
            if len(admitted) == most:
                break
            if key is not None and key in held:
                continue
            if delivery.attempts and not delivery.suspect:
                if retries == left:
                    # It needs a token; what waits behind it needs none, but has to wait for it.
                    held.add(key)
                    continue
                retries += 1
            admitted.append(again(delivery, now))
        if retries:
            self.budget = budgets.spend(self.budget, now, retries)
        return admitted
