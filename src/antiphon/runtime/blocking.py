"""The transaction of functions that run in a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from antiphon.errors import DeclarationError
from antiphon.runtime.transaction import Row, Transaction


class SyncTransaction:
    """The same transaction for ``def`` handlers, which run in a thread: every call blocks until it is done."""

    __slots__ = ("_loop", "_thread", "_tx")

    def __init__(self, tx: Transaction, loop: asyncio.AbstractEventLoop) -> None:
        self._tx = tx
        self._loop = loop
        self._thread = threading.get_ident()

    @property
    def now(self) -> datetime:
        """The time, in UTC."""
        return self._tx.now

    def new_id(self) -> str:
        """A fresh id for something of the caller's own."""
        return self._wait(self._new_id)  # type: ignore[no-any-return]

    def execute(self, sql: str, *parameters: Any) -> int:
        """Run one statement; returns the number of rows that it changed."""
        return self._wait(lambda: self._tx.execute(sql, *parameters))  # type: ignore[no-any-return]

    def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> int:
        """Run one statement for each of *rows*; returns the number of rows changed."""
        return self._wait(lambda: self._tx.execute_many(sql, rows))  # type: ignore[no-any-return]

    def fetch_all(self, sql: str, *parameters: Any) -> list[Row]:
        """All rows of a query."""
        return self._wait(lambda: self._tx.fetch_all(sql, *parameters))  # type: ignore[no-any-return]

    def fetch_one(self, sql: str, *parameters: Any) -> Row | None:
        """The first row of a query, or None."""
        return self._wait(lambda: self._tx.fetch_one(sql, *parameters))

    def fetch_value(self, sql: str, *parameters: Any) -> Any:
        """The first column of the first row, or None."""
        return self._wait(lambda: self._tx.fetch_value(sql, *parameters))

    def publish(self, event: object, *, within: timedelta | None = None) -> str:
        """Publish *event* when the transaction commits; returns its id."""
        return self._wait(lambda: self._publish(event, within))  # type: ignore[no-any-return]

    def request(self, command: object, *, timeout: timedelta | None = None) -> str:
        """Send *command* when the transaction commits; returns the ``request_id`` of whatever answers it."""
        return self._wait(lambda: self._tx.request(command, timeout=timeout))  # type: ignore[no-any-return]

    def reply(self, request_id: str, event: object) -> str:
        """Answer a command that was handled earlier; returns the reply's id."""
        return self._wait(lambda: self._tx.reply(request_id, event))  # type: ignore[no-any-return]

    def publish_later(self, event: object, *, delay: timedelta | None = None, at: datetime | None = None) -> str:
        """Publish *event* after *delay*, or at a time with a zone; returns its id."""
        return self._wait(lambda: self._tx.publish_later(event, delay=delay, at=at))  # type: ignore[no-any-return]

    def cancel(self, event_id: str) -> bool:
        """Take back an event of `publish_later`; False if it has been published already."""
        return self._wait(lambda: self._tx.cancel(event_id))  # type: ignore[no-any-return]

    async def _new_id(self) -> str:
        return self._tx.new_id()

    async def _publish(self, event: object, within: timedelta | None) -> str:
        return self._tx.publish(event, within=within)

    def _wait(self, call: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Have the loop's own thread do it: ids and the transaction are no business of two threads."""
        if threading.get_ident() == self._thread:
            raise DeclarationError(
                "a SyncTransaction was used in the event loop's thread, which would wait for itself",
                mend="Return a list of events, not a generator that still uses the transaction",
            )
        return asyncio.run_coroutine_threadsafe(call(), self._loop).result()
