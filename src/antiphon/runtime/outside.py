"""Handles events whose handler waits for the outside world, or runs in a thread: no lock is held meanwhile.

Each attempt is recorded as IN_PROGRESS before it starts; several run side by side, never two of one
key. The handler's first write begins a transaction of its own, which also settles the delivery.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from typing import Any

from antiphon.errors import HandlerTimeout, StoreError
from antiphon.model.retry import minutes
from antiphon.ports import Clock, Lease, LoggedEvent, Settled, Starting, Store
from antiphon.runtime.attempt import Attempt, Judge
from antiphon.runtime.invoke import Invoker, Suspended
from antiphon.runtime.transaction import Publisher, Transaction

log = logging.getLogger("antiphon.worker")

DEFAULT_TIMEOUT = minutes(1)


class OutsideRunner:
    """Runs attempts of one handler outside any transaction, up to its concurrency."""

    def __init__(self, store: Store, clock: Clock, invoker: Invoker, judge: Judge, publisher: Publisher) -> None:
        self._store = store
        self._clock = clock
        self._invoker = invoker
        self._judge = judge
        self._publisher = publisher
        self._spec = invoker.spec
        self._timeout = (self._spec.timeout or DEFAULT_TIMEOUT).total_seconds()
        self.running: set[asyncio.Task[None]] = set()
        self.lost: BaseException | None = None

    @property
    def free(self) -> int:
        """How many more attempts may start."""
        return max(0, self._spec.concurrency - len(self.running))

    async def start(self, lease: Lease, attempts: Sequence[Attempt], *, alone: bool = False) -> list[Attempt]:
        """Record as many of *attempts* as may run now, park what waits for its key; returns the recorded."""
        starting: list[Attempt] = []
        parked: list[LoggedEvent] = []
        upto = lease.seq
        async with self._store.unit() as unit:
            keys = [attempt.key for attempt in attempts if attempt.fresh and attempt.key is not None]
            blocked = set(await unit.open_keys(lease, keys)) if keys else set()
            for attempt in attempts:
                key = attempt.key
                if attempt.fresh and key is not None and key in blocked:
                    parked.append(attempt.event)
                elif len(starting) < (1 if alone else self.free):
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

    def spawn(self, lease: Lease, attempt: Attempt, finished: Any) -> None:
        """Run a recorded attempt beside others; *finished* is called at its end."""
        task = asyncio.ensure_future(self._guarded(lease, attempt))
        self.running.add(task)
        task.add_done_callback(self.running.discard)
        task.add_done_callback(lambda _: finished())

    async def _guarded(self, lease: Lease, attempt: Attempt) -> None:
        try:
            await self.run(lease, attempt)
        except StoreError as error:
            # Not settled: the row stays IN_PROGRESS, and the next owner of the lease takes it up.
            self.lost = error

    async def run(self, lease: Lease, attempt: Attempt, suspended: tuple[Transaction, Suspended] | None = None) -> None:
        """Run one recorded attempt to its end and settle it. Raises StoreError, LeaseLost."""
        attempt.fresh = False
        if suspended is None:
            tx = Transaction(self._store, self._publisher, attempt.event.envelope)
        else:
            tx = suspended[0]
            tx.detach()
        try:
            result = await self._call(attempt, tx, suspended[1] if suspended else None)
            self._invoker.publish(tx, result)
            unit = await tx.flush()
            await unit.settle(lease, [self._judge.done(attempt)], lease.seq)
        except StoreError as error:
            await tx.abandon(error)
            raise
        except Exception as error:  # noqa: BLE001  whatever a handler raises is its failure
            await tx.abandon(error)
            await self._settle_failure(lease, attempt, error)
        except BaseException as error:
            await tx.abandon(error)
            raise
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
        try:
            async with asyncio.timeout(self._timeout) as limit:
                return await call
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise HandlerTimeout(
                f"did not end within {self._timeout:g} s", where=self._spec.name, mend="Raise its timeout="
            ) from error

    async def _settle_failure(self, lease: Lease, attempt: Attempt, error: Exception) -> None:
        event_id = attempt.event.envelope.id
        log.warning("%s failed on %s, attempt %d: %s", self._spec.name, event_id, attempt.number, error)
        await self.settle(lease, self._judge.failed(attempt, error))

    async def settle(self, lease: Lease, result: Settled) -> None:
        """Apply one verdict in a transaction of its own."""
        async with self._store.unit() as unit:
            await unit.settle(lease, [result], lease.seq)

    async def stop(self) -> None:
        """Cancel what still runs; its rows stay IN_PROGRESS until the lease is released."""
        tasks = list(self.running)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
