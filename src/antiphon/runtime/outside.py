"""Handles events whose handler waits for the outside world, or runs in a thread: no lock is held meanwhile.

Each attempt is recorded as IN_PROGRESS before it starts; several run side by side, never two of one
key. The handler's first write begins a transaction of its own, which also settles the delivery.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from antiphon.errors import StoreError
from antiphon.policy.words import describe
from antiphon.ports import Clock, Lease, LoggedEvent, Settled, Starting, Store
from antiphon.runtime.attempt import Attempt, Judge
from antiphon.runtime.effects import Effects
from antiphon.runtime.invoke import Invoker, Suspended, as_failure
from antiphon.runtime.signals import Slots, Solo
from antiphon.runtime.transaction import Publisher, Transaction

log = logging.getLogger("antiphon.worker")


class OutsideRunner:
    """Runs attempts of one handler outside any transaction, up to its concurrency."""

    def __init__(
        self, store: Store, clock: Clock, invoker: Invoker, judge: Judge, publisher: Publisher, solo: Solo, slots: Slots
    ) -> None:
        self._store = store
        self._clock = clock
        self._invoker = invoker
        self._judge = judge
        self._publisher = publisher
        self._solo = solo
        self._slots = slots
        self._spec = invoker.spec
        self.running: set[asyncio.Task[None]] = set()
        self.lost: BaseException | None = None

    @property
    def free(self) -> int:
        """How many more attempts may start."""
        return self._slots.free

    async def start(
        self, lease: Lease, attempts: Sequence[Attempt], most: int, *, alone: bool = False
    ) -> list[Attempt]:
        """Record up to *most* of *attempts* as running, park what waits for its key; returns the recorded.

        Unless they run *alone*, each has taken a slot, which the end of `spawn` gives back.
        """
        if alone:
            return await self._start(lease, attempts, most, alone=True)
        taken, started = self._slots.take(most), 0
        try:
            starting = await self._start(lease, attempts, taken)
            started = len(starting)
            return starting
        finally:
            self._slots.give_back(taken - started)

    async def _start(
        self, lease: Lease, attempts: Sequence[Attempt], most: int, *, alone: bool = False
    ) -> list[Attempt]:
        starting: list[Attempt] = []
        parked: list[LoggedEvent] = []
        upto = lease.seq
        async with self._store.unit() as unit:
            keys = [attempt.key for attempt in attempts if attempt.fresh and attempt.key is not None]
            blocked: set[str] = set()
            if keys:
                # What is found open now must not end before something is parked behind it: nobody would call that.
                await unit.fence(lease)
                blocked.update(await unit.open_keys(lease, keys))
            for attempt in attempts:
                key = attempt.key
                if attempt.fresh and key is not None and key in blocked:
                    parked.append(attempt.event)
                elif len(starting) < most:
                    starting.append(attempt)
                    if key is not None:
                        blocked.add(key)
                elif attempt.fresh:
                    break
                else:
                    continue
                if attempt.fresh:
                    upto = attempt.event.seq
            if parked:
                await unit.park(lease, parked)
            rows = [Starting(attempt.event, attempt.number, attempt.first_ms, alone) for attempt in starting]
            await unit.start(lease, rows, upto)
        lease.seq = upto
        for attempt in starting:
            attempt.fresh = False
        return starting

    def spawn(self, lease: Lease, attempt: Attempt, finished: Callable[[], None]) -> None:
        """Run a recorded attempt beside others; *finished* is called at its end. The caller runs beside others too."""
        # From here on, not from the task's first step: what is recorded as running must keep out a suspect.
        self._solo.join()
        task = asyncio.ensure_future(self.run(lease, attempt))
        self.running.add(task)
        task.add_done_callback(self.running.discard)
        task.add_done_callback(lambda _: self._solo.leave())
        task.add_done_callback(lambda _: self._slots.give_back())
        task.add_done_callback(lambda _: finished())

    async def run(self, lease: Lease, attempt: Attempt, suspended: tuple[Transaction, Suspended] | None = None) -> None:
        """Run one recorded attempt to its end and settle it.

        If it cannot be settled, *lost* says why: its row stays IN_PROGRESS, so the lease has to be given up,
        and the next owner takes the row up.
        """
        try:
            await self._run(lease, attempt, suspended)
        except Exception as error:
            if not isinstance(error, StoreError):
                log.exception("an attempt of %s could not be settled", self._spec.name)
            self.lost = error

    async def _run(self, lease: Lease, attempt: Attempt, suspended: tuple[Transaction, Suspended] | None) -> None:
        attempt.fresh = False
        if suspended is None:
            late = self._judge.too_late(attempt)
            if late is not None:
                await self.settle(lease, late)
                return
            tx = Transaction(self._store, self._publisher, attempt.event.envelope)
            if self._spec.has_effects:
                tx.effects = Effects(self._clock, lease, attempt.event.envelope.id, tx)
        else:
            tx = suspended[0]
            tx.resume()
        tx.lease = lease
        try:
            result = await self._call(attempt, tx, suspended[1] if suspended else None)
            self._invoker.publish(tx, result)
            unit = await tx.flush()
            if tx.effects is not None:
                await tx.effects.record(unit)
            await unit.settle(lease, [self._judge.done(attempt)], lease.seq)
        except BaseException as error:
            await tx.abandon(error)
            failure = as_failure(error)
            if failure is None:
                raise
            await self._settle_failure(lease, attempt, failure, tx.effects)
        else:
            await tx.commit()
            self._judge.succeeded(1)

    async def _call(self, attempt: Attempt, tx: Transaction, suspended: Suspended | None) -> Any:
        call: Awaitable[Any]
        if suspended is not None:
            call = suspended
        elif self._spec.is_async:
            call = self._invoker.call(attempt.event, attempt.number, tx)
        else:
            call = self._clock.run_blocking(self._invoker.blocking(attempt.event, attempt.number, tx))
        return await self._invoker.within_limit(call, tx)

    async def _settle_failure(self, lease: Lease, attempt: Attempt, error: Exception, effects: Effects | None) -> None:
        event_id = attempt.event.envelope.id
        log.warning("%s failed on %s, attempt %d: %s", self._spec.name, event_id, attempt.number, describe(error))
        await self.settle(lease, self._judge.failed(attempt, error), effects)

    async def settle(self, lease: Lease, result: Settled, effects: Effects | None = None) -> None:
        """Apply one verdict in a transaction of its own, with the outcomes of what the attempt called."""
        async with self._store.unit() as unit:
            if effects is not None:
                await effects.record(unit)
            await unit.settle(lease, [result], lease.seq)

    async def stop(self) -> None:
        """Cancel what still runs; its rows stay IN_PROGRESS until the lease is released."""
        tasks = list(self.running)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
