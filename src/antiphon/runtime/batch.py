"""Handles a batch of events in one transaction, with a savepoint per event."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from antiphon.errors import StoreError
from antiphon.model.envelope import Envelope
from antiphon.ports import Lease, LoggedEvent, Settled, Starting, Store, Unit
from antiphon.runtime.attempt import Attempt, Judge
from antiphon.runtime.invoke import Invoker, Suspended
from antiphon.runtime.transaction import Publisher, Transaction

log = logging.getLogger("antiphon.worker")

# A batch takes the writer for about this long, so that nobody else waits much longer.
BATCH_MS = 10
_LOOK_AT_CLOCK_EVERY = 8


@dataclass
class Batch:
    """What a batch has come to so far."""

    results: list[Settled] = field(default_factory=list)
    parked: list[LoggedEvent] = field(default_factory=list)
    blocked: set[str] = field(default_factory=set)
    outgoing: list[tuple[Envelope, int]] = field(default_factory=list)
    upto_seq: int = 0
    succeeded: int = 0
    suspended: tuple[Attempt, Transaction, Suspended] | None = None


class BatchRunner:
    """Runs the attempts of one ``async def`` handler that keeps to the database.

    A handler that awaits something else before it has written anything is handed back as suspended:
    the batch so far commits, the lock goes, and the handler goes on without it. One that has written
    already keeps the lock while it waits, and its author is told.
    """

    def __init__(self, store: Store, invoker: Invoker, judge: Judge, publisher: Publisher) -> None:
        self._store = store
        self._invoker = invoker
        self._judge = judge
        self._publisher = publisher
        self._name = invoker.spec.name
        self._told = False

    async def run(self, lease: Lease, attempts: Sequence[Attempt]) -> Batch:
        """Handle *attempts* (rows first, then fresh ones, in order). Raises StoreError; then nothing was kept."""
        batch = Batch(upto_seq=lease.seq)
        async with self._store.unit() as unit:
            keys = [attempt.key for attempt in attempts if attempt.fresh and attempt.key is not None]
            if keys:
                batch.blocked.update(await unit.open_keys(lease, keys))
            await self._handle_all(unit, attempts, batch)
            await self._write(unit, lease, batch)
        lease.seq = batch.upto_seq
        self._judge.succeeded(batch.succeeded)
        return batch

    async def _handle_all(self, unit: Unit, attempts: Sequence[Attempt], batch: Batch) -> None:
        deadline = self._store.store_ms() + BATCH_MS
        for count, attempt in enumerate(attempts, 1):
            key = attempt.key
            if attempt.fresh:
                if key is not None and key in batch.blocked:
                    batch.parked.append(attempt.event)
                    batch.upto_seq = attempt.event.seq
                    continue
            elif key is not None and key in batch.blocked and self._failed_here(batch, key):
                continue
            await self._handle(unit, attempt, batch)
            if batch.suspended is not None or self._judge.circuit.paused:
                return
            if count % _LOOK_AT_CLOCK_EVERY == 0 and self._store.store_ms() > deadline:
                return

    @staticmethod
    def _failed_here(batch: Batch, key: str) -> bool:
        return any(result.event.envelope.key == key and result.failure for result in batch.results)

    async def _handle(self, unit: Unit, attempt: Attempt, batch: Batch) -> None:
        tx = Transaction(self._store, self._publisher, attempt.event.envelope, unit)
        try:
            suspended = self._invoker.begin(attempt.event, attempt.number, tx)
            if suspended is not None:
                if not tx.wrote:
                    batch.suspended = (attempt, tx, suspended)
                    if attempt.fresh:
                        batch.upto_seq = attempt.event.seq
                    return
                self._tell(suspended)
                self._invoker.publish(tx, await suspended)
        except StoreError:
            raise
        except Exception as error:
            await self._fail(tx, attempt, error, batch)
        else:
            batch.outgoing += tx.outgoing
            batch.results.append(self._judge.done(attempt))
            batch.succeeded += 1
        if attempt.fresh:
            batch.upto_seq = attempt.event.seq

    async def _fail(self, tx: Transaction, attempt: Attempt, error: Exception, batch: Batch) -> None:
        await tx.abandon(error)
        result = self._judge.failed(attempt, error)
        batch.results.append(result)
        if attempt.key is not None:
            batch.blocked.add(attempt.key)
        log.warning("%s failed on %s, attempt %d: %s", self._name, attempt.event.envelope.id, attempt.number, error)

    async def _write(self, unit: Unit, lease: Lease, batch: Batch) -> None:
        await unit.append(batch.outgoing)
        if batch.parked:
            await unit.park(lease, batch.parked)
        await unit.settle(lease, batch.results, batch.upto_seq)
        if batch.suspended is not None:
            attempt = batch.suspended[0]
            await unit.start(lease, [Starting(attempt.event, attempt.number, attempt.first_ms)], batch.upto_seq)

    def _tell(self, suspended: Suspended) -> None:
        if self._told:
            return
        self._told = True
        log.warning(
            "%s awaits something outside the database at %s after it has written: every other writer of %s "
            "waits meanwhile. Await first, write afterwards; then no lock is held while it waits.",
            self._name,
            suspended.place(),
            self._invoker.spec.service,
        )
