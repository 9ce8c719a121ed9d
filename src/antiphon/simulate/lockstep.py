"""Blocking calls in real threads, of which never more than one runs, and only while the loop stands still."""

from __future__ import annotations

import _thread
import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from antiphon.simulate.process import PROCESS, Killed

if TYPE_CHECKING:
    from antiphon.simulate.loop import SimFuture, SimLoop

_here = threading.local()


class _Call:
    """A blocking call. `go` runs it until it ends or asks the loop for something."""

    def __init__(self, threads: Threads, fn: Callable[..., Any], args: tuple[Any, ...], future: SimFuture) -> None:
        self._threads = threads
        self._fn = fn
        self._args = args
        self._future = future
        self._context = copy_context()
        self._process = PROCESS.get()
        self._thread: _Thread | None = None
        self._answer: Callable[[], Any] | None = None
        self.asked: Coroutine[Any, Any, Any] | None = None
        self.outcome: Callable[[], Any] | None = None

    # ------------------------------------------------------------------ in the loop

    def go(self) -> None:
        """Let the thread run to where it stops."""
        if self._thread is None:
            if self._future.cancelled():
                return
            self._thread = self._threads.take()
            if self._process is not None:
                self._process.on_kill[self] = self.abandon
        self._thread.switch(self)
        if self.outcome is None:
            assert self.asked is not None
            task = self._threads.loop.create_task(self.asked, context=self._context)
            task.add_done_callback(self._answered)
            return
        self._threads.give_back(self._thread)
        if self._process is not None:
            self._process.on_kill.pop(self, None)
            if not self._process.alive:
                return
        if not self._future.done():
            try:
                self._future.set_result(self.outcome())
            except Exception as error:  # noqa: BLE001  it is the caller's
                self._future.set_exception(error)

    def _answered(self, task: asyncio.Task[Any]) -> None:
        self._answer = task.result
        self.go()

    def abandon(self) -> None:
        """Its process has been killed: it is told so where it waits, unless it is what runs now."""
        if self.outcome is None and self.asked is not None and getattr(_here, "call", None) is not self:
            self._answer = _killed
            self.go()

    # ------------------------------------------------------------------ in the thread

    def run(self) -> None:
        """Make the call."""
        _here.call = self
        try:
            result = self._context.copy().run(self._fn, *self._args)
            self.outcome = lambda: result
        except BaseException as error:  # noqa: BLE001  raised where the call is awaited
            raised = error
            self.outcome = lambda: _raise(raised)
        finally:
            _here.call = None

    def ask(self, coro: Coroutine[Any, Any, Any]) -> Any:
        """Have the loop run *coro*; its result."""
        if self._process is not None and not self._process.alive:
            coro.close()
            raise Killed
        assert self._thread is not None
        self.asked = coro
        self._thread.wait()
        self.asked = None
        assert self._answer is not None
        return self._answer()


class _Thread:
    """A thread that takes turns with the loop."""

    def __init__(self) -> None:
        self._go, self._stop = _thread.allocate_lock(), _thread.allocate_lock()
        self._go.acquire()
        self._stop.acquire()
        self._call: _Call | None = None
        _thread.start_new_thread(self._serve, ())

    def switch(self, call: _Call | None) -> None:
        """Run it until it waits, or is through with *call*."""
        self._call = call
        self._go.release()
        self._stop.acquire()

    def wait(self) -> None:
        """In the thread: let the loop run until it switches back."""
        self._stop.release()
        self._go.acquire()

    def _serve(self) -> None:
        self._go.acquire()
        while self._call is not None:
            self._call.run()
            self.wait()
        self._stop.release()


class Threads:
    """The threads of one loop."""

    def __init__(self, loop: SimLoop) -> None:
        self.loop = loop
        self._idle: list[_Thread] = []

    def start(self, fn: Callable[..., Any], args: tuple[Any, ...], delay: float) -> SimFuture:
        """Run ``fn(*args)`` in a thread, from *delay* seconds on; the future has what comes of it."""
        future = self.loop.create_future()
        self.loop.call_later(delay, _Call(self, fn, args, future).go)
        return future

    def take(self) -> _Thread:
        """A thread that is free."""
        return self._idle.pop() if self._idle else _Thread()

    def give_back(self, thread: _Thread) -> None:
        """The thread is free."""
        self._idle.append(thread)

    def close(self) -> None:
        """End the free threads: those of killed processes are among them."""
        for thread in self._idle:
            thread.switch(None)
        self._idle.clear()


def run_coroutine_threadsafe(
    coro: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop
) -> concurrent.futures.Future[Any]:
    """``asyncio.run_coroutine_threadsafe`` for threads in lockstep: when it returns, the coroutine has ended."""
    call: _Call | None = getattr(_here, "call", None)
    if call is None:
        raise RuntimeError("this thread was not started through the event loop, and cannot be simulated")
    future: concurrent.futures.Future[Any] = concurrent.futures.Future()
    try:
        future.set_result(call.ask(coro))
    except Exception as error:  # noqa: BLE001  it is raised where the result is asked for
        future.set_exception(error)
    return future


def _killed() -> Any:
    raise Killed


def _raise(error: BaseException) -> Any:
    raise error
