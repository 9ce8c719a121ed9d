"""Processes inside one process: each can be killed where it stands, and then none of its code runs again.

A kill runs no ``finally`` and no ``except``: a killed task is not cancelled, it is never stepped again, and is kept
as it is, since a coroutine that is thrown away runs its ``finally`` too.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, WeakSet

T = TypeVar("T")
Work = Coroutine[Any, Any, T]

_here: ContextVar[Process | None] = ContextVar("antiphon_test_process", default=None)
# What was killed is kept for good.
_graveyard: list[object] = []


class Killed(ConnectionError):
    """The process that was asked has been killed, and will not answer."""


class Process:
    """Tasks that live and die together: all that are made by `start` and `run`, and by those in turn."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_dead = False
        self._died: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks: WeakSet[asyncio.Task[Any]] = WeakSet()
        self._generators: WeakSet[AsyncGenerator[Any, Any]] = WeakSet()

    def start(self, work: Work[T]) -> asyncio.Task[T]:
        """Do *work* in a task of this process."""
        return asyncio.get_running_loop().create_task(work, context=_context_of(self))

    async def run(self, work: Work[T]) -> T:
        """The result of *work*, done in this process. Raises Killed if the process is killed meanwhile."""
        task = self.start(work)
        either: list[asyncio.Future[Any]] = [task, self._died]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if task.done():
            return task.result()
        raise Killed(f"{self.name} was killed")

    def kill(self) -> None:
        """Let no task of this process take another step."""
        if self.is_dead:
            return
        self.is_dead = True
        _graveyard.append((self, list(self._generators)))
        for task in list(self._tasks):
            self._bury(task)
        self._died.set_result(None)

    def adopt(self, task: asyncio.Task[Any]) -> None:
        """Know of a task."""
        self._tasks.add(task)
        if self.is_dead:
            self._bury(task)

    @staticmethod
    def _bury(task: asyncio.Task[Any]) -> None:
        if task.done():
            return
        _graveyard.append(task)
        # Documented for task implementations of others. The end of the loop must not wait for this one.
        asyncio.tasks._unregister_task(task)
        coroutine = task.get_coro()
        if isinstance(coroutine, _Mortal) and coroutine.is_awaited_by_thread:
            task.cancel()

    def adopt_generator(self, generator: AsyncGenerator[Any, Any]) -> None:
        """Know of an asynchronous generator, in place of the loop, which would close it at its end."""
        self._generators.add(generator)


def process_here() -> Process | None:
    """The process that runs this code; None outside of all."""
    return _here.get()


def start_outside(work: Work[T]) -> asyncio.Task[T]:
    """Do *work* in a task that belongs to no process, so that a process may ask for its own end."""
    return asyncio.get_running_loop().create_task(work, context=_context_of(None))


def _context_of(process: Process | None) -> Any:
    context = copy_context()
    context.run(_here.set, process)
    return context


class _Mortal(Coroutine[Any, Any, Any]):
    """A coroutine that goes no further once its process is dead.

    *is_awaited_by_thread*: a thread waits for its result. Threads cannot be killed, so it is told of a cancellation.
    """

    def __init__(self, inner: Work[Any], process: Process, is_awaited_by_thread: bool) -> None:
        self._inner = inner
        self._process = process
        self.is_awaited_by_thread = is_awaited_by_thread
        self.__name__ = getattr(inner, "__name__", "work")
        self.__qualname__ = getattr(inner, "__qualname__", self.__name__)

    def send(self, value: Any) -> Any:
        """Step."""
        return self._step(self._inner.send, value)

    def throw(self, *error: Any) -> Any:
        """Step, with an error."""
        return self._step(self._inner.throw, *error)

    def close(self) -> None:
        """End, unless it is dead already."""
        if not self._process.is_dead:
            self._inner.close()

    def __await__(self) -> Any:
        return (yield from self._inner.__await__())

    def _step(self, step: Callable[..., Any], *arguments: Any) -> Any:
        if self._process.is_dead:
            if self.is_awaited_by_thread:
                raise asyncio.CancelledError
            # What it waits for never comes.
            return next(asyncio.get_running_loop().create_future().__await__())
        before = sys.get_asyncgen_hooks().firstiter
        sys.set_asyncgen_hooks(firstiter=self._process.adopt_generator)
        try:
            return step(*arguments)
        finally:
            sys.set_asyncgen_hooks(firstiter=before)


_users: WeakKeyDictionary[asyncio.AbstractEventLoop, int] = WeakKeyDictionary()


@contextmanager
def processes_possible() -> Iterator[None]:
    """Meanwhile the running loop makes the tasks of processes so that they can be killed."""
    loop = asyncio.get_running_loop()
    _users[loop] = _users.get(loop, 0) + 1
    if _users[loop] == 1:
        loop.set_task_factory(_Factory(loop.get_task_factory()))
    try:
        yield
    finally:
        _users[loop] -= 1
        ours = loop.get_task_factory()
        if not _users[loop] and isinstance(ours, _Factory):
            loop.set_task_factory(ours.before)


class _Factory:
    """Makes tasks as the loop did *before*, those of a process of mortal coroutines."""

    def __init__(self, before: Any) -> None:
        self.before = before

    def __call__(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
        context = options.get("context")
        process = _here.get() if context is None else context.get(_here)
        if process is not None:
            # What is made in no task was asked for by a thread (asyncio.run_coroutine_threadsafe).
            coroutine = _Mortal(coroutine, process, asyncio.current_task(loop) is None)
        if self.before is None:
            task = asyncio.Task(coroutine, loop=loop, **options)
        else:
            task = self.before(loop, coroutine, **options)
        if process is not None:
            process.adopt(task)
        return task
