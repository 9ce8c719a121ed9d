"""The event processor: moves one handler through its store's log, for as long as it holds the lease."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from antiphon.errors import LeaseLost, RolledBack, StoreError
from antiphon.model.handlers import HandlerSpec
from antiphon.policy import budget as budgets
from antiphon.policy import circuit as circuits
from antiphon.policy import rate as rates
from antiphon.ports import Clock, Lease, OpenDelivery, Store
from antiphon.runtime.attempt import Attempt, Judge, again
from antiphon.runtime.batch import BatchRunner
from antiphon.runtime.invoke import Invoker, SessionOf
from antiphon.runtime.lanes import Lanes
from antiphon.runtime.outside import OutsideRunner
from antiphon.runtime.signals import Slots, Solo, Waker
from antiphon.runtime.transaction import Publisher

log = logging.getLogger("antiphon.worker")

LARGEST_BATCH = 256
_SMALLEST_BATCH = 16
_LONGEST_PAUSE_S = 5.0
# So many events of others' partitions are looked through again at most.
_PASS_OVER = 1_000


class Worker:
    """Runs one handler, or a partition of it. `run` returns when it is stopped or has lost its lease."""

    def __init__(
        self,
        spec: HandlerSpec,
        store: Store,
        clock: Clock,
        publisher: Publisher,
        solo: Solo,
        session_of: SessionOf | None = None,
        slots: Slots | None = None,
    ) -> None:
        self.spec = spec
        self._store = store
        self._clock = clock
        self._solo = solo
        self._types = spec.type_names
        self.judge = Judge(spec, store, clock)
        invoker = Invoker(spec, session_of)
        self._batches = BatchRunner(store, invoker, self.judge, publisher)
        self._slots = slots or Slots(spec.concurrency)
        self._outside = OutsideRunner(store, clock, invoker, self.judge, publisher, solo, self._slots)
        self._lanes = Lanes(store, invoker, self.judge.shares) if spec.fair_by is not None else None
        self._goes_outside = not spec.is_async or spec.has_effects
        self._bucket = rates.bucket(spec.rate) if spec.rate else None
        self._limit = LARGEST_BATCH
        self._waker = Waker(clock)
        self._stopping = False
        self._shown_pause: tuple[int, str] | None = None
        self._busy_since_ms: int | None = None

    def pressed_ms(self, now_ms: int) -> int:
        """For how long it has had work in hand without a pause, in milliseconds of the store's clock."""
        return 0 if self._busy_since_ms is None else now_ms - self._busy_since_ms

    def stop(self) -> None:
        """Claim nothing more; `run` returns when what is in flight has ended."""
        self._stopping = True
        self._waker.wake()

    async def run(self, lease: Lease) -> None:
        """Handle events until stopped. Raises LeaseLost when another worker has taken over."""
        forget = self._store.listen(self._types, self._waker.wake)
        not_any_more = self._slots.listen(self._waker.wake)
        pause = 0.1
        try:
            while not self._stopping:
                self._waker.clear()
                try:
                    worked = await self._turn(lease)
                    pause = 0.1
                except LeaseLost:
                    raise
                except RolledBack as error:
                    # One event undoes its neighbours: from now on each has a transaction of its own.
                    log.warning("%s: %s", self.spec.name, error)
                    self._goes_outside = True
                    continue
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
            not_any_more()
            await self._outside.stop()

    async def _turn(self, lease: Lease) -> bool:
        """One round: due deliveries first, then fresh events. False when there was nothing to do."""
        if self._outside.lost is not None:
            lost, self._outside.lost = self._outside.lost, None
            raise LeaseLost(f"an attempt could not be settled ({lost})", where=self.spec.name)
        await self._show_pause(lease)
        permit, _ = circuits.may_run(self.judge.circuit, self._store.store_ms())
        room = self._room(permit)
        if permit is circuits.Permit.WAIT:
            self._busy_since_ms = None
        if permit is circuits.Permit.WAIT or not room:
            return False
        due = await self._store.read_due(lease, self._limit)
        if permit is circuits.Permit.PROBE:
            return await self._probe(lease, due)
        suspects = [delivery for delivery in due if delivery.suspect]
        if suspects or lease.seq < lease.suspect_seq:
            return await self._suspect(lease, suspects)
        if self._lanes is not None:
            return await self._take_turns(lease, room)
        attempts = self.judge.admit(_first_of_keys(due) if self._goes_outside else due, room)
        if len(attempts) < room:
            # Those that go outside may find their key taken: some more are looked at than can run.
            wanted = 4 * self.spec.concurrency if self._goes_outside else room - len(attempts)
            attempts += await self._fresh(lease, wanted)
        if not attempts:
            self._busy_since_ms = None
            await self._pass_over(lease)
            return False
        if self._busy_since_ms is None:
            self._busy_since_ms = self._store.store_ms()
        async with self._solo.together():
            await self._handle(lease, attempts, room)
        return True

    async def _take_turns(self, lease: Lease, room: int) -> bool:
        """A round of a handler that shares its time: whoever's turn it is, of all who wait."""
        assert self._lanes is not None
        turns, fresh = await self._lanes.next(lease, room)
        lane_of = {delivery.event.seq: lane for delivery, lane in turns}
        due = [delivery for delivery, _ in turns]
        attempts = self.judge.admit(_first_of_keys(due) if self._goes_outside else due, room)
        for attempt in attempts:
            attempt.lane = lane_of[attempt.event.seq]
        now = self._store.store_ms()
        attempts += [Attempt(event, 1, now) for event in fresh]
        if not attempts:
            return False
        async with self._solo.together():
            await self._handle(lease, attempts, room)
        return True

    def _room(self, permit: circuits.Permit) -> int:
        """How many attempts may start now."""
        room = self._limit
        if self._goes_outside:
            # A probe is a single attempt.
            probing = permit is circuits.Permit.PROBE and self._outside.running
            room = 0 if probing else self._outside.free
        if self._bucket is not None:
            room = rates.take(self._bucket, self._store.store_ms(), room)[0]
        return room

    async def _fresh(self, lease: Lease, limit: int) -> list[Attempt]:
        now = self._store.store_ms()
        events = await self._store.read_fresh(lease, self._types, limit)
        return [Attempt(event, 1, now) for event in events]

    async def _pass_over(self, lease: Lease) -> None:
        """Move the cursor of a partition over others' events, so that nobody looks through many of them again."""
        if lease.seen_seq - lease.seq >= _PASS_OVER:
            async with self._store.unit() as unit:
                await unit.settle(lease, (), lease.seen_seq)
            lease.seq = lease.seen_seq

    def _spend(self, started: int) -> None:
        """So many attempts have started, which counts against the handler's rate."""
        if self._bucket is not None:
            _, self._bucket, _ = rates.take(self._bucket, self._store.store_ms(), started)

    async def _handle(self, lease: Lease, attempts: list[Attempt], most: int) -> None:
        if self._goes_outside:
            for attempt in await self._outside.start(lease, attempts, most):
                self._spend(1)
                self.judge.begins(attempt)
                self._outside.spawn(lease, attempt, self._waker.wake)
            return
        try:
            batch = await self._batches.run(lease, attempts)
        except BaseException:
            self._spend(len(attempts))
            raise
        self._spend(batch.started)
        self._limit = max(_SMALLEST_BATCH, min(LARGEST_BATCH, 2 * batch.handled))
        if batch.suspended is not None:
            # It waits for the outside world: from now on its attempts start outside the batch.
            self._goes_outside = True
            attempt, tx, suspended = batch.suspended
            taken = self._slots.take(1)
            try:
                await self._outside.run(lease, attempt, (tx, suspended))
            finally:
                self._slots.give_back(taken)

    async def _probe(self, lease: Lease, due: list[OpenDelivery]) -> bool:
        """The handler is paused: try one delivery, to see whether it works again.

        Suspects take their turn: one that fails whenever it runs would be all that is ever tried.
        """
        now = self._store.store_ms()
        waiting = {delivery.event.seq: delivery for delivery in _first_of_keys(due)}
        fresh = {attempt.event.seq: attempt for attempt in await self._fresh(lease, 1)}
        chosen = circuits.preferred(self.judge.circuit, [*waiting, *fresh])
        if chosen is None:
            return False
        seq = int(chosen)
        delivery = waiting.get(seq)
        if delivery is None and seq <= lease.suspect_seq:
            return await self._suspect(lease, [])
        if delivery is not None and delivery.suspect:
            return await self._suspect(lease, [delivery])
        attempt = fresh[seq] if delivery is None else again(delivery, now)
        async with self._solo.together():
            await self._handle(lease, [attempt], 1)
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
            for recorded in await self._outside.start(lease, [attempt], 1, alone=True):
                self._spend(1)
                await self._outside.run(lease, recorded)
            await self._put_back(lease)
        return True

    async def _put_back(self, lease: Lease) -> None:
        """If a suspect could not be settled, give its row back before anybody else runs in this process: recorded as
        running, it would be blamed for a death that another brings about."""
        pause = 0.1
        while self._outside.lost is not None and not self._stopping:
            try:
                await self._store.release(lease)
            except StoreError as error:
                log.error(
                    "%s waits %.1f s with everybody else, its suspect is not settled: %s", self.spec.name, pause, error
                )
                await self._clock.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE_S)
            else:
                return

    async def _show_pause(self, lease: Lease) -> None:
        """Keep what the console shows in step with the circuit."""
        circuit = self.judge.circuit
        pause = (circuit.probe_ms, self.judge.last_error) if circuit.paused else None
        if pause == self._shown_pause:
            return
        async with self._store.unit() as unit:
            await unit.pause(lease, *(pause or (None, None)))
        if pause and not self._shown_pause:
            log.warning("%s is paused, it fails on everything: %s", self.spec.name, self.judge.last_error)
        elif not pause:
            log.warning("%s has resumed", self.spec.name)
        self._shown_pause = pause

    async def _idle(self, lease: Lease) -> None:
        """Wait for a commit that appends something for us, or for the next moment that matters."""
        if self._outside.lost is not None:
            return
        now = self._store.store_ms()
        permit, when = circuits.may_run(self.judge.circuit, now)
        moment: int | None = None
        if permit is circuits.Permit.WAIT:
            # Fresh events change nothing while it is paused.
            self._waker.clear()
            moment = when
        elif self._room(permit):
            due = await self._store.next_due_ms(lease)
            if due is not None:
                moment = max(due, budgets.next_allowance_ms(self.judge.budget, now))
        elif self._bucket is not None:
            # Out of tokens; if not, the end of an attempt wakes.
            _, _, free_at = rates.take(self._bucket, now, 0)
            moment = free_at if free_at > now else None
        # Never less than a moment: whatever may have been misjudged here, the loop goes on.
        await self._waker.wait(None if moment is None else max(1, moment - now))


def _first_of_keys(due: Sequence[OpenDelivery]) -> list[OpenDelivery]:
    """*due* without those that wait behind another of their key."""
    heads: dict[str | None, OpenDelivery] = {}
    return [
        delivery
        for delivery in due
        if (key := delivery.event.envelope.key) is None or heads.setdefault(key, delivery) is delivery
    ]
