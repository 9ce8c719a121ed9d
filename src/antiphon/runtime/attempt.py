"""An attempt, and what it led to: decided here as a value, applied by the store."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from antiphon.errors import InvalidEvent, NotAnnotated, Reject
from antiphon.model.delivery import DeadLetter, Done, RetryAt, Status
from antiphon.model.handlers import HandlerSpec
from antiphon.policy import budget as budgets
from antiphon.policy import circuit as circuits
from antiphon.policy.attempts import crash_verdict, decide, expired
from antiphon.policy.fingerprint import failure_of
from antiphon.policy.words import describe
from antiphon.ports import Clock, LoggedEvent, OpenDelivery, Settled, Store

_DONE = Done()


class Attempt(msgspec.Struct, gc=False):
    """One execution of a delivery, about to happen. *number* counts from 1."""

    event: LoggedEvent
    number: int
    first_ms: int
    fresh: bool = True
    crashes: int = 0
    suspect: bool = False

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

    def done(self, attempt: Attempt) -> Settled:
        """The attempt succeeded."""
        return Settled(attempt.event, _DONE, attempt.fresh, attempt.number, attempt.first_ms)

    def succeeded(self, count: int) -> None:
        """So many attempts have taken effect: a paused handler resumes, and retries are earned."""
        if count:
            self.circuit = circuits.after_success(self.circuit)
            self.budget = budgets.earn(self.budget, self._store.store_ms(), count)

    def failed(self, attempt: Attempt, error: BaseException) -> Settled:
        """The attempt raised *error*."""
        retry, now = self._spec.retry, self._store.store_ms()
        own_fault = isinstance(error, Reject | InvalidEvent | NotAnnotated)
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
            attempt.event, verdict, attempt.fresh, attempt.number, attempt.first_ms, failure_of(error), burns
        )

    def crashed(self, attempt: Attempt) -> Settled | None:
        """The verdict on an event that kept killing its process; None while it may be tried again."""
        verdict = crash_verdict(self._spec.retry, attempt.crashes, self._store.store_ms())
        if not isinstance(verdict, DeadLetter):
            return None
        return Settled(attempt.event, verdict, attempt.fresh, attempt.number, attempt.first_ms, burns=False)

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
