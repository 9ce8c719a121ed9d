"""SQLite connections of a simulated process: every statement is a point, and the disk may fail at it."""

from __future__ import annotations

import marshal
import random  # noqa: TID251  seeded: what is torn is decided by the fault
import sqlite3
from collections.abc import Iterable
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

from antiphon.simulate.process import PROCESS, Effects, Killed, Process

if TYPE_CHECKING:
    from antiphon.simulate.faults import Fault
    from antiphon.simulate.machine import Machine, SimFile

SECTOR = 512
_DIGEST = 8
_FULL = 2
_WRITES = frozenset({"INSERT", "UPDATE", "DELETE", "REPLACE", "CREATE", "DROP", "ALTER"})
_MARKS = frozenset({"SAVEPOINT", "RELEASE", "ROLLBACK"})
_OF_STATEMENTS = frozenset({"begin", "checkpoint", "commit", "mark", "read", "write"})


class _Statement(NamedTuple):
    """How a statement appears: the name of its point, the digest of its text, whether its values are hashed."""

    name: str
    digest: bytes
    hashes_values: bool


_STATEMENTS: dict[str, _Statement] = {}
_TEXTS: dict[bytes, str] = {}

_execute = sqlite3.Cursor.execute
_executemany = sqlite3.Cursor.executemany
_cursor = sqlite3.Connection.cursor
_connection_execute = sqlite3.Connection.execute
_connection_executemany = sqlite3.Connection.executemany


def _statement(sql: str) -> _Statement:
    words = sql.split(None, 2)
    first = words[0].upper().rstrip(";") if words else ""
    name = "write" if first in _WRITES else "mark" if first in _MARKS else "read"
    if first in ("BEGIN", "COMMIT"):
        name = first.lower()
    elif sql.startswith("PRAGMA wal_checkpoint"):
        name = "checkpoint"
    digest = blake2b(sql.encode(), digest_size=_DIGEST).digest()
    _TEXTS[digest] = sql
    # A traceback names files: the same run on another machine has others.
    return _STATEMENTS.setdefault(sql, _Statement(name, digest, "traceback" not in sql))


def _values(parameters: Any) -> bytes:
    try:
        return marshal.dumps(parameters, 2)  # two: what depends on reference counts came later
    except ValueError:
        return repr(parameters).encode()


def described(name: str, detail: bytes) -> str:
    """What a point was about, in words: of a statement its text and its values."""
    if name not in _OF_STATEMENTS:
        return detail.decode(errors="replace")
    text = " ".join(_TEXTS.get(detail[:_DIGEST], "").split())
    values = detail[_DIGEST:]
    if not values:
        return text
    try:
        return f"{text} {marshal.loads(values)!r}"  # noqa: S302  our own
    except (ValueError, EOFError, TypeError):
        return f"{text} {values.decode(errors='replace')}"


class SimCursor(sqlite3.Cursor):
    """A cursor whose statements are effects."""

    connection: SimConnection

    def execute(self, sql: str, parameters: Any = ()) -> SimCursor:
        """Run one statement, unless a fault prevents it."""
        name = self.connection.begin(sql, parameters)
        _execute(self, sql, parameters)
        if name == "commit":
            self.connection.committed()
        return self

    def executemany(self, sql: str, rows: Iterable[Any]) -> SimCursor:
        """Run one statement for many rows: one effect."""
        rows = list(rows)
        self.connection.begin(sql, rows)
        _executemany(self, sql, rows)
        return self


class SimConnection(sqlite3.Connection):
    """A connection of a simulated process. It closes with the process; what was not committed is rolled back."""

    process: Process | None = None
    read_only = False
    file: SimFile
    effects: Effects
    machine: Machine

    def belong_to(self, process: Process, file: SimFile, machine: Machine) -> None:
        """From now on what it does is done by *process*."""
        self.process, self.file, self.effects, self.machine = process, file, machine.effects, machine
        process.on_kill[self] = self._vanish
        file.connections.add(self)

    def cursor(self, factory: type[sqlite3.Cursor] = SimCursor) -> Any:  # type: ignore[override]
        """A cursor whose statements are effects."""
        return _cursor(self, factory)

    def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
        """Run one statement, unless a fault prevents it."""
        name = self.begin(sql, parameters)
        cursor = _connection_execute(self, sql, parameters)
        if name == "commit":
            self.committed()
        return cursor

    def executemany(self, sql: str, rows: Iterable[Any]) -> sqlite3.Cursor:
        """Run one statement for many rows: one effect."""
        rows = list(rows)
        self.begin(sql, rows)
        return _connection_executemany(self, sql, rows)

    def begin(self, sql: str, parameters: Any) -> str:
        """The statement takes effect now, unless a fault prevents it; the name of its point."""
        process = self.process
        if process is not PROCESS.get():
            self._refuse_others()
        if process is None:
            return ""
        name, detail, hashes_values = _STATEMENTS.get(sql) or _statement(sql)
        if parameters and hashes_values:
            detail += _values(parameters)
        fault = self.effects.point(name, detail, process)
        if fault is not None or self.file.trouble:
            self.suffer(fault, name)
        return name

    def committed(self) -> None:
        """A commit is durable, and nobody has been told yet."""
        self.effects.point("committed", b"", self.process)

    def close(self) -> None:
        """Close it. A dead process's is closed already."""
        if self.process is not None:
            self._refuse_others()
            self.process.on_kill.pop(self, None)
            self.file.connections.discard(self)
        super().close()

    def _refuse_others(self) -> None:
        """Raise Killed for a process that has died: its connection may be another's by now."""
        running = PROCESS.get()
        if running is not None and not running.alive:
            raise Killed

    def _vanish(self) -> None:
        """Its process has died: what it had not committed is undone, as the kernel would have it.

        It is kept for the next process. To open one costs as much as a hundred statements, and it could not
        be closed: what a dead process's tasks hold on to would keep its locks.
        """
        self.file.connections.discard(self)
        if self.in_transaction:
            _execute(_cursor(self), "ROLLBACK")
        self.row_factory = None
        self.file.idle[self.read_only].append(self)

    # ------------------------------------------------------------------ faults

    def suffer(self, fault: Fault | None, name: str) -> None:
        """Let the disk fail, before a statement of this kind. Raises sqlite3.OperationalError, Killed."""
        file = self.file
        if fault is not None and fault.kind == "power":
            self._lose_power(fault, name)
        if fault is not None and fault.kind == "disk":
            file.trouble, file.trouble_until = fault.what, self.machine.loop.time() + fault.seconds
        if self.machine.loop.time() >= file.trouble_until:
            file.trouble = ""
        elif file.trouble == "slow" and name == "commit":
            self.machine.loop.busy(0.002 + 0.1 * self.machine.random.random())
        elif file.trouble == "full" and self.in_transaction and name in ("write", "commit"):
            if self.machine.random.random() < 0.5:
                _execute(_cursor(self), "ROLLBACK")  # SQLite does so by itself in some cases
            raise _error("database or disk is full", sqlite3.SQLITE_FULL)
        elif file.trouble == "locked" and name == "begin":
            raise _error("database is locked", sqlite3.SQLITE_BUSY)

    def _lose_power(self, fault: Fault, name: str) -> None:
        """The power fails while this connection commits, or copies the log into the file."""
        before = self.file.image()
        _execute(_cursor(self), "COMMIT" if name == "commit" else "PRAGMA wal_checkpoint(RESTART)")
        after = self.file.image()
        chance = random.Random(f"{self.machine.seed}:{fault.at}")
        if name == "commit":
            found = before[0], torn(before[1], after[1], chance)
        else:
            found = torn(before[0], after[0], chance), before[1]
        self.machine.power_fails(fault, {self.file.name: found})
        raise Killed


def is_synced(connection: sqlite3.Connection) -> bool:
    """Whether each commit of *connection* waits until the disk has it."""
    return int(_execute(_cursor(connection), "PRAGMA synchronous").fetchone()[0]) >= _FULL


def torn(before: bytes, after: bytes, chance: random.Random) -> bytes:
    """What a disk may hold when the power fails while *before* becomes *after*: any of the changed sectors."""
    share = chance.choice((0.0, 0.1, 0.5, 0.9, 1.0))
    sectors = []
    for start in range(0, max(len(before), len(after)), SECTOR):
        old, new = before[start : start + SECTOR], after[start : start + SECTOR]
        if chance.random() < share or new == old:
            sectors.append(new)
        else:
            sectors.append(old.ljust(min(SECTOR, len(after) - start), b"\0") if start < len(after) else old)
    image = b"".join(sectors)
    # A file grows when its sectors are written: without the last ones it is shorter.
    return image if chance.random() < 0.5 else image[: max(len(before), len(image.rstrip(b"\0")))]


def _error(text: str, code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode = code
    return error
