"""SQLite units that answer only when they are sent, as those of a database at a server do."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from antiphon.errors import StoreError
from antiphon.ports import Held
from antiphon.runtime import ahead
from antiphon.store.sqlite import store as stores
from antiphon.store.sqlite.unit import SqliteUnit


class HoldingUnit(SqliteUnit):
    """Its statements wait for `send`, which gives up the task's turn. *messages* are the numbers sent together."""

    __slots__ = ("_held", "_holder")

    messages: list[int] = []  # noqa: RUF012  shared on purpose: units come and go

    def hold(self) -> bool:
        """From now on statements of the current task wait."""
        self._held: list[Held] = []
        self._holder = asyncio.current_task()
        return True

    async def send(self, *, last: bool = False) -> None:
        """Run what waits, in order."""
        held, self._held = self._held, []
        if last:
            self._holder = None
        if not held:
            return
        self.messages.append(len(held))
        await asyncio.sleep(0)
        for each in held:
            try:
                each.result = await self._run_held(each)
            except sqlite3.Error:
                self.end(StoreError("statements sent together failed"))
                raise

    async def _run_held(self, held: Held) -> Any:
        if held.fetches:
            return await super().fetch_all(held.sql, held.parameters)
        if held.many:
            return await super().execute_many(held.sql, held.parameters)
        return await super().execute(held.sql, held.parameters)

    def _holds(self) -> bool:
        holder = getattr(self, "_holder", None)
        return holder is not None and holder is asyncio.current_task()

    async def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run one statement, when it is sent."""
        if not self._holds():
            return await super().execute(sql, parameters)
        self._held.append(held := Held(sql, parameters))
        return await held  # type: ignore[no-any-return]

    async def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> int:
        """Run one statement for each row, when it is sent."""
        if not self._holds():
            return await super().execute_many(sql, rows)
        self._held.append(held := Held(sql, list(rows), many=True))
        return await held  # type: ignore[no-any-return]

    async def fetch_all(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """All rows of a query, when it is sent."""
        if not self._holds():
            return await super().fetch_all(sql, parameters)
        self._held.append(held := Held(sql, parameters, fetches=True))
        return await held  # type: ignore[no-any-return]


def hold_statements(patch: pytest.MonkeyPatch, trusted_after: int = 0) -> None:
    """Have SQLite's units hold statements, and handlers trusted after so many successes."""
    patch.setattr(ahead, "TRUSTED_AFTER", trusted_after)
    patch.setattr(stores, "SqliteUnit", HoldingUnit)
    patch.setattr(HoldingUnit, "messages", [])
