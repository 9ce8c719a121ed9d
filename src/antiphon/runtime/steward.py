"""Looks after one store: takes and renews leases, runs a worker for each, shares fairly with neighbours."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from antiphon.errors import LeaseLost, StoreError
from antiphon.model.handlers import HandlerSpec
from antiphon.ports import Clock, Lease, Store
from antiphon.runtime.worker import Worker

log = logging.getLogger("antiphon.steward")

TICK_S = 1.0
RENEW_EVERY_MS = 5_000


class Steward:
    """Runs the handlers of one store that this process may run."""

    def __init__(
        self,
        store: Store,
        handlers: Sequence[HandlerSpec],
        clock: Clock,
        owner: str,
        worker_for: Callable[[HandlerSpec], Worker],
    ) -> None:
        self._store = store
        self._handlers = {handler.name: handler for handler in handlers}
        self._clock = clock
        self._owner = owner
        self._worker_for = worker_for
        self.workers: dict[str, Worker] = {}
        self._leases: dict[str, Lease] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._renewed_ms = 0
        self._unowned_ticks = 0

    async def run(self) -> None:
        """Run until cancelled. An error of the store is said and waited out."""
        while True:
            try:
                await self.tick()
            except StoreError as error:
                log.error("cannot look after %s: %s", self._owner, error)
            await self._clock.sleep(TICK_S)

    async def tick(self) -> None:
        """One round: upkeep, renew, take what is free, hand over what is more than a fair share."""
        await self._store.look_after()
        now = self._store.store_ms()
        if self._leases and now - self._renewed_ms >= RENEW_EVERY_MS:
            held = await self._store.renew(self._owner)
            self._renewed_ms = now
            for name in self._leases.keys() - held:
                self._tasks[name].cancel()
        share = self._fair_share()
        wanted = [name for name in self._handlers if name not in self._tasks]
        for name in wanted:
            service = self._handlers[name].service
            if self._held_of(service) < share[service]:
                await self._take(name)
        for service, most in share.items():
            if self._held_of(service) > most:
                self._hand_over(service)

    def _fair_share(self) -> dict[str, int]:
        """How many handlers of each service are ours to run, beside the neighbours that run it too."""
        neighbours = self._store.neighbours().values()
        share = {}
        for service in {handler.service for handler in self._handlers.values()}:
            workers = max(1, sum(service in services for services in neighbours))
            count = sum(handler.service == service for handler in self._handlers.values())
            share[service] = -(-count // workers)
        return share

    def _held_of(self, service: str) -> int:
        return sum(self._handlers[name].service == service for name in self._tasks)

    async def _take(self, name: str) -> None:
        lease = await self._store.acquire(name, self._owner)
        if lease is None:
            return
        worker = self._worker_for(self._handlers[name])
        self.workers[name], self._leases[name] = worker, lease
        self._tasks[name] = asyncio.create_task(self._run(worker, lease), name=f"worker {name}")

    def _hand_over(self, service: str) -> None:
        name = next(name for name in self._tasks if self._handlers[name].service == service)
        self.workers[name].stop()

    async def _run(self, worker: Worker, lease: Lease) -> None:
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
                await asyncio.shield(self._store.release(lease))
            except StoreError as error:
                log.error("the lease of %s could not be released, it expires: %s", lease.handler, error)
            self._tasks.pop(lease.handler, None)
            self._leases.pop(lease.handler, None)
            self.workers.pop(lease.handler, None)

    async def stop(self, grace_s: float) -> None:
        """Claim nothing more, let what is in flight end within *grace_s*, release the leases."""
        tasks = list(self._tasks.values())
        for worker in list(self.workers.values()):
            worker.stop()
        if not tasks:
            return
        limit = asyncio.ensure_future(self._cancel_after(grace_s, tasks))
        await asyncio.gather(*tasks, return_exceptions=True)
        limit.cancel()

    async def _cancel_after(self, grace_s: float, tasks: Sequence[asyncio.Task[None]]) -> None:
        await self._clock.sleep(grace_s)
        log.warning("the grace of %g s is over; what still runs is released for the next start", grace_s)
        for task in tasks:
            task.cancel()
