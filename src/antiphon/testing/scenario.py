"""One handler alone: given what came before, when an event comes, then this is what follows.

No runtime and no loops: the handler is called once, in a real transaction on a temporary store.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Coroutine
from contextvars import copy_context
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple, TypeVar

from antiphon.errors import DeclarationError, Reject
from antiphon.model.events import event_type_of
from antiphon.model.handlers import HandlerSpec, ServiceSpec
from antiphon.policy.words import describe, shortened
from antiphon.ports import INTERNAL, LoggedEvent
from antiphon.runtime.invoke import Invoker, SessionOf, as_failure
from antiphon.runtime.transaction import Publisher, Transaction
from antiphon.service import Service
from antiphon.store.sqlite.store import SqliteStore
from antiphon.testing.assertions import Handler, handler_named
from antiphon.testing.clock import VirtualClock
from antiphon.testing.stage import temporary_folder

T = TypeVar("T")
Row = tuple[Any, ...]


def given(service: Service, *events: object) -> Given:
    """A *service* whose handlers have handled *events*, one after the other; what these published is left out."""
    return Given(service.spec, list(events))


class _Statement(NamedTuple):
    """SQL to be run before the event comes."""

    sql: str
    parameters: tuple[Any, ...]


class Given:
    """What came before."""

    def __init__(self, service: ServiceSpec, before: list[object]) -> None:
        self._service = service
        self._before = before

    def having(self, sql: str, *parameters: Any) -> Given:
        """And one SQL statement has been run: for rows that no event of this service makes."""
        return Given(self._service, [*self._before, _Statement(sql, parameters)])

    def when(self, event: object, *, handler: Handler | None = None) -> Outcome:
        """*event* comes. *handler*, the function or its name, is said where several handle it.

        Raises InvalidEvent for one that could not have been published, DeclarationError if nobody handles it.
        """
        spec = self._handler(event, handler)
        return _in_a_loop(self._play(event, spec))

    def _handler(self, event: object, handler: Handler | None) -> HandlerSpec:
        handling = self._handling(event)
        if handler is not None:
            name = f"{self._service.name}.{handler}" if isinstance(handler, str) and "." not in handler else handler
            full = handler_named(name, {each.name: each.fn for each in handling})
            return next(each for each in handling if each.name == full)
        if len(handling) != 1:
            names = ", ".join(each.name for each in handling) or "none"
            raise DeclarationError(
                f"{len(handling)} handlers of service {self._service.name!r} take {event_type_of(event).name}: {names}",
                where="when(...)",
                mend="Say handler=" if handling else "",
            )
        return handling[0]

    def _handling(self, event: object) -> list[HandlerSpec]:
        name = event_type_of(event).name
        return [each for each in self._service.handlers if name in each.type_names]

    async def _play(self, event: object, spec: HandlerSpec) -> Outcome:
        with temporary_folder() as folder:
            clock = VirtualClock()
            path = Path(folder) / f"{self._service.name}.db"
            tables = {self._service.name: self._service.tables}
            store = SqliteStore(path, clock=clock, owner="scenario", tables=tables)
            await store.open()
            try:
                for step in self._before:
                    await self._prepare(store, clock, step)
                published, error = await _attempt(store, clock, spec, event)
                rows = sqlite3.connect(":memory:", check_same_thread=False)
                store.writer.connection.backup(rows)
            finally:
                await store.close()
            return Outcome(spec.name, published, error, rows)

    async def _prepare(self, store: SqliteStore, clock: VirtualClock, step: object) -> None:
        if isinstance(step, _Statement):
            async with store.unit() as unit:
                await unit.execute(*step)
            return
        handling = self._handling(step)
        if not handling:
            raise DeclarationError(
                f"no handler of service {self._service.name!r} takes {event_type_of(step).name}",
                where="given(...)",
                mend="Rows that no event makes: given(...).having(sql, ...)",
            )
        for spec in handling:
            _, error = await _attempt(store, clock, spec, step)
            if error is not None:
                raise AssertionError(f"given {_short(step)}: {spec.name} raised {describe(error)}") from error


class Outcome:
    """What has followed. Each claim returns the same, for the next one."""

    def __init__(
        self, handler: str, published: list[object], error: Exception | None, rows: sqlite3.Connection
    ) -> None:
        self._handler = handler
        self._rows = rows
        #: What the handler published, in order; nothing if it failed.
        self.published = published
        #: What it raised.
        self.error = error

    def then(self, *expected: object) -> Outcome:
        """It published exactly these, in order. A class stands for any event of it."""
        if self.error is not None:
            raise AssertionError(f"{self._handler} raised {describe(self.error)}") from self.error
        if len(self.published) != len(expected) or not all(map(_fits, self.published, expected)):
            raise AssertionError("\n".join([f"{self._handler} published otherwise", *self._differences(expected)]))
        return self

    def then_rejected(self, reason: str = "") -> Outcome:
        """It refused the event (`Reject`), with *reason* in its text."""
        return self.then_raises(Reject, reason)

    def then_raises(self, error: type[Exception], text: str = "") -> Outcome:
        """It raised an *error*, with *text* in it; nothing of what it did is kept."""
        if self.error is None:
            followed = ", ".join(map(_short, self.published)) or "nothing"
            raise AssertionError(f"{self._handler} raised no {error.__name__}, but published {followed}")
        if not isinstance(self.error, error) or text not in str(self.error):
            wanted = f"{error.__name__} with {text!r}" if text else error.__name__
            raise AssertionError(f"{self._handler} raised {describe(self.error)}, not {wanted}") from self.error
        return self

    def then_rows(self, sql: str, *rows: Row) -> Outcome:
        """The query finds exactly these *rows*, as committed, in order."""
        found = [tuple(row) for row in self._rows.execute(sql).fetchall()]
        if found != list(rows):
            raise AssertionError(f"{sql}\n  finds {found}\n  not   {list(rows)}")
        return self

    def _differences(self, expected: tuple[object, ...]) -> list[str]:
        lines = []
        for number in range(max(len(expected), len(self.published))):
            published = _short(self.published[number]) if number < len(self.published) else "nothing"
            wanted = _short(expected[number]) if number < len(expected) else "nothing"
            if number < min(len(expected), len(self.published)) and _fits(self.published[number], expected[number]):
                lines.append(f"  {number + 1}. {published}")
            else:
                lines += [f"  {number + 1}. {published}", f"     not {wanted}"]
        return lines


def _fits(event: object, expected: object) -> bool:
    return isinstance(event, expected) if isinstance(expected, type) else event == expected


async def _attempt(
    store: SqliteStore, clock: VirtualClock, spec: HandlerSpec, event: object
) -> tuple[list[object], Exception | None]:
    """What *spec* publishes at *event*, or what it raises; committed, or undone."""
    envelope, _ = Publisher("given", clock, None).envelope(event, None, None)
    publisher = Publisher(spec.service, clock, frozenset(each.name for each in spec.publishes), spec.name)
    tx = Transaction(store, publisher, envelope)
    invoker = Invoker(spec, _session_of(spec))
    logged = LoggedEvent(1, envelope)
    try:
        if spec.is_async:
            result = await invoker.within_limit(invoker.call(logged, 1, tx))
        else:
            result = await clock.run_blocking(invoker.blocking(logged, 1, tx))
        invoker.publish(tx, result)
        types = {each.name: each for each in spec.publishes}
        published = [types[each.type].decode(each.data, each.version) for each, at in tx.outgoing if at != INTERNAL]
        await tx.flush()
    except BaseException as error:
        await tx.abandon(error)
        failure = as_failure(error)
        if failure is None:
            raise
        return [], failure
    await tx.commit()
    return published, None


def _session_of(spec: HandlerSpec) -> SessionOf | None:
    if all(kind != "session" for _, kind in spec.parameters):
        return None
    from antiphon.store.sqlite.sessions import Sessions

    return Sessions()


def _in_a_loop(work: Coroutine[Any, Any, T]) -> T:
    """The result of *work* in a loop and a thread of its own: the caller may have a loop that runs."""
    done: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(asyncio.run(work))
        except BaseException as error:  # noqa: BLE001  raised again where it was asked for
            failed.append(error)

    thread = Thread(target=copy_context().run, args=(run,), name="scenario")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return done[0]


def _short(event: object) -> str:
    return event.__name__ if isinstance(event, type) else shortened(repr(event), 300) or ""
