"""What handlers ask of the standard library is the world's, or is reported with file and line."""

from __future__ import annotations

import asyncio
import datetime as dates
import os
import random
import secrets
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from contextvars import Context
from datetime import UTC, date, datetime
from pathlib import Path
from time import monotonic, time_ns

import pytest

from antiphon.simulate.ambient import Ambient, Report
from antiphon.simulate.loop import SimLoop
from antiphon.simulate.process import PROCESS, Process

MOMENT_MS = 1_767_225_600_000


def asked(work: Callable[[], object], seed: int = 0) -> tuple[object, set[Report]]:
    """What *work* gives in a process of a world that began at the beginning of 2026, and what is reported of it."""
    loop = SimLoop(seed)
    ambient = Ambient(loop, seed, lambda: MOMENT_MS + round(loop.time() * 1000))

    async def handler() -> object:
        PROCESS.set(Process("p", 0, frozenset(), loop))
        await asyncio.sleep(90)
        result = work()
        return await result if asyncio.iscoroutine(result) else result

    with ambient.installed():
        try:
            return Context().run(loop.run_until_complete, handler()), ambient.reports
        finally:
            loop.bury()


WHEN = datetime(2026, 1, 1, 0, 1, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        (lambda: time.time(), WHEN.timestamp()),
        (lambda: time_ns(), WHEN.timestamp() * 1e9),
        (lambda: monotonic(), 90.0),
        (lambda: time.perf_counter(), 90.0),
        (lambda: datetime.now(UTC), WHEN),
        (lambda: datetime.now(), WHEN.replace(tzinfo=None)),
        (lambda: datetime.utcnow(), WHEN.replace(tzinfo=None)),
        (lambda: dates.datetime.today(), WHEN.replace(tzinfo=None)),
        (lambda: date.today(), date(2026, 1, 1)),
        (lambda: time.localtime()[:5], (2026, 1, 1, 0, 1)),
    ],
)
def test_the_time_is_the_worlds_however_it_is_asked(ask: Callable[[], object], answer: object) -> None:
    """Through the module, a name that was imported, or a class written in C: 90 seconds after the world began."""
    assert asked(ask) == (answer, set())


def test_afterwards_the_time_is_the_machines_again() -> None:
    """Nothing stays taken over."""
    before = datetime.now(UTC)
    asked(lambda: datetime.now(UTC))
    assert datetime.now(UTC) >= before
    assert abs(time_ns() / 1e9 - time.time()) < 60
    assert "today" not in vars(datetime)


@pytest.mark.parametrize(
    "ask",
    [
        lambda: random.random(),
        lambda: random.SystemRandom().random(),
        lambda: secrets.token_hex(),
        lambda: os.urandom(8),
        lambda: uuid.uuid4(),
        lambda: uuid.uuid1(),
    ],
)
def test_chance_is_the_seeds(ask: Callable[[], object]) -> None:
    """The same seed draws the same, another something else, and nothing is to be reported."""
    assert asked(ask, 1) == asked(ask, 1)
    assert asked(ask, 1)[0] != asked(ask, 2)[0]
    assert asked(ask)[1] == set()


def blocks() -> None:
    """Block the event loop."""
    time.sleep(0.5)


def starts_a_thread() -> None:
    """Start a thread."""
    thread = threading.Thread(target=str)
    thread.start()
    thread.join()


def starts_a_program() -> None:
    """Start a program."""
    subprocess.run([sys.executable, "-c", ""], check=True)


async def starts_a_program_through_the_loop() -> None:
    """Start a program."""
    await asyncio.create_subprocess_exec(sys.executable, "-c", "")


def connects() -> None:
    """Connect to a server outside the world."""
    socket.create_connection(("192.0.2.1", 80), timeout=1)


def writes_a_file() -> None:
    """Write a file, which no transaction undoes."""
    Path(os.devnull).write_text("x", encoding="utf-8")


def lists_a_folder() -> None:
    """See files in an order that nobody promises."""
    os.listdir(os.curdir)  # noqa: PTH208  an order that nobody promises


@pytest.mark.parametrize(
    ("work", "what"),
    [
        (blocks, "blocks the event loop"),
        (starts_a_thread, "starts a thread"),
        (starts_a_program, "starts a program"),
        (starts_a_program_through_the_loop, "subprocess_exec"),
        (connects, "connects a socket"),
        (writes_a_file, "writes the file"),
        (lists_a_folder, "lists a folder"),
    ],
)
def test_what_no_seed_decides_is_reported_with_file_and_line(work: Callable[[], object], what: str) -> None:
    """The report names the line of the application that does it, not that of the library below it."""

    def tried() -> object:
        try:
            return work()
        except OSError:
            return None

    async def awaited() -> None:
        with pytest.raises(Exception, match="simulated world has no"):
            await work()  # type: ignore[misc]

    _, reports = asked(awaited if asyncio.iscoroutinefunction(work) else tried)
    found = [report for report in reports if what in report.what]
    first = work.__code__.co_firstlineno
    assert found, reports
    assert all(report.file == __file__ and first < report.line <= first + 6 for report in found)
    assert str(found[0]).startswith(f"{__file__}:{found[0].line}: ")


def test_reading_a_file_and_what_goes_on_outside_the_world_is_nobodys_business() -> None:
    """A file that is only read is the same in every run; what no process does is not looked at."""
    assert asked(lambda: Path(__file__).read_text(encoding="utf-8")[:3])[1] == set()
    loop = SimLoop(0)
    ambient = Ambient(loop, 0, lambda: MOMENT_MS)
    with ambient.installed():
        os.listdir(os.curdir)  # noqa: PTH208  an order that nobody promises
    loop.bury()
    assert ambient.reports == set()
