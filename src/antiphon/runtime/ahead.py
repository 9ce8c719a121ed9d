"""Handles a batch in which nothing is expected to go wrong: no savepoints, and handlers that start ahead.

Where statements take a way to a server and back, a handler is started as soon as the one before it waits for the
answer to what will be its last statement, and the statements of many travel together. The server gets them in the
order in which handlers would have run one after the other; each goes on with its own answer, and not before the one
ahead of it has ended. So only what stands before a handler's first statement runs early, and never beside another
event of its key. Whatever comes otherwise undoes the whole batch (`NotPlain`), which is then handled with care; its
handlers have been called in vain then, so one has to have succeeded for a while before its batches are tried so.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from contextvars import copy_context
from typing import Any

from antiphon.ports import Held, Store, Unit
from antiphon.runtime.attempt import Attempt
from antiphon.runtime.invoke import Invoker, Suspended, as_failure
from antiphon.runtime.transaction import Publisher, Transaction

#: So many events in a row must have taken effect before a handler's batches go without savepoints.
TRUSTED_AFTER = 256
# So many handlers are under way at first, and at most: more while messages are answered soon, fewer while they are not.
_FIRST_AHEAD, _MOST_AHEAD = 16, 128
# How many statements a handler makes is known after so many of its calls.
_CALLS_TO_KNOW = 8
_LOOK_AT_CLOCK_EVERY = 8
_ENDED = object()


class NotPlain(Exception):
    """The batch has to be handled with care, event by event. Nothing of it was kept."""


class Habits:
    """What a handler has done lately, and so is expected to do."""

    def __init__(self) -> None:
        self._in_a_row = 0
        self._most = 0
        self._calls = 0
        #: How many handlers may be under way.
        self.room = _FIRST_AHEAD

    @property
    def trusted(self) -> bool:
        """Whether it has succeeded often enough."""
        return self._in_a_row >= TRUSTED_AFTER

    def succeeded(self, count: int) -> None:
        """So many events took effect, and nothing else happened."""
        self._in_a_row += count

    def failed(self) -> None:
        """Something else happened."""
        self._in_a_row = min(self._in_a_row, 0)

    def waited(self) -> None:
        """It has awaited something outside the database after it had written: it is never trusted again."""
        self._in_a_row = -sys.maxsize

    def answered(self, count: int, after_ms: int, within_ms: int) -> None:
        """A message of so many statements was: what is sent at once keeps its locks, and counts against the time
        limit of one handler."""
        if after_ms > within_ms:
            self.room = max(1, self.room // 2)
        elif count >= self.room and after_ms < within_ms // 2:
            self.room = min(_MOST_AHEAD, 2 * self.room)

    def made(self, statements: int) -> None:
        """A call has ended that made so many."""
        self._most = max(self._most, statements)
        self._calls += 1

    def surprised(self, statements: int) -> None:
        """A call went on when it was taken to have made its last one. Doubled, so that few such surprises are left."""
        self._most = max(self._most, 2 * statements)

    def is_last(self, statements: int) -> bool:
        """Whether a call that waits for so many is taken to make no more."""
        return self._calls >= _CALLS_TO_KNOW and statements >= self._most


class _Call:
    """One handler under way."""

    __slots__ = ("attempt", "context", "coroutine", "result", "statements", "tx", "waiting")

    def __init__(self, attempt: Attempt, tx: Transaction, coroutine: Any) -> None:
        self.attempt = attempt
        self.tx = tx
        self.coroutine = coroutine
        # Those under way at a time must not see each other's context variables.
        self.context = copy_context()
        self.statements = 0
        self.waiting: Any = None
        self.result: Any = None

    def step(self, value: Any) -> None:
        """Go on until it awaits something or ends. Raises whatever it raises."""
        try:
            self.waiting = self.context.run(self.coroutine.send, value)
        except StopIteration as end:
            self.waiting, self.result = _ENDED, end.value
        else:
            self.statements += type(self.waiting) is Held

    def give_up(self) -> None:
        """Go no further."""
        with suppress(Exception):  # a handler that awaits in its `finally` cannot do so now
            self.coroutine.close()
        self.tx.end()


class Ahead:
    """The calls of one batch that are under way, in order, on a unit that holds their statements. Only the last may
    have statements still to make.

    *succeed* is told of each event in order; *resume* takes over one that awaits something outside the database, and
    says whether it has ended (if not, the batch ends with it).
    """

    def __init__(
        self,
        unit: Unit,
        store: Store,
        invoker: Invoker,
        publisher: Publisher,
        habits: Habits,
        succeed: Callable[[Transaction, Attempt], None],
        resume: Callable[[Suspended, Transaction, Attempt], Awaitable[bool]],
    ) -> None:
        self._unit = unit
        self._store = store
        self._invoker = invoker
        self._publisher = publisher
        self._habits = habits
        self._succeed = succeed
        self._resume = resume
        self._under_way: list[_Call] = []
        self._keys: set[str] = set()

    async def handle_all(self, attempts: Sequence[Attempt]) -> None:
        """Handle *attempts*, or as many as there is time for. Raises NotPlain, StoreError."""
        try:
            await self._handle_all(attempts)
            await self._unit.send(last=True)
        except BaseException as error:
            for call in self._under_way:
                call.give_up()
            # A time limit of a handler's own cancels this very task; given up, the handler has taken that back.
            if isinstance(error, NotPlain) or as_failure(error) is None:
                raise
            raise NotPlain from error

    async def _handle_all(self, attempts: Sequence[Attempt]) -> None:
        deadline = self._store.store_ms() + self._store.batch_ms
        under_way = self._under_way
        for count, attempt in enumerate(attempts, 1):
            if under_way:
                while self._is_in_the_way(attempt):
                    if not await self._advance():
                        return
            if count % _LOOK_AT_CLOCK_EVERY == 0 and self._store.store_ms() > deadline:
                break
            call = self._call(attempt)
            under_way.append(call)
            if attempt.key is not None:
                self._keys.add(attempt.key)
            call.step(None)
            while not self._may_follow(call):
                if not await self._advance():
                    return
        while under_way:
            if not await self._advance():
                return

    def _call(self, attempt: Attempt) -> _Call:
        tx = Transaction(self._store, self._publisher, attempt.event.envelope, self._unit)
        tx.unmarked = True
        return _Call(attempt, tx, self._invoker.call(attempt.event, attempt.number, tx))

    def _is_in_the_way(self, attempt: Attempt) -> bool:
        """Whether somebody has to end before *attempt* begins."""
        return attempt.key in self._keys or len(self._under_way) >= self._habits.room

    def _may_follow(self, call: _Call) -> bool:
        """Whether the next one may begin, as far as the last one is concerned."""
        if call.waiting is _ENDED:
            return len(self._under_way) != 1
        return type(call.waiting) is Held and self._habits.is_last(call.statements)

    async def _advance(self) -> bool:
        """Have what waits sent, and let those go on who get an answer, each when the one ahead has ended. False if
        one has left the batch."""
        under_way = self._under_way
        waiting = sum(type(call.waiting) is Held for call in under_way)
        if waiting:
            began_ms = self._store.store_ms()
            try:
                await self._invoker.within_limit(self._unit.send())
            finally:
                took_ms = self._store.store_ms() - began_ms
                self._habits.answered(waiting, took_ms, self._store.batch_ms)
        while under_way:
            call = under_way[0]
            if type(call.waiting) is Held:
                call.step(call.waiting.result)
                if type(call.waiting) is Held:
                    if any(each.statements for each in under_way[1:]):
                        self._habits.surprised(call.statements)
                        raise NotPlain
                    return True
            if call.waiting is _ENDED:
                self._invoker.publish(call.tx, call.result)
                self._end(call)
            elif len(under_way) > 1:
                self._habits.surprised(sys.maxsize)
                raise NotPlain
            else:
                return await self._go_outside(call)
        return True

    async def _go_outside(self, call: _Call) -> bool:
        """The only one awaits something else than its statements. False if it has left the batch."""
        await self._unit.send(last=True)
        suspended = Suspended(call.coroutine, call.waiting, call.context)
        if self._unit.busy and await self._invoker.within_limit(suspended.while_busy(self._unit)):
            self._invoker.publish(call.tx, suspended.result)
        elif not await self._resume(suspended, call.tx, call.attempt):
            self._under_way.clear()
            return False
        call.waiting = _ENDED
        self._end(call)
        self._unit.hold()
        return True

    def _end(self, call: _Call) -> None:
        """The first one has taken effect."""
        self._succeed(call.tx, call.attempt)
        self._habits.made(call.statements)
        del self._under_way[0]
        if call.attempt.key is not None:
            self._keys.discard(call.attempt.key)
