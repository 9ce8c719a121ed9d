"""A simulated machine with one file and a few processes, without an application, for tests of the parts."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from contextvars import Context
from pathlib import Path
from random import Random
from typing import TypeVar

from antiphon.simulate.disk import SimConnection
from antiphon.simulate.faults import Fault
from antiphon.simulate.loop import SimLoop
from antiphon.simulate.machine import Image, Machine, SimPlace
from antiphon.simulate.process import PROCESS, Effects, Process

T = TypeVar("T")
FILE = Path("/simulated/notes.db")


def template(folder: Path) -> bytes:
    """A database with an empty table ``notes``."""
    path = folder / "template.db"
    with sqlite3.connect(path) as made:
        made.execute("PRAGMA journal_mode = WAL")
        made.execute("CREATE TABLE notes (n INTEGER PRIMARY KEY, text TEXT)")
    made.close()
    content = path.read_bytes()
    path.unlink()
    return content


class Rig:
    """One machine. *strike* decides at every point whether a fault strikes there: by default none does."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.loop = SimLoop(seed)
        self.strike: Callable[[Process | None, str], Fault | None] = lambda process, name: None
        self.effects = Effects(self.loop.time, lambda process, name: self.strike(process, name))
        self.effects.next_at = 0
        self.loop.effects = self.effects
        self.seed = seed
        self.machine = Machine(folder, {FILE.name: template(folder)}, self.loop, self.effects, seed, self.power_fails)
        self.file = self.machine.files[FILE.name]
        self.processes: list[Process] = []

    def close(self) -> None:
        """End it."""
        for process in self.processes:
            process.kill()
        self.loop.bury()
        self.machine.close()

    def process(self, name: str) -> Process:
        """A process that lives."""
        self.processes.append(Process(name, len(self.processes), frozenset(), self.loop))
        return self.processes[-1]

    def run(self, process: Process, work: Callable[[], T]) -> T:
        """What *work* gives, done by *process*."""
        context = Context()
        context.run(PROCESS.set, process)
        return context.run(work)

    def place(self, process: Process) -> SimPlace:
        """The file as *process* sees it."""
        return self.machine.place_of(process)(FILE)

    def connect(self, process: Process, *, read_only: bool = False) -> SimConnection:
        """A connection of *process*."""
        made = self.run(process, lambda: self.place(process).connect(read_only=read_only))
        assert isinstance(made, SimConnection)
        return made

    def write(self, process: Process, connection: SimConnection, *numbers: int, text: str = "") -> None:
        """Commit rows."""

        def work() -> None:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("INSERT INTO notes VALUES (?, ?)", [(number, text) for number in numbers])
            connection.execute("COMMIT")

        self.run(process, work)

    def numbers(self) -> list[int]:
        """What is committed."""
        return [row[0] for row in self.file.keeper.execute("SELECT n FROM notes ORDER BY n")]

    def is_sound(self) -> bool:
        """Whether SQLite finds nothing wrong with the file."""
        return [tuple(row) for row in self.file.keeper.execute("PRAGMA integrity_check")] == [("ok",)]

    def once(self, kind: str, detail: str, *names: str) -> None:
        """Let a fault strike once, at the next point of one of these names."""

        def strike(process: Process | None, name: str) -> Fault | None:
            if name not in names:
                return None
            self.strike = lambda process, name: None
            return Fault(kind, self.effects.count, process.name if process else "", detail)

        self.strike = strike

    def power_fails_at_a_read(self, process: Process, connection: SimConnection) -> None:
        """Let the power fail while *process* only reads. Raises Killed."""

        def strike(victim: Process | None, name: str) -> None:
            self.power_fails(Fault("power", self.effects.count), {})

        self.strike = strike
        self.run(process, lambda: connection.execute("SELECT 1"))

    def power_fails(self, fault: Fault, torn: Mapping[str, Image]) -> None:
        """What a world does when the power fails."""
        unsynced = self.machine.unsynced()
        for process in self.processes:
            process.kill()
        self.machine.lose_power(torn, unsynced, Random(f"{self.seed}:{fault.at}"))
