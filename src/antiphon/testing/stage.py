"""The processes of a world: each service runs in one of its own, on its real store, with its real gateway."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antiphon.errors import AntiphonError
from antiphon.model.handlers import ServiceSpec
from antiphon.model.retry import days
from antiphon.runtime.runtime import Runtime
from antiphon.runtime.transaction import Transaction
from antiphon.store.sqlite.store import SqliteStore
from antiphon.testing.clock import VirtualClock
from antiphon.testing.process import Process

if TYPE_CHECKING:
    import httpx

    from antiphon.app import App

_RAM_DISK = Path("/dev/shm")  # noqa: S108  a private folder is made in it
GRACE_S = 1.0
# A process that does not stop in so many real seconds is killed.
_PATIENCE_S = 5.0
# What is handled is not pruned: a test looks at all that has happened.
_KEEP = days(36_500)


def temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """A new folder, on a RAM disk if this machine has one: there an ``fsync`` costs nothing."""
    has_ram_disk = _RAM_DISK.is_dir() and os.access(_RAM_DISK, os.W_OK)
    return tempfile.TemporaryDirectory(prefix="antiphon-", dir=_RAM_DISK if has_ram_disk else None)


class ServiceProcess:
    """One service of an app in a process of its own, as ``antiphon run --services`` runs it."""

    def __init__(self, app: App, specs: Sequence[ServiceSpec], service: str, data: Path, clock: VirtualClock) -> None:
        self.service = service
        self.process = Process(service)
        self._app = app
        self._clock = clock
        self.runtime = Runtime(
            app.name,
            specs,
            data=data,
            own_stores=app.own_stores,
            services=[service],
            clock=clock,
            retention=_KEEP,
            max_payload=app.max_payload,
        )

    async def start(self) -> None:
        """Run. Raises StoreError."""
        await self.process.run(self.runtime.start())

    async def stop(self) -> None:
        """Stop as at a SIGTERM; what does not end is killed. Its grace is `GRACE_S` of virtual time."""
        stopping = asyncio.ensure_future(self.process.run(self.runtime.stop(GRACE_S)))
        await asyncio.wait({stopping}, timeout=_PATIENCE_S)
        if stopping.done():
            stopping.result()
        else:
            stopping.cancel()
            await self.kill()

    async def kill(self) -> None:
        """End as at a SIGKILL: no code of this process runs on, and its stores stay as they were."""
        self.process.kill()
        # A thread that commits must not find its connection closed; one that does not end is left alone.
        while await self._clock.threads_end():
            pass
        for store in self.runtime.logs:
            store.drop()

    def at_work(self) -> list[str]:
        """What still runs and waits for something real: handlers by name, or ``a transaction``."""
        busy = []
        for store in self.runtime.logs:
            running = [name for name, service in store.read("running_handlers") if service == self.service]
            if store.writer.connection.in_transaction and not running:
                running = [f"a transaction of {self.service}"]
            busy += running
        return busy

    async def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """What the gateway of this process answers. *options* are those of ``httpx.AsyncClient.request``."""
        return await self.process.run(self._client.request(method, path, **options))

    @cached_property
    def _client(self) -> httpx.AsyncClient:
        import httpx

        from antiphon.gateway.application import build

        transport = httpx.ASGITransport(app=build(self._app, self.runtime), raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url=f"http://{self._app.name}")


class Runtimes:
    """What ``app.runtime`` is meanwhile: the runtimes of the services that run, as if they were one."""

    def __init__(self, name: str, data: Path, clock: VirtualClock, running: Mapping[str, ServiceProcess]) -> None:
        self.name = name
        self.data = data
        self.clock = clock
        self._running = running

    @property
    def stores(self) -> dict[str, SqliteStore]:
        """The store of each service that runs."""
        return {name: each.runtime.stores[name] for name, each in self._running.items()}

    def running(self, service: str) -> ServiceProcess:
        """The process of a service. Raises AntiphonError if it does not run."""
        try:
            return self._running[service]
        except KeyError:
            raise AntiphonError(
                f"service {service!r} does not run",
                where=f"app {self.name!r}",
                mend=f"Here run: {', '.join(self._running) or 'none'}; await world.restart(...) starts one again",
            ) from None

    def store_of(self, service: str) -> SqliteStore:
        """The store of a service. Raises AntiphonError if it does not run."""
        store: SqliteStore = self.running(service).runtime.store_of(service)
        return store

    async def publish(self, service: str, *events: object, traceparent: str | None = None) -> list[str]:
        """Publish *events* as *service*, in its process."""
        here = self.running(service)
        return await here.process.run(here.runtime.publish(service, *events, traceparent=traceparent))

    @asynccontextmanager
    async def transaction(self, service: str, **options: Any) -> AsyncIterator[Transaction]:
        """A transaction of *service*."""
        async with self.running(service).runtime.transaction(service, **options) as tx:
            yield tx
