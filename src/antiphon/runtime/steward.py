"""Looks after one store: takes and renews leases, runs a worker for each, shares fairly with neighbours."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from antiphon.errors import LeaseLost, StoreError
from antiphon.model.handlers import HandlerSpec
from antiphon.ports import Clock, Lease, Store
from antiphon.runtime.channels import ChannelWorker
from antiphon.runtime.signals import finish
from antiphon.runtime.worker import Worker

log = logging.getLogger("antiphon.steward")

TICK_S = 1.0
RENEW_EVERY_MS = 5_000
LEFT_OVER_TICKS = 3


class Steward:
    """Runs the handlers of one store that this process may run."""

    def __init__(
        self,
        store: Store,
        handlers: Sequence[HandlerSpec],
        clock: Clock,
        owner: str,
        worker_for: Callable[[HandlerSpec], Worker | ChannelWorker],
    ) -> None:
        self._store = store
        self._handlers = {handler.name: handler for handler in handlers}
        self._clock = clock
        self._owner = owner
        self._worker_for = worker_for
        self.workers: dict[str, Worker | ChannelWorker] = {}
        self._leases: dict[str, Lease] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._renewed_ms = 0
        self._stopping = False
        self._ticking = asyncio.Lock()
        self._neighbours: frozenset[str] = frozenset()
        self._waited: dict[str, int] = {}
        self._left_over: set[str] = set()

    async def run(self) -> None:
        """Run until stopped or cancelled. An error of the store is said and waited out."""
        while not self._stopping:
            try:
                async with self._ticking:
                    await self.tick()
            except StoreError as error:
                log.error("cannot look after %s: %s", self._owner, error)
            await self._clock.idle(TICK_S)

    async def tick(self) -> None:
        """One round: renew, upkeep, take what is free, hand over what is more than a fair share."""
        await self._renew()
        await self._store.look_after()
        share = self._fair_share()
        for name, handler in self._handlers.items():
            if name in self._tasks or self._stopping:
                continue
            if self._held_of(handler.service) < share[handler.service]:
                await self._take(name)
            else:
                await self._take_left_over(name)
        for service, most in share.items():
            if self._held_of(service) > most:
                self._hand_over(service)

    async def _renew(self) -> None:
        now = self._store.store_ms()
        if self._leases and now - self._renewed_ms >= RENEW_EVERY_MS:
            held = await self._store.renew(self._owner)
            self._renewed_ms = now
            for name in self._leases:
                if name not in held:
                    self._tasks[name].cancel()

    def _fair_share(self) -> dict[str, int]:
        """How many handlers of each service are ours to run, beside the neighbours that run it too."""
        neighbours = self._store.neighbours()
        if neighbours.keys() != self._neighbours:
            self._neighbours = frozenset(neighbours)
            self._left_over.clear()
            self._waited.clear()
        share = {}
        for service in dict.fromkeys(handler.service for handler in self._handlers.values()):
            workers = max(1, sum(service in services for services in neighbours.values()))
            count = sum(handler.service == service for handler in self._handlers.values())
            share[service] = -(-count // workers)
        return share

    def _held_of(self, service: str) -> int:
        return sum(self._handlers[name].service == service for name in self._tasks if name not in self._left_over)

    async def _take(self, name: str) -> bool:
        lease = await self._store.acquire(name, self._owner)
        if lease is None:
            return False
        worker = self._worker_for(self._handlers[name])
        if self._stopping:
            worker.stop()  # nobody would end what it began after the grace: it only gives the lease back
        self.workers[name], self._leases[name] = worker, lease
        self._tasks[name] = asyncio.create_task(self._run(worker, lease), name=f"worker {name}")
        return True

    async def _take_left_over(self, name: str) -> None:
        """Beyond our share, but nobody has taken it for some rounds: the neighbour's code has no such handler."""
        self._waited[name] = self._waited.get(name, 0) + 1
        if self._waited[name] > LEFT_OVER_TICKS:
            del self._waited[name]
            if await self._take(name):
                self._left_over.add(name)

    def _hand_over(self, service: str) -> None:
        own = (name for name in self._tasks if name not in self._left_over)
        name = next(name for name in own if self._handlers[name].service == service)
        self.workers[name].stop()

    async def _run(self, worker: Worker | ChannelWorker, lease: Lease) -> None:
        """Run the worker; release its lease unless somebody else has it."""
        try:
            await worker.run(lease)
        except LeaseLost as error:
            log.warning("%s", error)
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("the worker of %s broke; it is started again", lease.handler)
        finally:
            try:
                await finish(self._store.release(lease))
            except StoreError as error:
                log.error("the lease of %s could not be released: %s", lease.handler, error)
            finally:
                self._tasks.pop(lease.handler, None)
                self._leases.pop(lease.handler, None)
                self.workers.pop(lease.handler, None)
                self._left_over.discard(lease.handler)

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
