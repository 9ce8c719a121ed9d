"""The chain of ``antiphon bench`` on MariaDB, beside a loop of batched SQL written by hand, in the same run.

    python benchmarks/mariadb_chain.py mariadb://root@127.0.0.1:3306/bench --events 20000

The loop is that of `postgres_chain`, said to MariaDB: the same tables, indexes and batches, one commit for each batch
and step, each batch's rows bound in one message; it draws its positions from the same row. It has no validation,
savepoints, leases or other processes. The databases ``bench_ours`` and ``bench_by_hand`` (the URL's name goes before)
are made anew, and dropped at the end.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import postgres_chain

from antiphon.bench.workload import BATCH
from antiphon.model.handlers import ServiceSpec
from antiphon.runtime.clock import SystemClock
from antiphon.store.mariadb.connection import Session, address, connect, prefix_of
from antiphon.store.mariadb.queries import query
from antiphon.store.mariadb.statements import understood
from antiphon.store.mariadb.store import MariaStore

OURS, BY_HAND = "ours", "by_hand"
_READ = understood(query("read_type"))
_DRAW = understood(query("draw_more"))
_MOVE = understood(query("move_cursor"))
_NOTE = understood(query("mark_progress"))
_COLUMNS = "id, type, version, `key`, service, time_ms, correlation_id, causation_id, origin, data"


def specs() -> list[ServiceSpec]:
    """The services of the workload, with their tables as MariaDB has them."""
    return [
        dataclasses.replace(
            spec,
            tables=spec.tables.replace("TEXT    PRIMARY", "VARCHAR(64) PRIMARY").replace(
                "ON CONFLICT (id) DO NOTHING", "ON DUPLICATE KEY UPDATE id = VALUES(id)"
            ),
        )
        for spec in postgres_chain.specs()
    ]


class _Connection:
    """What the loop wants of a connection and of a cursor."""

    def __init__(self, session: Session) -> None:
        self.session = session

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """One transaction."""
        yield
        await self.session.say("COMMIT")

    async def executemany(self, sql: bytes, rows: Sequence[tuple[Any, ...]]) -> None:
        """A statement for many rows."""
        statement = understood(re.sub(r"\$(\d)", r"?\1", sql.decode()))
        if rows and not rows[0]:
            await self.session.run_together([(statement, row) for row in rows])
        else:
            await self.session.run_many(statement.text, [statement.bound(row) for row in rows])


class HandWritten(postgres_chain.HandWritten):
    """The loop on MariaDB."""

    def __init__(self, session: Session, handlers: dict[str, int]) -> None:
        self._session = session
        self._connection = self._cursor = _Connection(session)  # type: ignore[assignment]
        self._handlers = handlers
        self._clock = SystemClock()
        self._billed = self._counted = 0

    async def _read(self, type_: str, after: int) -> list[tuple[Any, ...]]:
        return list((await self._session.run(_READ, (type_, after, BATCH))).rows)

    async def _append(self, rows: list[tuple[Any, ...]]) -> None:
        head = (await self._session.run(_DRAW, (len(rows),))).insert_id
        # The last four of what a row has before its origin and data are nobody's here; what has no cause has no column.
        caused = rows[0][6] is not None
        kept = [(*row[:8], row[12], row[13]) if caused else (*row[:6], row[12], row[13]) for row in rows]
        columns = _COLUMNS if caused else _COLUMNS.replace("correlation_id, causation_id, ", "")
        text = f"INSERT INTO antiphon_log (seq, {columns}) VALUES (?{', ?' * len(kept[0])})"
        await self._session.run_many(
            f"{text} ON DUPLICATE KEY UPDATE id = antiphon_log.id",
            [(head - len(rows) + 1 + n, *row) for n, row in enumerate(kept)],
        )

    async def _settle(self, handler: str, seq: int, count: int, now: int) -> None:
        number = self._handlers[handler]
        await self._session.run(_MOVE, (seq, count, 0, now, number, 0))
        await self._session.run(_NOTE, (number, seq, now))


async def by_hand(url: str, events: int) -> float:
    """Events a second of the loop."""
    where = address(url, BY_HAND)
    store = MariaStore(where, clock=SystemClock(), owner="bench", tables={each.name: each.tables for each in specs()})
    await store.open()
    await store.register([handler for spec in specs() for handler in spec.handlers])
    handlers = {row["name"]: row["id"] for row in await store.fetch_all("SELECT name, id FROM antiphon_handlers")}
    await store.close()
    session = await connect(where, autocommit=False)
    try:
        started = time.perf_counter()
        await HandWritten(session, handlers).run(events)
        return events / (time.perf_counter() - started)
    finally:
        await session.close()


async def drop(url: str) -> None:
    """Leave nothing behind."""
    session = await connect(address(url, OURS), database=False)
    try:
        for name in (OURS, BY_HAND):
            await session.say(f'DROP DATABASE IF EXISTS "{prefix_of(url)}{name}"')
    finally:
        await session.close()


def main() -> None:
    """Compare on MariaDB."""
    url = "mariadb://root@127.0.0.1:3306/bench"
    ours = partial(postgres_chain.ours, specs(), OURS)
    postgres_chain.compare("The chain on MariaDB, beside a loop by hand.", url, by_hand, ours, drop)


if __name__ == "__main__":
    main()
