"""One run of the demo: an example is started, fed, shown, drained and stopped."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from antiphon.app import App
from antiphon.demo import member
from antiphon.demo.chance import Chance
from antiphon.demo.faults import made_faulty
from antiphon.demo.feeder import Fed, Feeder
from antiphon.demo.figures import Figures, Looker
from antiphon.demo.fleet import Fleet
from antiphon.demo.killer import Killer
from antiphon.demo.sink import running_sink
from antiphon.demo.subject import Subject
from antiphon.demo.view import Heading, Scene, Show, opened_view
from antiphon.errors import AntiphonError
from antiphon.runtime.clock import SystemClock
from antiphon.runtime.runtime import Runtime
from antiphon.store.sqlite.desks import open_desks

_DRAIN_S = 120.0
_LOOK_EVERY_S = 1.0
_DRAIN_LOOK_EVERY_S = 0.1
_WORKERS = ("one", "two")


class Address(Protocol):
    """Where a gateway listens."""

    @property
    def url(self) -> str:
        """``http://host:port``."""


class Serve(Protocol):
    """Serves the routes of an app for the length of an ``async with``; a free port if *port* is 0."""

    def __call__(self, app: App, runtime: Runtime, *, port: int) -> AbstractAsyncContextManager[Address]:
        """The gateway, as a context manager. Raises AntiphonError if the port is taken."""


@dataclass
class Played:
    """What has happened, as seen from outside the databases. *killed* counts processes."""

    fed: Fed
    received: dict[str, int]
    seconds: float = 0.0
    settled: bool = False
    killed: int = 0


@dataclass(frozen=True)
class _Running:
    """The example while it runs: where it is fed, looked at, and who kills its processes."""

    url: str
    looker: Looker
    killer: Killer | None = None


class Play:
    """One run: starts everything, feeds, drains, stops everything."""

    def __init__(self, subject: Subject, options: argparse.Namespace, data: Path, serve: Serve) -> None:
        self._subject = subject
        self._options = options
        self._data = data
        self._serve = serve
        self._clock = SystemClock()
        self._chance = Chance(options.seed)
        self._stops = _Stops()
        self._last = (0, 0, 0)

    async def play(self) -> Played:
        """The whole run. Raises AntiphonError, also when the feeder, a store or a process breaks."""
        self._stops.listen()
        kill = self._subject.kill_every_s if self._options.kill is None else self._options.kill
        async with running_sink() as sink:
            os.environ.update(SMTP_HOST="127.0.0.1", SMTP_PORT=str(sink.port))
            async with (
                self._subject.outside(sink.received),
                self._in_processes(kill) if kill else self._in_one_process() as running,
            ):
                feeder = Feeder(running.url, self._subject, self._options.rate, self._chance, self._clock)
                played = Played(feeder.fed, sink.received)
                with opened_view(Heading(self._subject, running.url, str(self._data))) as show:
                    await self._feed_and_drain(running, feeder, played, show)
        return played

    @asynccontextmanager
    async def _in_one_process(self) -> AsyncIterator[_Running]:
        app = made_faulty(self._subject.app, self._options.fail, self._chance)
        async with (
            app.run_in(self._data, clock=self._clock) as runtime,
            self._serve(app, runtime, port=self._options.port) as address,
        ):
            if runtime.hub is None:
                raise AntiphonError("the demo looks at the bus between services, and there is none", where=app.name)
            yield _Running(address.url, Looker(self._subject, runtime.stores, runtime.hub))

    @asynccontextmanager
    async def _in_processes(self, kill_every_s: float) -> AsyncIterator[_Running]:
        """The gateway is here; all services are in two processes, which share the work and die now and then."""
        app, options = self._subject.app, self._options
        told = member.environment_of(options.example, options.fail, options.seed)
        fleet = Fleet(f"{member.__name__}:app", self._data, {name: list(app.services) for name in _WORKERS}, told)
        async with AsyncExitStack() as stack:
            runtime = await stack.enter_async_context(app.run_in(self._data, services=[], clock=self._clock))
            address = await stack.enter_async_context(self._serve(app, runtime, port=options.port))
            stack.push_async_callback(fleet.end)
            await fleet.start(fleet.names)
            await fleet.ready()
            stores = {
                desk.name: desk.store for desk in await stack.enter_async_context(open_desks(self._data, self._clock))
            }
            looker = Looker(self._subject, stores, stores["bus"])
            yield _Running(address.url, looker, Killer(fleet, kill_every_s, self._chance, self._clock))
            await fleet.stop()

    async def _feed_and_drain(self, running: _Running, feeder: Feeder, played: Played, show: Show) -> None:
        begun = self._clock.boot_ms()
        looker = running.looker
        self._last = (begun, 0, (await looker.look()).events)
        async with AsyncExitStack() as stack:
            # Who is entered last is stopped first: the last requests need processes that live.
            at_work: list[_Stoppable] = [feeder] if running.killer is None else [feeder, running.killer]
            tasks = [await stack.enter_async_context(_meanwhile(each)) for each in at_work]
            while not any(task.done() for task in tasks) and not await self._time_is_over(begun):
                await self._show(looker, feeder, show, begun, "feeding")
        drained_by = self._clock.boot_ms() + _DRAIN_S * 1000
        shown = 0
        while not (played.settled or self._stops.hurried or self._clock.boot_ms() > drained_by):
            figures = await looker.look()
            played.settled = figures.settled
            if self._clock.boot_ms() - shown > _LOOK_EVERY_S * 1000 or played.settled:
                shown = self._clock.boot_ms()
                await self._show(looker, feeder, show, begun, "draining", figures)
            await self._clock.sleep(_DRAIN_LOOK_EVERY_S)
        played.seconds = (self._clock.boot_ms() - begun) / 1000
        played.killed = 0 if running.killer is None else running.killer.killed

    async def _time_is_over(self, begun: int) -> bool:
        """Wait for the next look; True if the feeding is to end instead."""
        wait = _LOOK_EVERY_S
        if self._options.seconds is not None:
            wait = min(wait, self._options.seconds - (self._clock.boot_ms() - begun) / 1000)
        if wait > 0:
            await self._stops.wait(wait)
        return self._stops.stopped.is_set() or wait < _LOOK_EVERY_S

    async def _show(
        self, looker: Looker, feeder: Feeder, show: Show, begun: int, phase: str, figures: Figures | None = None
    ) -> None:
        figures = figures or await looker.look()
        now, accepted = self._clock.boot_ms(), len(feeder.fed.accepted)
        then, accepted_then, events_then = self._last
        passed = max(1, now - then) / 1000
        self._last = (now, accepted, figures.events)
        scene = Scene(
            phase=phase,
            seconds=(now - begun) / 1000,
            accepted=accepted,
            accepted_per_s=(accepted - accepted_then) / passed,
            events_per_s=(figures.events - events_then) / passed,
            figures=figures,
            traces=await looker.last_traces(),
        )
        show(scene)


@dataclass
class _Stops:
    """The first SIGINT or SIGTERM ends the feeding, a second one the draining."""

    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    hurried: bool = False

    def listen(self) -> None:
        """Take the signals over."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop)

    async def wait(self, seconds: float) -> None:
        """Return at a signal, or after so long."""
        try:
            async with asyncio.timeout(seconds):
                await self.stopped.wait()
        except TimeoutError:
            pass

    def _stop(self) -> None:
        self.hurried = self.stopped.is_set()
        self.stopped.set()


class _Stoppable(Protocol):
    async def run(self) -> None:
        """Work until stopped."""

    def stop(self) -> None:
        """Let `run` come to its end."""


@asynccontextmanager
async def _meanwhile(worker: _Stoppable) -> AsyncIterator[asyncio.Task[None]]:
    """Have *worker* run during the block; at the end it is stopped, and waited for. Raises what it raises."""
    running = asyncio.create_task(worker.run())
    try:
        yield running
        worker.stop()
        await running
    finally:
        running.cancel()
