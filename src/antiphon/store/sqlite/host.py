"""What processes of one machine share beside a database file: the writer gate, bells, signs of life.

All of it lies in ``<file>-host/``; the database files themselves are opened by nothing but SQLite.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import secrets  # noqa: TID251  a secret is nobody's to own, least of all a seeded simulator's
from collections.abc import Callable, Iterable
from pathlib import Path

from antiphon.ports import Clock
from antiphon.store.sqlite import folders

_HANGS_AFTER_NS = 5_000_000_000


def host_folder(database: Path) -> Path:
    """The folder of the gate and bells of *database*."""
    return database.with_name(database.name + "-host")


def secret(folder: Path) -> bytes:
    """32 random bytes of this machine, made at the first call, which no copy of the database carries along."""
    path = folder / "secret"
    with contextlib.suppress(FileExistsError):
        # Written aside and linked into place: another process never reads half of it.
        fresh = folder / f"secret.{os.getpid()}"
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, secrets.token_bytes(32))
            # Answers that were kept with it are worth nothing without it.
            os.fsync(fd)
            os.link(fresh, path)
        finally:
            os.close(fd)
            fresh.unlink()
    folders.sync(folder)
    return path.read_bytes()


class Gate:
    """A fair lock between processes, taken before every write transaction.

    SQLite's own busy handler starves: of two writers one gets nearly everything. Here a process
    stands first at the turnstile, then at the gate; who leaves the gate and wants it again finds the
    turnstile taken by the next in line. The kernel drops both locks of a process that dies.
    """

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._clock = clock
        self._thread: asyncio.Future[None] | None = None
        self._turnstile = os.open(folder / "turnstile", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._gate = os.open(folder / "gate", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    async def acquire(self) -> None:
        """Wait for the gate without blocking the loop. One waiter at a time: the writer sees to that."""
        while self._thread is not None:
            # One whose waiter was cancelled: whatever it still gets, it hands back first.
            await asyncio.wait([self._thread])
        if self.acquire_nowait():
            return
        thread = self._thread = asyncio.ensure_future(self._clock.run_blocking(self.acquire_blocking))
        try:
            await asyncio.shield(thread)
        except asyncio.CancelledError:
            thread.add_done_callback(self._hand_back)
            raise
        except OSError:
            self._thread = None
            raise
        self._thread = None

    def _hand_back(self, thread: asyncio.Future[None]) -> None:
        self._thread = None
        if not thread.cancelled() and thread.exception() is None:
            self.release()

    def acquire_nowait(self) -> bool:
        """Take the gate if nobody holds it and nobody waits."""
        if self._thread is not None or not _try_lock(self._turnstile):
            return False
        try:
            return _try_lock(self._gate)
        finally:
            fcntl.flock(self._turnstile, fcntl.LOCK_UN)

    def acquire_blocking(self) -> None:
        """Wait for the gate in this thread."""
        fcntl.flock(self._turnstile, fcntl.LOCK_EX)
        try:
            fcntl.flock(self._gate, fcntl.LOCK_EX)
        finally:
            fcntl.flock(self._turnstile, fcntl.LOCK_UN)

    def release(self) -> None:
        """Leave the gate."""
        fcntl.flock(self._gate, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give up both locks and their files."""
        os.close(self._turnstile)
        os.close(self._gate)


class Life:
    """A lock file that says that a worker lives; the kernel drops the lock when its process dies.

    The file tells which services the worker runs; its time of change, that the worker does not hang.
    """

    def __init__(self, folder: Path, owner: str, services: Iterable[str]) -> None:
        self._folder = folder
        self._path = folder / f"{owner}.alive"
        unborn = folder / f"{owner}.unborn"
        self._fd = os.open(unborn, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        os.write(self._fd, "\n".join(sorted(services)).encode())
        # Seen by others only now: one that is there and not locked would be taken for dead.
        unborn.rename(self._path)

    def beat(self) -> None:
        """Show that the worker does not hang."""
        os.utime(self._fd)

    def neighbours(self) -> dict[str, frozenset[str]]:
        """The services of every worker, this one included, that has shown itself lately, by owner."""
        now_ns = os.fstat(self._fd).st_mtime_ns
        found = {}
        for entry in os.scandir(self._folder):
            owner, dot, kind = entry.name.rpartition(".")
            if kind != "alive" or not dot:
                continue
            with contextlib.suppress(FileNotFoundError):
                if now_ns - entry.stat().st_mtime_ns < _HANGS_AFTER_NS and is_alive(self._folder, owner):
                    found[owner] = frozenset(Path(entry.path).read_text(encoding="utf-8").split("\n"))
        return found

    def end(self) -> None:
        """Say that the worker is gone."""
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        os.close(self._fd)


def is_alive(folder: Path, owner: str) -> bool:
    """Whether the worker *owner* lives on this machine. A dead one's leftovers are removed."""
    path = folder / f"{owner}.alive"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        if not _try_lock(fd):
            return True
        for leftover in (path, folder / f"{owner}.bell"):
            with contextlib.suppress(FileNotFoundError):
                leftover.unlink()
        return False
    finally:
        os.close(fd)


class Bell:
    """A named pipe that other processes write a byte to after a commit. Reading it wakes the loop."""

    def __init__(self, folder: Path, owner: str, rung: Callable[[], None]) -> None:
        self._folder = folder
        self._own = folder / f"{owner}.bell"
        os.mkfifo(self._own, 0o600)
        # Read and write: a pipe without a writer would be readable (end of file) all the time.
        self._fd = os.open(self._own, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._others: dict[str, int] = {}
        self._folder_seen = 0
        self._rung = rung
        asyncio.get_running_loop().add_reader(self._fd, self._read)

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while len(os.read(self._fd, 4096)) == 4096:
                pass
        self._rung()

    def ring(self) -> None:
        """Wake every other process that listens. Never blocks; a full pipe is awake already."""
        self._look_round()
        for name, fd in list(self._others.items()):
            try:
                os.write(fd, b"!")
            except BlockingIOError:
                continue
            except OSError:
                os.close(self._others.pop(name))

    def forget_seen(self) -> None:
        """Look for neighbours again at the next ring: two may come within one tick of the folder's clock."""
        self._folder_seen = 0

    def _look_round(self) -> None:
        changed = self._folder.stat().st_mtime_ns
        if changed == self._folder_seen:
            return
        self._folder_seen = changed
        found = {entry.name for entry in os.scandir(self._folder) if entry.name.endswith(".bell")}
        for name in self._others.keys() - found:
            os.close(self._others.pop(name))
        for name in found - self._others.keys() - {self._own.name}:
            try:
                self._others[name] = os.open(self._folder / name, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as error:
                if error.errno not in (errno.ENXIO, errno.ENOENT):
                    raise
                # Nobody reads there: its process died, or has not opened it yet. Look again next time.
                self._folder_seen = 0

    def close(self) -> None:
        """Stop listening."""
        asyncio.get_running_loop().remove_reader(self._fd)
        with contextlib.suppress(FileNotFoundError):
            self._own.unlink()
        for fd in (self._fd, *self._others.values()):
            os.close(fd)
        self._others.clear()


def ring(folder: Path) -> None:
    """Wake every process that listens, from a writer that has no bell of its own. Never blocks."""
    for bell in folder.glob("*.bell"):
        with contextlib.suppress(OSError):
            fd = os.open(bell, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                os.write(fd, b"!")
            finally:
                os.close(fd)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.EINTR):
            return False
        raise
    return True
