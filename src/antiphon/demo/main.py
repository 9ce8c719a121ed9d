"""``antiphon demo``: an example runs, is fed and shown; then it drains, and its databases are audited."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from antiphon.app import App
from antiphon.demo.audit import audit
from antiphon.demo.chance import Chance
from antiphon.demo.faults import made_faulty
from antiphon.demo.feeder import Fed, Feeder
from antiphon.demo.figures import Figures, Looker
from antiphon.demo.report import facts_of, summary_of
from antiphon.demo.sink import running_sink
from antiphon.demo.subject import EXAMPLES, Subject, subject_of
from antiphon.demo.view import Heading, Scene, Show, opened_view
from antiphon.errors import AntiphonError
from antiphon.runtime.clock import SystemClock
from antiphon.runtime.runtime import Runtime

_DRAIN_S = 120.0
_LOOK_EVERY_S = 1.0
_DRAIN_LOOK_EVERY_S = 0.1


class Address(Protocol):
    """Where a gateway listens."""

    @property
    def url(self) -> str:
        """``http://host:port``."""


class Serve(Protocol):
    """Serves the routes of an app for the length of an ``async with``; a free port if *port* is 0."""

    def __call__(self, app: App, runtime: Runtime, *, port: int) -> AbstractAsyncContextManager[Address]:
        """The gateway, as a context manager. Raises AntiphonError if the port is taken."""


def run(arguments: Sequence[str], serve: Serve) -> int:
    """Run the demo with its command line *arguments*; 0, or 1 if the audit fails. Raises AntiphonError."""
    options = parser().parse_args(arguments)
    # What fails is shown as figures, and what is injected would fill the terminal.
    logging.getLogger("antiphon").setLevel(logging.CRITICAL)
    logging.getLogger("antiphon.demo").setLevel(logging.ERROR)
    subject = subject_of(options.example)
    with _data_folder(options.data) as folder:
        played = asyncio.run(_Demo(subject, options, folder.path, serve).play())
        found = audit(subject, folder.path, played.fed.accepted.values(), played.received)
        ok = found.ok and not played.fed.doubled
        folder.keep = folder.keep or not ok
    facts = facts_of(subject, found, played.fed, seconds=played.seconds, settled=played.settled, seed=options.seed)
    summary = summary_of(subject, facts)
    if not ok:
        summary += f"\nThe databases are kept in {folder.path}"
    print(summary, file=sys.stderr if options.json else sys.stdout, flush=True)
    if options.json:
        print(json.dumps(facts), flush=True)
    return 0 if ok else 1


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    made = argparse.ArgumentParser(
        prog="antiphon demo",
        description="Run an example system, fed with requests, until Ctrl-C; then drain and audit its databases.",
        epilog=". ".join(f"{name}: {what}" for name, what in EXAMPLES.items()) + ".",
        allow_abbrev=False,
    )
    made.add_argument(
        "example",
        metavar="EXAMPLE",
        nargs="?",
        choices=list(EXAMPLES),
        default="flight_booking",
        help=f"which: {', '.join(EXAMPLES)} (default: flight_booking)",
    )
    made.add_argument("--for", dest="seconds", metavar="SECONDS", type=_above_zero, help="end by itself after so long")
    made.add_argument("--rate", metavar="N", type=_above_zero, default=50.0, help="requests a second (default: 50)")
    made.add_argument(
        "--fail", metavar="RATE", type=_fault_rate, default=0.0, help="share of attempts that fail, up to 0.5 (0)"
    )
    made.add_argument("--seed", metavar="N", type=int, default=1, help="which requests and faults (default: 1)")
    made.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    made.add_argument("--port", metavar="P", type=int, default=8000, help="the gateway's port (8000; 0: any free one)")
    made.add_argument("--data", metavar="DIR", type=Path, help="keep the databases there (default: a temporary one)")
    return made


@dataclass
class _Played:
    """What has happened, as seen from outside the databases."""

    fed: Fed
    received: dict[str, int]
    seconds: float = 0.0
    settled: bool = False


class _Demo:
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

    async def play(self) -> _Played:
        """The whole run. Raises AntiphonError, also when the feeder or a store breaks."""
        self._stops.listen()
        app = made_faulty(self._subject.app, self._options.fail, self._chance)
        async with running_sink() as sink:
            os.environ.update(SMTP_HOST="127.0.0.1", SMTP_PORT=str(sink.port))
            async with (
                app.run_in(self._data, clock=self._clock) as runtime,
                self._serve(app, runtime, port=self._options.port) as address,
            ):
                feeder = Feeder(address.url, self._subject, self._options.rate, self._chance, self._clock)
                played = _Played(feeder.fed, sink.received)
                heading = Heading(self._subject, address.url, str(self._data))
                with opened_view(heading) as show:
                    await self._feed_and_drain(_looker(self._subject, runtime), feeder, played, show)
        return played

    async def _feed_and_drain(self, looker: Looker, feeder: Feeder, played: _Played, show: Show) -> None:
        begun = self._clock.boot_ms()
        self._last = (begun, 0, (await looker.look()).events)
        feeding = asyncio.create_task(feeder.run())
        try:
            while not feeding.done() and not await self._time_is_over(begun):
                await self._show(looker, feeder, show, begun, "feeding")
            feeder.stop()
            await feeding
        finally:
            feeding.cancel()
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


@dataclass
class _Folder:
    path: Path
    keep: bool


@contextmanager
def _data_folder(wanted: Path | None) -> Iterator[_Folder]:
    """The folder for the databases: the one that is *wanted*, or one that is removed unless it is to be kept."""
    if wanted is not None:
        yield _Folder(wanted.resolve(), keep=True)
        return
    folder = _Folder(Path(tempfile.mkdtemp(prefix="antiphon-demo-")), keep=False)
    try:
        yield folder
    finally:
        if not folder.keep:
            shutil.rmtree(folder.path, ignore_errors=True)


def _looker(subject: Subject, runtime: Runtime) -> Looker:
    if runtime.bus is None:
        raise AntiphonError("the demo looks at the bus between services, and there is none", where=runtime.name)
    return Looker(subject, runtime.stores, runtime.bus.store)


def _above_zero(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is not above zero")
    return value


def _fault_rate(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 0.5:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 0.5")
    return value
