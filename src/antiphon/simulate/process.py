"""A simulated process: whatever runs in its context lives and dies with it. And the point that every effect passes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context, ContextVar
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from antiphon.runtime.runtime import Runtime
    from antiphon.simulate.faults import Fault

#: The process whose code runs now; None: the world's own.
PROCESS: ContextVar[Process | None] = ContextVar("antiphon_process", default=None)
NEVER = 1 << 62


class Killed(BaseException):
    """The process that runs this has been killed. It gets no further; nothing of it takes effect."""


class Process:
    """One process. *services* are those that it runs, *number* counts its starts.

    `kill` ends it as SIGKILL would: what waits in the loop for it never runs, so no ``finally`` does.
    """

    def __init__(self, name: str, number: int, services: frozenset[str], loop: asyncio.AbstractEventLoop) -> None:
        self.name = name
        self.number = number
        self.owner = f"{name}.{number}"
        self.services = services
        self.tag = self.owner.encode()
        self.alive = True
        self.stalled_until = 0.0
        self.skew_ms = 0
        self.on_kill: dict[object, Callable[[], None]] = {}
        self.runtime: Runtime | None = None
        self.gateway: Any = None
        self.context: Context | None = None
        self._loop = loop
        self._held: list[asyncio.Handle] = []
        self._grave: list[asyncio.Handle] = []

    def __repr__(self) -> str:
        return f"<process {self.owner}{'' if self.alive else ', dead'}>"

    def kill(self) -> None:
        """End it here and now. Idempotent."""
        if not self.alive:
            return
        self.alive = False
        self._grave += self._held
        self._held.clear()
        hooks, self.on_kill = list(self.on_kill.values()), {}
        for hook in hooks:
            hook()

    def stall(self, until: float) -> None:
        """Run nothing of it before *until* (virtual seconds), as if it had been stopped, or its machine paused."""
        if until > self.stalled_until:
            self.stalled_until = until
            self._loop.call_at(until, self._resume, context=Context())

    def _resume(self) -> None:
        if self._loop.time() >= self.stalled_until:
            held, self._held = self._held, []
            for handle in held:
                self._loop.requeue(handle)  # type: ignore[attr-defined]

    def takes(self, handle: asyncio.Handle, now: float) -> bool:
        """Whether *handle* may run now. If not, it waits for the end of a stall, or for nothing any more.

        A dead process's handles are kept: dropped, they would be finalised, and run what must not run.
        """
        if not self.alive:
            self._grave.append(handle)
            return False
        if self.stalled_until > now:
            self._held.append(handle)
            return False
        return True


class Record(NamedTuple):
    """One effect of a timeline. *detail* is what was hashed; its meaning is that of the point's name."""

    point: int
    time: float
    process: str
    name: str
    detail: bytes


class Effects:
    """Counts and hashes every effect, and lets faults strike there.

    *strike* is asked from the point *next_at* on, and before it at points named in *occasions*; it tells what the
    caller has to suffer, or kills it.
    """

    def __init__(self, clock: Callable[[], float], strike: Callable[[Process | None, str], Fault | None]) -> None:
        self.count = 0
        self.next_at = NEVER
        self.occasions: frozenset[str] = frozenset()
        self.records: list[Record] | None = None
        self._clock = clock
        self._strike = strike
        self._hash = blake2b(digest_size=16)
        self._update = self._hash.update

    def point(self, name: str, detail: bytes = b"", process: Process | None = None) -> Fault | None:
        """Something takes effect now: *name* what, *detail* which. *process* is by default the running one.

        Returns a fault for the caller to carry out. Raises Killed.
        """
        if process is None:
            process = PROCESS.get()
        if process is None:
            self._update(name.encode() + detail)
        elif process.alive:
            self._update(process.tag + name.encode() + detail)
        else:
            raise Killed
        self.count += 1
        if self.records is not None:
            self.records.append(Record(self.count, self._clock(), process.name if process else "", name, detail))
        if self.count < self.next_at and name not in self.occasions:
            return None
        fault = self._strike(process, name)
        if process is not None and not process.alive:
            raise Killed
        return fault

    def note(self, detail: bytes) -> None:
        """Hash what is no effect, but must be the same in every run."""
        self._update(detail)

    def digest(self) -> str:
        """The hash of all that has happened so far."""
        return self._hash.hexdigest()
