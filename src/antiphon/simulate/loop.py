"""An event loop in virtual time: one seeded random choice decides what runs next. No sockets, no signals."""

from __future__ import annotations

import asyncio
import heapq
import random  # noqa: TID251  seeded: the seed decides every interleaving
import socket
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from typing import Any

from antiphon.errors import AntiphonError
from antiphon.simulate.lockstep import Threads
from antiphon.simulate.process import PROCESS, Effects, Killed, Process

_THREAD_S = 0.002


class Stuck(AntiphonError):
    """Nothing can ever run again, or there is no end to it."""


class SimTask(asyncio.Task[Any]):
    """A task that is hashed by its number, so that sets of tasks have the same order in every run."""

    def __init__(
        self, coro: Coroutine[Any, Any, Any], *, loop: SimLoop, name: str | None = None, context: Context | None = None
    ) -> None:
        self.number = loop.next_number()
        self.tag = b"%d" % self.number
        super().__init__(coro, loop=loop, name=name or f"task-{self.number}", context=context)

    def __hash__(self) -> int:
        return self.number

    __eq__ = object.__eq__


class SimFuture(asyncio.Future[Any]):
    """A future that is hashed by its number."""

    def __init__(self, *, loop: SimLoop) -> None:
        self.number = loop.next_number()
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self.number

    __eq__ = object.__eq__


class SimLoop(asyncio.BaseEventLoop):
    """Runs one callback a step. Of the tasks that can go on a seeded choice takes one; plain callbacks keep
    their order among themselves, as asyncio promises. When nothing can run, time goes on to the next timer.
    """

    def __init__(self, seed: int, *, most_steps: int = 20_000_000) -> None:
        super().__init__()
        self.steps = 0
        self.threads = Threads(self)
        self.network: Any = None
        #: Where each step of a process's task is a point.
        self.effects: Effects | None = None
        self._most_steps = most_steps
        self._random = random.Random(f"{seed}:interleaving")
        self._now = 0.0
        self._ahead = 0.0
        self._numbers = 0
        self._tasks: list[asyncio.Handle] = []
        self._plain: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._stopping = False

    # ------------------------------------------------------------------ time and order

    def time(self) -> float:
        """Virtual seconds since the start."""
        return self._now + self._ahead

    def busy(self, seconds: float) -> None:
        """What runs now blocks its process for so long: to it time has passed, all its other work waits."""
        self._ahead += seconds

    def next_number(self) -> int:
        """Counts what is made here: an order that no memory address decides."""
        self._numbers += 1
        return self._numbers

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """Run *callback* soon."""
        handle = events.Handle(callback, args, self, context)
        self.requeue(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def requeue(self, handle: asyncio.Handle) -> None:
        """Let *handle* run at its next turn."""
        if isinstance(getattr(handle._callback, "__self__", None), SimTask):  # type: ignore[attr-defined]
            self._tasks.append(handle)
        else:
            self._plain.append(handle)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Run *callback* at a time of the loop's clock."""
        timer = events.TimerHandle(when, callback, args, self, context)
        self._numbers += 1
        heapq.heappush(self._timers, (when, self._numbers, timer))
        return timer

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Run *callback* after *delay* seconds."""
        return self.call_at(self._now + self._ahead + delay, callback, *args, context=context)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """A cancelled timer is passed over when its time comes."""

    def _run_once(self) -> None:
        """Run until somebody calls `stop`."""
        tasks, plain, timers, choose = self._tasks, self._plain, self._timers, self._random.random
        while not self._stopping:
            while timers and timers[0][0] <= self._now:
                timer = heapq.heappop(timers)[2]
                if not timer._cancelled:
                    self.requeue(timer)
            chosen = count = len(tasks)
            if tasks:
                chosen = int(choose() * (count + 1 if plain else count))
                if chosen == count:
                    handle = plain.popleft()
                else:
                    # The last one takes its place: which one is next is a matter of chance anyway.
                    handle, tasks[chosen] = tasks[chosen], tasks[-1]
                    tasks.pop()
            elif plain:
                handle = plain.popleft()
            elif timers:
                if timers[0][0] > self._now:
                    self._now = timers[0][0]
                continue
            else:
                raise Stuck("nothing can ever run again", where=f"at {self._now:.3f} s")
            if not handle._cancelled:
                self._run(handle, is_step=chosen < count)

    def _may_step(self, handle: asyncio.Handle, process: Process) -> bool:
        """Whether a task of *process* takes its next step now: a fault may strike here as it does at any effect."""
        if self.effects is None:
            return True
        try:
            fault = self.effects.point("step", handle._callback.__self__.tag, process)  # type: ignore[attr-defined]
        except Killed:
            fault = None
        if fault is not None:
            self.call_later(fault.seconds, self.requeue, handle, context=Context())
            return False
        return process.takes(handle, self._now)

    def _run(self, handle: asyncio.Handle, *, is_step: bool) -> None:
        context = handle._context  # type: ignore[attr-defined]
        process = context.get(PROCESS)
        if process is not None and not (
            process.takes(handle, self._now) and (not is_step or self._may_step(handle, process))
        ):
            return
        self.steps += 1
        if self.steps > self._most_steps:
            raise Stuck(f"no end after {self.steps} steps", where=f"at {self._now:.3f} s")
        try:
            context.run(handle._callback, *handle._args)  # type: ignore[attr-defined]
        except (SystemExit, KeyboardInterrupt, Stuck):
            raise
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001  as asyncio's own loop does
            text = f"Exception in callback {handle!r}"
            self.call_exception_handler({"message": text, "exception": error, "handle": handle})
        if self._ahead:
            if process is not None and process.alive:
                process.stall(self._now + self._ahead)
            self._ahead = 0.0

    # ------------------------------------------------------------------ tasks, futures, threads

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, Any], *, name: str | None = None, context: Context | None = None
    ) -> SimTask:
        """A task of this loop. Raises RuntimeError when that is closed."""
        if self._closed:
            coro.close()  # or it would be complained of that nobody has awaited it
            raise RuntimeError("the world has ended")
        return SimTask(coro, loop=self, name=name, context=context)

    def create_future(self) -> SimFuture:
        """A future of this loop."""
        return SimFuture(loop=self)

    def run_in_executor(self, executor: object, func: Callable[..., Any], *args: Any) -> SimFuture:  # type: ignore[override]
        """Run *func* in a thread in lockstep with the loop, begun at a seeded moment."""
        return self.threads.start(func, args, self._random.random() * _THREAD_S)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Tell of an error that nobody caught; that somebody was killed is none."""
        if not isinstance(context.get("exception"), Killed):
            super().call_exception_handler(context)

    # ------------------------------------------------------------------ the network

    async def getaddrinfo(self, host: Any, port: Any, **_: Any) -> Any:
        """Every name has an address of its own, which is its name."""
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host or "127.0.0.1", int(port or 0)))]

    async def create_connection(self, protocol_factory: Any, host: Any = None, port: Any = None, **options: Any) -> Any:
        """Connect to a server of the simulated network. Raises ConnectionRefusedError."""
        return await self.network.connect(protocol_factory, host, port, options)

    async def create_server(self, protocol_factory: Any, host: Any = None, port: Any = None, **options: Any) -> Any:
        """Listen on the simulated network."""
        return await self.network.listen(protocol_factory, host, port, options)

    # ------------------------------------------------------------------ what the base class needs

    def _process_events(self, event_list: object) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nothing waits outside the loop."""

    def bury(self) -> None:
        """Close the loop and all that is left in it; nothing of it may take effect any more."""
        left = sorted(asyncio.all_tasks(self), key=hash)
        self._closed = True
        self.threads.close()
        running = events._get_running_loop()
        events._set_running_loop(self)  # what they begin now is begun here, where it is refused
        try:
            for task in left:
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                _end(task.get_coro())
        finally:
            events._set_running_loop(running)
        self._tasks.clear()
        self._plain.clear()
        self._timers.clear()


def _end(coroutine: Generator[Any, Any, Any] | Coroutine[Any, Any, Any] | None) -> None:
    try:
        if coroutine is not None:
            coroutine.close()
    except BaseException:  # noqa: BLE001, S110  what it tries now can have no effect
        pass
