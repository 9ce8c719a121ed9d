"""Handles a batch of events in one transaction, with a savepoint per event, or ahead (`runtime.ahead`)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from antiphon.errors import RolledBack
from antiphon.model.envelope import Envelope
from antiphon.policy.words import describe
from antiphon.ports import Lease, LoggedEvent, Settled, Starting, Store, Unit
from antiphon.runtime.ahead import Ahead, Habits, NotPlain
from antiphon.runtime.attempt import Attempt, Judge
from antiphon.runtime.invoke import Invoker, Suspended, as_failure
from antiphon.runtime.signals import finish
from antiphon.runtime.transaction import Publisher, Transaction

log = logging.getLogger("antiphon.worker")

_LOOK_AT_CLOCK_EVERY = 8
_SIMPLE = {"event", "transaction", "delivery"}


@dataclass
class Batch:
    """What a batch has come to so far."""

    results: list[Settled] = field(default_factory=list)
    plain: int = 0
    parked: list[LoggedEvent] = field(default_factory=list)
    blocked: set[str] = field(default_factory=set)
    outgoing: list[tuple[Envelope, int]] = field(default_factory=list)
    upto_seq: int = 0
    suspended: tuple[Attempt, Transaction, Suspended] | None = None

    @property
    def handled(self) -> int:
        """How many events it has dealt with."""
        return self.plain + len(self.results) + len(self.parked)

    @property
    def succeeded(self) -> int:
        """How many events took effect."""
        return self.plain + sum(result.failure is None for result in self.results)

    @property
    def started(self) -> int:
        """How many attempts it has made."""
        return self.plain + len(self.results) + (self.suspended is not None)

    def give_up(self) -> None:
        """Nothing of it was kept: a handler that waits goes no further."""
        if self.suspended is not None:
            _, tx, handler = self.suspended
            handler.close()
            tx.end()
            tx.resume()


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
        self._habits = Habits()
        # A session flushes when it likes to, and a workflow knows by itself how much it writes at once.
        spec = invoker.spec
        self._is_simple = spec.workflow is None and {kind for _, kind in spec.parameters} <= _SIMPLE

    async def run(self, lease: Lease, attempts: Sequence[Attempt]) -> Batch:
        """Handle *attempts* (rows first, then fresh ones, in order). Raises StoreError, and RolledBack when one of
        them cannot be undone by itself; then nothing was kept."""
        habits = self._habits
        if self._is_simple and habits.trusted and all(each.fresh and each.lane is None for each in attempts):
            try:
                return await self._run(lease, attempts, ahead=True)
            except NotPlain as surprise:
                log.debug("%s: the batch is handled again, with care: %s", self._name, surprise.__cause__)
                if surprise.__cause__ is not None:
                    habits.failed()
        batch = await self._run(lease, attempts, ahead=False)
        if batch.parked or batch.suspended is not None or any(result.failure for result in batch.results):
            habits.failed()
        else:
            habits.succeeded(batch.succeeded)
        return batch

    async def _run(self, lease: Lease, attempts: Sequence[Attempt], *, ahead: bool) -> Batch:
        batch = Batch(upto_seq=lease.seq)
        manager = self._store.unit()
        unit = await manager.__aenter__()
        try:
            keys = (attempt.key for attempt in attempts if attempt.fresh and attempt.key is not None)
            batch.blocked.update(await unit.open_keys(lease, keys))
            if ahead and not batch.blocked and not self._any_too_late(attempts) and unit.hold():
                await self._ahead(unit, batch).handle_all(attempts)
            else:
                await self._handle_all(unit, attempts, batch)
            await self._write(unit, lease, batch)
        except BaseException as error:
            batch.give_up()
            await manager.__aexit__(type(error), error, error.__traceback__)
            raise
        if batch.suspended is None:
            await manager.__aexit__(None, None, None)
        else:
            await self._commit_meanwhile(batch, batch.suspended[2], manager)
        lease.seq = batch.upto_seq
        self._judge.succeeded(batch.succeeded)
        return batch

    @staticmethod
    async def _commit_meanwhile(batch: Batch, handler: Suspended, manager: AbstractAsyncContextManager[Unit]) -> None:
        """Commit while a handler is suspended in this task. A cancellation that comes meanwhile may be the
        handler's own (of its time-out, its task group), so it is handed on to it."""
        durable = False

        async def commit() -> None:
            nonlocal durable
            await manager.__aexit__(None, None, None)
            durable = True

        try:
            await finish(commit())
        except asyncio.CancelledError:
            if not durable:
                batch.give_up()
                raise
            handler.interrupt()
        except BaseException:
            batch.give_up()
            raise

    def _ahead(self, unit: Unit, batch: Batch) -> Ahead:
        return Ahead(
            unit,
            self._store,
            self._invoker,
            self._publisher,
            self._habits,
            lambda tx, attempt: self._succeed(tx, attempt, batch),
            lambda suspended, tx, attempt: self._resume(suspended, tx, attempt, batch),
        )

    def _any_too_late(self, attempts: Sequence[Attempt]) -> bool:
        return any(
            attempt.event.envelope.deadline_ms is not None and self._judge.too_late(attempt) is not None
            for attempt in attempts
        )

    async def _handle_all(self, unit: Unit, attempts: Sequence[Attempt], batch: Batch) -> None:
        deadline = self._store.store_ms() + self._store.batch_ms
        for count, attempt in enumerate(attempts, 1):
            if batch.blocked and self._waits(attempt, batch):
                continue
            if attempt.event.envelope.deadline_ms is not None:
                late = self._judge.too_late(attempt)
                if late is not None:
                    self._set_aside(late, attempt, batch)
                    continue
            if attempt.lane is not None:
                self._judge.begins(attempt)
            tx = Transaction(self._store, self._publisher, attempt.event.envelope, unit)
            try:
                suspended = self._invoker.begin(attempt.event, attempt.number, tx)
                if suspended is not None and unit.busy and await self._invoker.within_limit(suspended.while_busy(unit)):
                    self._invoker.publish(tx, suspended.result)
                    suspended = None
                if suspended is not None and not await self._resume(suspended, tx, attempt, batch):
                    return
            except BaseException as error:
                failure = as_failure(error)
                if failure is None:
                    raise
                await self._fail(tx, attempt, failure, batch)
                if self._judge.circuit.paused:
                    return
            else:
                self._succeed(tx, attempt, batch)
            if count % _LOOK_AT_CLOCK_EVERY == 0 and self._store.store_ms() > deadline:
                return

    @staticmethod
    def _waits(attempt: Attempt, batch: Batch) -> bool:
        """Whether an earlier event of its key is not over. A fresh one is then parked behind it."""
        key = attempt.key
        if key is None or key not in batch.blocked:
            return False
        if attempt.fresh:
            batch.parked.append(attempt.event)
            batch.upto_seq = attempt.event.seq
            return True
        return any(result.event.envelope.key == key and result.failure for result in batch.results)

    async def _resume(self, suspended: Suspended, tx: Transaction, attempt: Attempt, batch: Batch) -> bool:
        """Go on with a handler that awaits something outside; False if it has to go on without the lock."""
        if tx.wrote:
            self._habits.waited()
            self._tell(suspended)
            self._invoker.publish(tx, await self._invoker.within_limit(suspended))
            return True
        await tx.suspend()
        batch.suspended = (attempt, tx, suspended)
        if attempt.fresh:
            batch.upto_seq = attempt.event.seq
        return False

    def _succeed(self, tx: Transaction, attempt: Attempt, batch: Batch) -> None:
        batch.outgoing += tx.outgoing
        tx.end()
        if attempt.fresh:
            batch.plain += 1
            batch.upto_seq = attempt.event.seq
        else:
            batch.results.append(self._judge.done(attempt))

    async def _fail(self, tx: Transaction, attempt: Attempt, error: Exception, batch: Batch) -> None:
        if tx.unmarked:
            raise RolledBack(f"it failed when it had written what only the whole batch can undo: {describe(error)}")
        await tx.abandon(error)
        self._set_aside(self._judge.failed(attempt, error), attempt, batch)
        event_id = attempt.event.envelope.id
        log.warning("%s failed on %s, attempt %d: %s", self._name, event_id, attempt.number, describe(error))

    @staticmethod
    def _set_aside(result: Settled, attempt: Attempt, batch: Batch) -> None:
        batch.results.append(result)
        if attempt.key is not None:
            batch.blocked.add(attempt.key)
        if attempt.fresh:
            batch.upto_seq = attempt.event.seq

    async def _write(self, unit: Unit, lease: Lease, batch: Batch) -> None:
        await unit.append(batch.outgoing)
        if batch.parked:
            await unit.park(lease, batch.parked)
        await unit.settle(lease, batch.results, batch.upto_seq, batch.plain)
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
