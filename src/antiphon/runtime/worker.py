"""The event processor: moves one handler through its store's log, for as long as it holds the lease."""

from __future__ import annotations

import asyncio
import logging

from antiphon.errors import LeaseLost, StoreError
from antiphon.model.handlers import HandlerSpec
from antiphon.policy import budget as budgets
from antiphon.policy import circuit as circuits
from antiphon.policy import rate as rates
from antiphon.ports import Clock, Lease, OpenDelivery, Store
from antiphon.runtime.attempt import Attempt, Judge, again
from antiphon.runtime.batch import BatchRunner
from antiphon.runtime.invoke import Invoker, SessionOf
from antiphon.runtime.outside import OutsideRunner
from antiphon.runtime.signals import Solo, Waker
from antiphon.runtime.transaction import Publisher

log = logging.getLogger("antiphon.worker")

LARGEST_BATCH = 256
_SMALLEST_BATCH = 16
_LONGEST_PAUSE_S = 5.0


class Worker:
    """Runs one handler. `run` returns when it is stopped or has lost its lease."""

    def __init__(
        self,
        spec: HandlerSpec,
        store: Store,
        clock: Clock,
        publisher: Publisher,
        solo: Solo,
        session_of: SessionOf | None = None,
    ) -> None:
        self.spec = spec
        self._store = store
        self._clock = clock
        self._solo = solo
        self._types = spec.type_names
        self.judge = Judge(spec, store, clock)
        invoker = Invoker(spec, session_of)
        self._batches = BatchRunner(store, invoker, self.judge, publisher)
        self._outside = OutsideRunner(store, clock, invoker, self.judge, publisher)
        self._goes_outside = not spec.is_async
        self._bucket = rates.bucket(spec.rate) if spec.rate else None
        self._limit = LARGEST_BATCH
        self._waker = Waker(clock)
        self._stopping = False
        self._shown_pause = False

    def stop(self) -> None:
        """Claim nothing more; `run` returns when what is in flight has ended."""
        self._stopping = True
        self._waker.wake()

    async def run(self, lease: Lease) -> None:
        """Handle events until stopped. Raises LeaseLost when another worker has taken over."""
        forget = self._store.listen(self._types, self._waker.wake)
        pause = 0.1
        try:
            while not self._stopping:
                self._waker.clear()
                try:
                    worked = await self._turn(lease)
                    pause = 0.1
                except LeaseLost:
                    raise
                except StoreError as error:
                    # Our own trouble, not the events': nothing is settled, no attempt is burnt.
                    log.error("%s waits %.1f s: %s", self.spec.name, pause, error)
                    await self._clock.sleep(pause)
                    pause = min(pause * 2, _LONGEST_PAUSE_S)
                    continue
                if not worked and not self._stopping:
                    await self._idle(lease)
            await asyncio.gather(*self._outside.running, return_exceptions=True)
        finally:
            forget()
            await self._outside.stop()

    async def _turn(self, lease: Lease) -> bool:
        """One round: due deliveries first, then fresh events. False when there was nothing to do."""
        if self._outside.lost is not None:
            lost, self._outside.lost = self._outside.lost, None
            raise LeaseLost(f"an attempt could not be settled ({lost})", where=self.spec.name)
        await self._show_pause(lease)
        now = self._store.store_ms()
        permit, _ = circuits.may_run(self.judge.circuit, now)
        if permit is circuits.Permit.WAIT or (self._goes_outside and not self._outside.free):
            return False
        due = await self._store.read_due(lease, self._limit)
        suspects = [delivery for delivery in due if delivery.suspect]
        if suspects or lease.seq < lease.suspect_seq:
            return await self._suspect(lease, suspects)
        if permit is circuits.Permit.PROBE:
            return await self._probe(lease, due)
        attempts = self.judge.admit(due)
        if len(attempts) < self._limit:
            attempts += await self._fresh(lease, self._limit - len(attempts))
        attempts = self._within_rate(attempts)
        if not attempts:
            return False
        async with self._solo.together():
            await self._handle(lease, attempts)
        return True

    async def _fresh(self, lease: Lease, limit: int) -> list[Attempt]:
        now = self._store.store_ms()
        events = await self._store.read_fresh(lease, self._types, limit)
        return [Attempt(event, 1, now) for event in events]

    def _within_rate(self, attempts: list[Attempt]) -> list[Attempt]:
        if self._bucket is None or not attempts:
            return attempts
        granted, self._bucket, _ = rates.take(self._bucket, self._store.store_ms(), len(attempts))
        return attempts[:granted]

    async def _handle(self, lease: Lease, attempts: list[Attempt]) -> None:
        if self._goes_outside:
            await self._start_outside(lease, attempts)
            return
        batch = await self._batches.run(lease, attempts)
        handled = len(batch.results) + len(batch.parked)
        self._limit = max(_SMALLEST_BATCH, min(LARGEST_BATCH, 2 * handled))
        if batch.suspended is not None:
            # It waits for the outside world: from now on its attempts start outside the batch.
            self._goes_outside = True
            attempt, tx, suspended = batch.suspended
            await self._outside.run(lease, attempt, (tx, suspended))

    async def _start_outside(self, lease: Lease, attempts: list[Attempt]) -> None:
        heads: dict[str | None, Attempt] = {}
        rows = [attempt for attempt in attempts if not attempt.fresh]
        first_of_key = [a for a in rows if a.key is None or heads.setdefault(a.key, a) is a]
        fresh = [attempt for attempt in attempts if attempt.fresh]
        wanted = [*first_of_key, *fresh[: 4 * self.spec.concurrency]]
        for attempt in await self._outside.start(lease, wanted):
            self._outside.spawn(lease, attempt, self._waker.wake)

    async def _probe(self, lease: Lease, due: list[OpenDelivery]) -> bool:
        """The handler is paused: try one delivery, to see whether it works again."""
        now = self._store.store_ms()
        candidates = {delivery.event.seq: again(delivery, now) for delivery in due}
        for attempt in await self._fresh(lease, 1):
            candidates.setdefault(attempt.event.seq, attempt)
        chosen = circuits.preferred(self.judge.circuit, candidates)
        if chosen is None:
            return False
        async with self._solo.together():
            await self._handle(lease, [candidates[int(chosen)]])
        return True

    async def _suspect(self, lease: Lease, suspects: list[OpenDelivery]) -> bool:
        """Something killed its process: run one event alone, recorded before it starts."""
        now = self._store.store_ms()
        attempts = [again(delivery, now) for delivery in suspects[:1]] or await self._fresh(lease, 1)
        if not attempts or (attempts[0].event.seq > lease.suspect_seq and not suspects):
            lease.suspect_seq = lease.seq
            return True
        attempt = attempts[0]
        verdict = self.judge.crashed(attempt) if attempt.crashes else None
        if verdict is not None:
            await self._outside.settle(lease, verdict)
            return True
        async with self._solo.alone():
            for recorded in await self._outside.start(lease, [attempt], alone=True):
                await self._outside.run(lease, recorded)
        return True

    async def _show_pause(self, lease: Lease) -> None:
        """Keep what the console shows in step with the circuit."""
        circuit = self.judge.circuit
        if circuit.paused or self._shown_pause:
            until = circuit.probe_ms if circuit.paused else None
            async with self._store.unit() as unit:
                await unit.pause(lease, until, self.judge.last_error if circuit.paused else None)
        if circuit.paused and not self._shown_pause:
            log.warning("%s is paused, it fails on everything: %s", self.spec.name, self.judge.last_error)
        elif self._shown_pause and not circuit.paused:
            log.warning("%s has resumed", self.spec.name)
        self._shown_pause = circuit.paused

    async def _idle(self, lease: Lease) -> None:
        """Wait for a commit that appends something for us, or for the next moment that matters."""
        now = self._store.store_ms()
        moments = []
        permit, when = circuits.may_run(self.judge.circuit, now)
        if permit is circuits.Permit.WAIT:
            # Fresh events change nothing while it is paused.
            self._waker.clear()
            moments.append(when)
        else:
            due = await self._store.next_due_ms(lease)
            if due is not None:
                moments.append(max(due, budgets.next_allowance_ms(self.judge.budget, now)))
            if self._bucket is not None:
                _, _, free_at = rates.take(self._bucket, now, 0)
                if free_at > now:
                    moments.append(free_at)
        if self._goes_outside and not self._outside.free:
            moments.clear()
        await self._waker.wait(min(moments) - now if moments else None)
