"""Calls a handler: its parameters by kind, its return value as publications, its outcome as a value."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import suppress
from contextvars import Context
from functools import partial
from types import GeneratorType
from typing import Any, Protocol

from antiphon.errors import AntiphonError, DeclarationError, HandlerTimeout, InvalidEvent, StoreError
from antiphon.model.events import EventType
from antiphon.model.handlers import HandlerSpec
from antiphon.model.retry import minutes
from antiphon.policy.words import sole_error
from antiphon.ports import LoggedEvent, Unit
from antiphon.runtime.blocking import SyncTransaction
from antiphon.runtime.transaction import Delivery, Transaction

SessionOf = Callable[[Unit], Any]
DEFAULT_TIMEOUT = minutes(1)
_SEVERAL = (list, tuple, GeneratorType)


class Busy(Protocol):
    """What a database is reached by."""

    @property
    def busy(self) -> bool:
        """Whether something is on its way to the database, or back."""


class Suspended:
    """A handler's coroutine that has stopped at an await, and what it waits for.

    Awaiting it goes on where it stopped, in the task (and the *context*, if it has one of its own) in which it was
    started: time-outs and cancel scopes that the handler has opened belong to that task.
    """

    __slots__ = ("_coroutine", "_interrupted", "_send", "_throw", "_waiting", "result")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], waiting: Any, context: Context | None = None) -> None:
        self._coroutine = coroutine
        self._send: Callable[[Any], Any] = coroutine.send
        self._throw: Callable[[Any], Any] = coroutine.throw
        if context is not None:
            run: Any = context.run
            self._send, self._throw = partial(run, coroutine.send), partial(run, coroutine.throw)
        self._waiting = waiting
        self._interrupted = False
        self.result: Any = None

    def interrupt(self) -> None:
        """Its task was cancelled while something else was awaited in it: it is told when it goes on."""
        self._interrupted = True

    def close(self) -> None:
        """Give it up where it stands."""
        with suppress(Exception):  # a handler that awaits in its `finally` cannot do so now
            self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        waiting = self._waiting
        if self._interrupted:
            try:
                waiting = self._throw(asyncio.CancelledError())
            except StopIteration as end:
                return end.value
        while True:
            thrown: BaseException | None = None
            sent = None
            try:
                sent = yield waiting
            except GeneratorExit:
                self._coroutine.close()
                raise
            except BaseException as error:  # noqa: BLE001  whatever is thrown in is the handler's
                thrown = error
            try:
                waiting = self._send(sent) if thrown is None else self._throw(thrown)
            except StopIteration as end:
                return end.value

    @types.coroutine
    def while_busy(self, unit: Busy) -> Generator[Any, Any, bool]:
        """Go on as long as what it waits for is the *unit*; whether it has ended, with `result`.

        A store that is reached over a network answers later; that is no wait for the outside.
        """
        while unit.busy:
            thrown: BaseException | None = None
            sent = None
            try:
                sent = yield self._waiting
            except GeneratorExit:
                self._coroutine.close()
                raise
            except BaseException as error:  # noqa: BLE001  whatever is thrown in is the handler's
                thrown = error
            try:
                self._waiting = self._send(sent) if thrown is None else self._throw(thrown)
            except StopIteration as end:
                self.result = end.value
                return True
        return False

    def place(self) -> str:
        """Where the handler waits, as ``file:line`` of its innermost own frame."""
        frame = getattr(self._coroutine, "cr_frame", None)
        return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else "an await"


def as_failure(error: BaseException) -> Exception | None:
    """What a handler that raised *error* has failed of; None if that is no fault of the handler's.

    An error of the store is none, nor is the cancellation of our own task. A cancellation from within,
    of something that the handler awaits, is; so is ``sys.exit``, which must not end the process.
    """
    alone = sole_error(error)
    if isinstance(alone, StoreError | KeyboardInterrupt | GeneratorExit):
        return None
    if isinstance(alone, Exception):
        return error if isinstance(error, Exception) else alone
    task = asyncio.current_task()
    if isinstance(alone, asyncio.CancelledError) and task is not None and task.cancelling():
        return None
    failure = AntiphonError(f"the handler ended with {type(alone).__name__}")
    failure.__cause__ = alone
    return failure.with_traceback(error.__traceback__)


class Invoker:
    """Calls one handler."""

    def __init__(self, spec: HandlerSpec, session_of: SessionOf | None = None) -> None:
        self.spec = spec
        self._session_of = session_of
        self._types: dict[str, EventType] = {event_type.name: event_type for event_type in spec.types}
        self._kinds = tuple(kind for _, kind in spec.parameters)
        self._names = tuple(name for name, _ in spec.parameters)

    def decode(self, event: LoggedEvent) -> Any:
        """The event's object. Raises InvalidEvent with the field and the reason."""
        envelope = event.envelope
        try:
            event_type = self._types[envelope.type]
        except KeyError:
            raise InvalidEvent(envelope.type, "type", f"{self.spec.name} does not handle it any more") from None
        return event_type.decode(envelope.data, envelope.version)

    def begin(self, event: LoggedEvent, number: int, tx: Transaction) -> Any:
        """Run an ``async def`` handler until it ends or awaits something; a Suspended if it awaits."""
        coroutine = self._call(event, number, tx)
        try:
            waiting = coroutine.send(None)
        except StopIteration as end:
            self.publish(tx, end.value)
            return None
        return Suspended(coroutine, waiting)

    def _call(self, event: LoggedEvent, number: int, tx: Transaction) -> Any:
        kinds = self._kinds
        fn = self.spec.fn
        if kinds == ("event", "transaction"):
            return fn(self.decode(event), tx)
        if kinds == ("event",):
            return fn(self.decode(event))
        if "session" in kinds:
            return self._with_session(event, number, tx)
        return fn(**self._arguments(event, number, tx))

    def _arguments(self, event: LoggedEvent, number: int, tx: Transaction, session: Any = None) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name, kind in self.spec.parameters:
            if kind == "event":
                values[name] = self.decode(event)
            elif kind == "transaction":
                values[name] = tx
            elif kind == "sync_transaction":
                values[name] = SyncTransaction(tx, asyncio.get_running_loop())
            elif kind == "session":
                values[name] = session
            elif kind == "effects":
                values[name] = tx.effects
            else:
                values[name] = Delivery(number, event.envelope, self.spec.name)
        return values

    async def _with_session(self, event: LoggedEvent, number: int, tx: Transaction) -> Any:
        if self._session_of is None:
            raise DeclarationError(
                "asks for an AsyncSession", where=self.spec.name, mend="Install antiphon[sqlalchemy]"
            )
        async with self._session_of(await tx.unit()) as session:
            result = await self.spec.fn(**self._arguments(event, number, tx, session))
            await session.commit()  # flushes; the transaction itself is the runtime's to commit
        return result

    def call(self, event: LoggedEvent, number: int, tx: Transaction) -> Awaitable[Any]:
        """An ``async def`` handler's coroutine, not started."""
        coroutine: Awaitable[Any] = self._call(event, number, tx)
        return coroutine

    def blocking(self, event: LoggedEvent, number: int, tx: Transaction) -> Callable[[], Any]:
        """A ``def`` handler's call, to be made in a thread."""
        arguments = self._arguments(event, number, tx)

        def call() -> Any:
            result = self.spec.fn(**arguments)
            # What a generator still does, it does in this thread.
            return list(result) if isinstance(result, GeneratorType) else result

        return call

    async def within_limit(self, call: Awaitable[Any], tx: Transaction | None = None) -> Any:
        """Await *call*. Raises HandlerTimeout when it takes longer than the handler may; what *tx* waits for others
        who write does not count."""
        limit_s = (self.spec.timeout or DEFAULT_TIMEOUT).total_seconds()
        try:
            async with asyncio.timeout(limit_s) as limit:
                if tx is not None:
                    tx.limit = limit
                return await call
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise HandlerTimeout(
                f"did not end within {limit_s:g} s", where=self.spec.name, mend="Raise its timeout="
            ) from error
        finally:
            if tx is not None:
                tx.limit = None

    def publish(self, tx: Transaction, result: Any) -> None:
        """Publish what a handler returned: an event, several, or None. Raises NotAnnotated, InvalidEvent."""
        if result is None:
            return
        if isinstance(result, _SEVERAL):
            for event in result:
                tx.publish(event)
        else:
            tx.publish(result)
