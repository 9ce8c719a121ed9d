"""A simulated machine: files that outlive processes, and what processes share beside a file, in memory."""

from __future__ import annotations

import asyncio
import os
import random  # noqa: TID251  seeded: it is the same in every run
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextvars import Context, copy_context
from hashlib import blake2b
from pathlib import Path

from antiphon.ports import Clock
from antiphon.simulate.disk import SimConnection, is_synced
from antiphon.simulate.faults import Fault
from antiphon.simulate.loop import SimLoop
from antiphon.simulate.process import Effects, Killed, Process
from antiphon.store.sqlite.connection import connect

#: The virtual wall clock at the start: 2026-01-01 00:00:00 UTC.
START_MS = 1_767_225_600_000
_UP_FOR_S = 3_600.0
_HANGS_AFTER_S = 5.0
_RING_S = 0.002
_HAND_OVER_S = 0.0005


#: The bytes of a database file, and of its write-ahead log.
Image = tuple[bytes, bytes]


class SimFile:
    """A database file. Each power loss makes a new generation of it: a folder with what the disk had kept."""

    def __init__(self, folder: Path, name: str, template: bytes) -> None:
        self.name = name
        self._folder = folder
        self._generation = 0
        self.gate = _Queue()
        self.lives: dict[str, SimLife] = {}
        self.bells: dict[str, SimBell] = {}
        self.connections: set[SimConnection] = set()
        #: Those that dead processes have left behind: that write, and that only read.
        self.idle: tuple[list[SimConnection], list[SimConnection]] = ([], [])
        #: What is the matter with the disk: "full", "slow", "locked"; until when (virtual seconds).
        self.trouble = ""
        self.trouble_until = 0.0
        self._begin(template, b"")

    def image(self) -> Image:
        """The bytes of the file and of its write-ahead log.

        Reading it drops this process's locks on the file: only when no transaction is open, or never will be used.
        """
        return self.path.read_bytes(), self.wal.read_bytes()

    def _begin(self, database: bytes, wal: bytes) -> None:
        #: Where it really lies now, and its write-ahead log.
        self.path = self._folder / f"{self._generation}-{self.name}"
        self.wal = self.path.with_name(f"{self.path.name}-wal")
        self.wal_name = str(self.wal)
        self.path.write_bytes(database)
        if wal:
            self.wal.write_bytes(wal)
        # Held open, so that no close of a process's connection is SQLite's last, which would tidy up.
        self.keeper = connect(self.path)
        self.keeper.row_factory = sqlite3.Row
        self.keeper.execute("SELECT count(*) FROM sqlite_master").fetchone()

    def connection(self, read_only: bool) -> SimConnection:
        """A connection that nobody has."""
        if self.idle[read_only]:
            return self.idle[read_only].pop()
        made = connect(self.path, read_only=read_only, factory=SimConnection)
        assert isinstance(made, SimConnection)
        made.read_only = read_only
        made.create_function("sim_task", 0, _running_task)
        return made

    def lose_power(self, database: bytes, wal: bytes) -> None:
        """Go on with what the disk has kept."""
        old = self.path
        self.close()
        for leftover in (old, old.with_name(f"{old.name}-wal"), old.with_name(f"{old.name}-shm")):
            leftover.unlink(missing_ok=True)
        self._generation += 1
        self.trouble = ""
        self._begin(database, wal)

    def close(self) -> None:
        """Close it."""
        for each in (*self.idle[False], *self.idle[True]):
            sqlite3.Connection.close(each)
        self.idle[False].clear()
        self.idle[True].clear()
        self.keeper.close()


class Machine:
    """The machine on which all processes of a world run."""

    def __init__(
        self,
        folder: Path,
        templates: Mapping[str, bytes],
        loop: SimLoop,
        effects: Effects,
        seed: int,
        power_fails: Callable[[Fault, Mapping[str, Image]], None],
    ) -> None:
        self.loop = loop
        self.effects = effects
        self.random = random.Random(f"{seed}:machine")
        self._boots = 0
        self._booted_at = -_UP_FOR_S
        self.seed = seed
        self.power_fails = power_fails
        self.files = {name: SimFile(folder, name, content) for name, content in templates.items()}

    @property
    def boot_id(self) -> str:
        """Which boot this is."""
        return f"boot-{self.seed}-{self._boots}"

    def boot_ms(self) -> int:
        """Milliseconds since it booted."""
        return int((self.loop.time() - self._booted_at) * 1000)

    def wall_ms(self) -> int:
        """The true time, in Unix milliseconds."""
        return START_MS + int(self.loop.time() * 1000)

    def place_of(self, process: Process) -> Callable[[Path], SimPlace]:
        """How *process* gets at the files."""
        return lambda path: SimPlace(self.files[path.name], process, self)

    def unsynced(self) -> frozenset[str]:
        """The files of which commits may still be on their way to the disk: they are not synced at each."""
        return frozenset(name for name, file in self.files.items() if not all(map(is_synced, file.connections)))

    def lose_power(self, torn: Mapping[str, Image], unsynced: frozenset[str], chance: random.Random) -> None:
        """Boot again with what the disks have kept. All processes are dead already. *torn*: the files that were
        being written to, as they are found afterwards; of the logs of *unsynced* ones any part may be missing."""
        for name, file in self.files.items():
            database, wal = torn.get(name) or file.image()
            if name in unsynced:
                wal = wal[: chance.randrange(len(wal) + 1)]
            file.lose_power(database, wal)
        self._boots += 1
        self._booted_at = self.loop.time()

    def close(self) -> None:
        """Close all files."""
        for file in self.files.values():
            file.close()


class SimPlace:
    """A file as one process sees it (``place.Place``)."""

    def __init__(self, file: SimFile, process: Process, machine: Machine) -> None:
        self._file = file
        self._process = process
        self._machine = machine

    def prepare(self) -> None:
        """It is there already."""

    def connect(self, *, read_only: bool = False) -> sqlite3.Connection:
        """A connection of the process; it closes with it."""
        connection = self._file.connection(read_only)
        connection.belong_to(self._process, self._file, self._machine)
        return connection

    def gate(self, clock: Clock) -> SimGate:
        """The way to the file's queue."""
        return SimGate(self._file.gate, self._process, self._machine)

    def life(self, owner: str, services: Iterable[str]) -> SimLife:
        """A sign of life, which goes with the process."""
        return SimLife(self._file, owner, frozenset(services), self._process, self._machine.loop)

    def bell(self, owner: str, rung: Callable[[], None]) -> SimBell:
        """A bell that is heard after a moment, or not at all."""
        return SimBell(self._file, owner, rung, self._process, self._machine)

    def is_alive(self, owner: str) -> bool:
        """Whether the owner's process lives, stalled or not."""
        return owner in self._file.lives

    def secret(self) -> bytes:
        """The same for all processes."""
        return blake2b(self._file.name.encode(), digest_size=32).digest()

    def wal_bytes(self) -> int:
        """The size of the write-ahead log."""
        return os.stat(self._file.wal_name).st_size  # noqa: PTH116  asked after every commit, and a Path takes longer


def _running_task() -> str:
    """The name of the task that runs a statement: triggers tell by it who does something."""
    task = asyncio.current_task()
    return task.get_name() if task is not None else ""


class _Queue:
    """Who holds a writer gate, and who waits for it, first come first served."""

    def __init__(self) -> None:
        self.holder: SimGate | None = None
        self.waiting: deque[tuple[SimGate, asyncio.Future[None]]] = deque()


class SimGate:
    """A process's way to the gate (``place.Gate``)."""

    def __init__(self, queue: _Queue, process: Process, machine: Machine) -> None:
        self._queue = queue
        self._process = process
        self._machine = machine
        process.on_kill[self] = self._drop

    async def acquire(self) -> None:
        """Wait in line."""
        if not self._process.alive:
            raise Killed
        queue = self._queue
        if queue.holder is None and not queue.waiting:
            queue.holder = self
            return
        turn = asyncio.get_running_loop().create_future()
        queue.waiting.append((self, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if queue.holder is self:
                self._leave()
            elif (self, turn) in queue.waiting:
                queue.waiting.remove((self, turn))
            raise

    def release(self) -> None:
        """Let the next in. One that is dead has left already."""
        if self._process.alive:
            self._leave()

    def _leave(self) -> None:
        queue = self._queue
        queue.holder = None
        while queue.waiting:
            gate, turn = queue.waiting.popleft()
            if not turn.done():
                queue.holder = gate
                delay = self._machine.random.random() * _HAND_OVER_S
                self._machine.loop.call_later(delay, _wake, turn, context=Context())
                return

    def _drop(self) -> None:
        queue = self._queue
        queue.waiting = deque(each for each in queue.waiting if each[0] is not self)
        if queue.holder is self:
            self._leave()

    def close(self) -> None:
        """Give it up."""
        self._process.on_kill.pop(self, None)
        self._drop()


def _wake(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)


class SimLife:
    """A worker's sign of life (``place.Life``)."""

    def __init__(self, file: SimFile, owner: str, services: frozenset[str], process: Process, loop: SimLoop) -> None:
        self._file = file
        self._owner = owner
        self._process = process
        self._loop = loop
        self.services = services
        self.seen = loop.time()
        file.lives[owner] = self
        process.on_kill[self] = self._end

    def beat(self) -> None:
        """It does not hang."""
        self.seen = self._loop.time()

    def neighbours(self) -> dict[str, frozenset[str]]:
        """Who has shown itself within five seconds."""
        lives = self._file.lives.items()
        return {owner: life.services for owner, life in lives if self.seen - life.seen < _HANGS_AFTER_S}

    def end(self) -> None:
        """It is gone."""
        self._process.on_kill.pop(self, None)
        self._end()

    def _end(self) -> None:
        self._file.lives.pop(self._owner, None)


class SimBell:
    """Tells the other processes of a commit, a moment later (``place.Bell``)."""

    def __init__(self, file: SimFile, owner: str, rung: Callable[[], None], process: Process, machine: Machine) -> None:
        self._file = file
        self._owner = owner
        self._rung = rung
        self._process = process
        self._machine = machine
        self._context = copy_context()
        self._is_rung = False
        file.bells[owner] = self
        process.on_kill[self] = self._end

    def ring(self) -> None:
        """All others hear it; by a fault they do so late, or never."""
        late = 0.0
        fault = self._machine.effects.point("bell", process=self._process)
        if fault is not None:
            if fault.kind == "drop":
                return
            late = fault.seconds
        for bell in list(self._file.bells.values()):
            if bell is not self and not bell._is_rung:
                bell._is_rung = True
                delay = late + self._machine.random.random() * _RING_S
                self._machine.loop.call_later(delay, bell._hear, context=bell._context)

    def _hear(self) -> None:
        self._is_rung = False
        if self._file.bells.get(self._owner) is self:
            self._rung()

    def forget_seen(self) -> None:
        """Neighbours are always seen."""

    def close(self) -> None:
        """Stop listening."""
        self._process.on_kill.pop(self, None)
        self._end()

    def _end(self) -> None:
        self._file.bells.pop(self._owner, None)
