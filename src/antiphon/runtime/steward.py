"""Looks after one store: takes and renews leases, runs a worker for each, shares fairly with neighbours."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence

from antiphon.errors import LeaseLost, StoreError
from antiphon.model.handlers import HandlerSpec
from antiphon.policy.sharing import can_be_split, share, wanted_partitions
from antiphon.ports import Clock, Lease, Partition, Store
from antiphon.runtime.channels import ChannelWorker
from antiphon.runtime.signals import finish
from antiphon.runtime.worker import Worker

log = logging.getLogger("antiphon.steward")

TICK_S = 1.0
RENEW_EVERY_MS = 5_000
LEFT_OVER_TICKS = 3
#: A neighbour that did not take its own is offered it again after so many rounds, each time after twice as many.
_OFFER_AGAIN_TICKS, _OFFER_SELDOM_TICKS = 60, 1_920
#: A handler that has not been idle for so long is divided, if there are more workers than one.
PRESSED_MS = 2_000


class Steward:
    """Runs the handlers of one store that this process may run, or its share of their partitions."""

    def __init__(
        self,
        store: Store,
        handlers: Sequence[HandlerSpec],
        clock: Clock,
        owner: str,
        worker_for: Callable[[HandlerSpec], Worker | ChannelWorker],
        pressed_ms: int = PRESSED_MS,
    ) -> None:
        self._store = store
        self._handlers = {handler.name: handler for handler in handlers}
        self._clock = clock
        self._owner = owner
        self._worker_for = worker_for
        self._pressed_ms = pressed_ms
        #: By the names of their partitions, as all that follows.
        self.workers: dict[str, Worker | ChannelWorker] = {}
        self._leases: dict[str, Lease] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._to_split: dict[str, int] = {}
        self._renewed_ms = 0
        self._stopping = False
        self._ticking = asyncio.Lock()
        self._neighbours: frozenset[str] = frozenset()
        self._waited: dict[str, int] = {}
        self._left_over: dict[str, int] = {}
        self._offered: dict[str, int] = {}

    async def run(self) -> None:
        """Run until stopped or cancelled. An error of the store is said and waited out."""
        while not self._stopping:
            await self._round()
            await self._clock.idle(TICK_S)

    async def _round(self) -> None:
        try:
            async with self._ticking:
                if not self._stopping:
                    await self.tick()
        except StoreError as error:
            log.error("cannot look after %s: %s", self._owner, error)

    async def tick(self) -> None:
        """One round: renew, upkeep, take what is free, hand over more than a fair share, split what is pressed."""
        await self._renew()
        await self._store.look_after()
        partitions = [each for each in await self._store.partitions() if each.handler in self._handlers]
        self._offer_again()
        shares = self._shares(partitions)
        for each in partitions:
            if each.name in self._tasks or self._stopping or not self._looks_free(each):
                continue
            lot = self._lot(each)
            if len(self._own(lot, partitions)) < shares[lot]:
                await self._take(each)
            else:
                await self._take_left_over(each)
        for lot, most in shares.items():
            own = self._own(lot, partitions)
            # Who is told to stop comes first the next time too: nobody is told in place of one that is not done yet.
            for name in own[: max(0, len(own) - most)]:
                self.workers[name].stop()
        self._split_pressed()

    async def _renew(self) -> None:
        now = self._store.store_ms()
        if self._leases and now - self._renewed_ms >= RENEW_EVERY_MS:
            held = await self._store.renew(self._owner)
            self._renewed_ms = now
            for name in self._leases:
                if name not in held:
                    self._tasks[name].cancel()

    # ------------------------------------------------------------------ shares

    def _lot(self, partition: Partition) -> str:
        """What is shared out together: the partitions of a handler, or of a service the handlers that have only one."""
        handler = self._handlers[partition.handler]
        return handler.name if partition.parts > 1 else handler.service

    def _workers_of(self, service: str) -> list[str]:
        """Who runs a service, this process included, in an order that is the same for all of them."""
        running = {owner for owner, services in self._store.neighbours().items() if service in services}
        return sorted(running | {self._owner})

    def _shares(self, partitions: Sequence[Partition]) -> dict[str, int]:
        """How many partitions of each lot are ours to run, beside the neighbours that run the service too."""
        neighbours = self._store.neighbours()
        if neighbours.keys() != self._neighbours:
            self._neighbours = frozenset(neighbours)
            self._left_over.clear()
            self._waited.clear()
            self._offered.clear()
        sizes = Counter(map(self._lot, partitions))
        shares: dict[str, int] = {}
        dealt: Counter[str] = Counter()
        for each in partitions:
            lot = self._lot(each)
            if lot in shares:
                continue
            service = self._handlers[each.handler].service
            workers = self._workers_of(service)
            if each.parts > 1:
                # As cards are dealt: who has one more of this handler has none more of the next.
                shares[lot] = share(sizes[lot], len(workers), workers.index(self._owner) - dealt[service])
                dealt[service] += sizes[lot]
            else:
                shares[lot] = -(-sizes[lot] // len(workers))
        return shares

    def _own(self, lot: str, partitions: Sequence[Partition]) -> list[str]:
        """Those of a lot that run here as part of our share."""
        return [
            each.name
            for each in partitions
            if each.name in self._tasks and each.name not in self._left_over and self._lot(each) == lot
        ]

    def _looks_free(self, partition: Partition) -> bool:
        """Whether it is worth while to ask for its lease."""
        return (
            partition.owner in (None, self._owner)
            or partition.owner not in self._store.neighbours()
            or partition.lease_until_ms <= self._store.store_ms()
        )

    async def _take(self, partition: Partition) -> bool:
        lease = await self._store.acquire(partition.name, self._owner)
        if lease is None:
            return False
        name = lease.name
        worker = self._worker_for(self._handlers[lease.handler])
        if self._stopping:
            worker.stop()  # nobody would end what it began after the grace: it only gives the lease back
        self.workers[name], self._leases[name] = worker, lease
        self._tasks[name] = asyncio.create_task(self._run(worker, lease), name=f"worker {name}")
        return True

    async def _take_left_over(self, partition: Partition) -> None:
        """Beyond our share, but nobody has taken it for some rounds: the neighbour's code has no such handler, or the
        neighbour hangs."""
        name = partition.name
        self._waited[name] = self._waited.get(name, 0) + 1
        if self._waited[name] > LEFT_OVER_TICKS:
            del self._waited[name]
            if await self._take(partition):
                times = self._offered[name] = self._offered.get(name, 0) + 1
                self._left_over[name] = min(_OFFER_AGAIN_TICKS << times - 1, _OFFER_SELDOM_TICKS)

    def _offer_again(self) -> None:
        """What was left over counts as ours after a while, and so is handed over: whoever hung may be back."""
        for name in list(self._left_over):
            self._left_over[name] -= 1
            if self._left_over[name] <= 0:
                del self._left_over[name]

    def _split_pressed(self) -> None:
        """Have those partitions of ours divided that have had no rest, if there are workers to share them with."""
        now = self._store.store_ms()
        for name, lease in self._leases.items():
            worker, handler = self.workers[name], self._handlers[lease.handler]
            if not isinstance(worker, Worker) or name in self._to_split or not can_be_split(handler):
                continue
            wanted = wanted_partitions(len(self._workers_of(handler.service)))
            if lease.parts < wanted and worker.pressed_ms(now) >= self._pressed_ms:
                self._to_split[name] = wanted
                worker.stop()

    # ------------------------------------------------------------------ one worker

    async def _run(self, worker: Worker | ChannelWorker, lease: Lease) -> None:
        """Run the worker; release its lease unless somebody else has it."""
        ended = False
        try:
            await worker.run(lease)
            ended = True
        except LeaseLost as error:
            log.warning("%s", error)
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("the worker of %s broke; it is started again", lease.name)
        finally:
            parts = self._to_split.pop(lease.name, 0) if ended else 0
            try:
                await finish(self._give_back(lease, parts))
            except StoreError as error:
                log.error("the lease of %s could not be released: %s", lease.name, error)
            finally:
                for known in (self._tasks, self._leases, self.workers, self._left_over, self._to_split):
                    known.pop(lease.name, None)
        if parts:
            # Whoever has had it all goes on with its share at once.
            await self._round()

    async def _give_back(self, lease: Lease, parts: int) -> None:
        """Release a lease, or divide what it is for into *parts* and release these."""
        if parts and not self._stopping:
            try:
                await self._store.split(lease, parts)
            except LeaseLost as error:
                log.warning("%s", error)
            else:
                log.info("%s is divided among the workers, as some of %d partitions", lease.name, parts)
        else:
            await self._store.release(lease)

    async def stop(self, grace_s: float) -> None:
        """Claim nothing more, let what is in flight end within *grace_s*, release the leases."""
        self._stopping = True
        self._stop_workers()
        limit = asyncio.ensure_future(self._cancel_after(grace_s))
        async with self._ticking:
            # Cut short, a round could take a lease and never give it back.
            self._stop_workers()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        limit.cancel()

    def _stop_workers(self) -> None:
        for worker in list(self.workers.values()):
            worker.stop()

    async def _cancel_after(self, grace_s: float) -> None:
        await self._clock.sleep(grace_s)
        if self._tasks:
            log.warning("the grace of %g s is over; what still runs is released for the next start", grace_s)
        for task in list(self._tasks.values()):
            task.cancel()
