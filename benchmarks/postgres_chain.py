"""The chain of ``antiphon bench`` on PostgreSQL, beside a loop of batched SQL written by hand, in the same run.

    python benchmarks/postgres_chain.py postgresql://postgres@127.0.0.1/test --events 20000

The loop has the same tables, indexes and batches, one commit for each batch and step, and ``synchronous_commit``
as the server has it; it appends under the log's lock. It has no validation, savepoints, leases or other processes.
The schemas ``bench`` and ``bench_by_hand`` are made anew, and dropped at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import psycopg
from psycopg import AsyncConnection, AsyncRawCursor

from antiphon.bench import workload
from antiphon.bench.chain import through
from antiphon.bench.workload import BATCH
from antiphon.model.handlers import ServiceSpec
from antiphon.ports import PUBLISHED
from antiphon.runtime.clock import SystemClock
from antiphon.runtime.runtime import Runtime
from antiphon.store.postgres.connection import address, connect
from antiphon.store.postgres.listener import number_of
from antiphon.store.postgres.queries import query
from antiphon.store.postgres.statements import numbered
from antiphon.store.postgres.store import PostgresStore
from antiphon.store.rows import logged

OURS, BY_HAND = "bench", "bench_by_hand"
_MOVE = numbered(query("move_cursor_on"))
_READ = numbered(query("read_types"))
_APPEND = query("append").encode()
_LOCK = query("lock_log").encode()


def specs() -> list[ServiceSpec]:
    """The services of the workload, with their tables as PostgreSQL has them."""
    found = [service.spec for service in workload.services()]
    return [dataclasses.replace(spec, tables=spec.tables.replace(") WITHOUT ROWID;", ");")) for spec in found]


class HandWritten:
    """The loop."""

    def __init__(self, connection: AsyncConnection, handlers: dict[str, int]) -> None:
        self._connection = connection
        self._cursor = AsyncRawCursor(connection)
        self._handlers = handlers
        self._clock = SystemClock()
        self._lock = number_of("log", BY_HAND)
        self._billed = self._counted = 0

    async def run(self, count: int) -> None:
        """Place, bill and count so many orders."""
        for start in range(0, count, BATCH):
            await self._place(start, min(BATCH, count - start))
            await self._bill()
            await self._count()

    async def _place(self, start: int, count: int) -> None:
        encode, now = msgspec.json.Encoder().encode, self._clock.now_ms()
        rows = [
            self._row("OrderPlaced", each.customer, "shop", now, encode(each)) for each in workload.orders(start, count)
        ]
        async with self._connection.transaction():
            await self._append(rows)

    async def _bill(self) -> None:
        decode, encode, now = msgspec.json.decode, msgspec.json.encode, self._clock.now_ms()
        accounts, rows = [], []
        async with self._connection.transaction():
            found = await self._read("OrderPlaced", self._billed)
            for row in found:
                event = logged(row).envelope
                data = decode(event.data)
                accounts.append((data["customer"], data["cents"]))
                billed = encode({"order_id": data["order_id"], "customer": data["customer"], "cents": data["cents"]})
                rows.append(self._row("OrderBilled", event.key, "billing", now, billed, event.id))
            await self._cursor.executemany(numbered(workload.BILL), accounts)
            self._billed = found[-1][0]
            await self._settle("billing.bill", self._billed, len(rows), now)
            await self._append(rows)

    async def _count(self) -> None:
        async with self._connection.transaction():
            rows = await self._read("OrderBilled", self._counted)
            await self._cursor.executemany(numbered(workload.COUNT), [()] * len(rows))
            self._counted = rows[-1][0]
            await self._settle("counter.count", self._counted, len(rows), self._clock.now_ms())

    def _row(
        self, type_: str, key: str | None, service: str, now: int, data: bytes, cause: str | None = None
    ) -> tuple[Any, ...]:
        head = (self._clock.new_id(), type_, 1, key, service, now)
        return (*head, cause, cause, None, None, None, None, PUBLISHED, data, None)

    async def _read(self, type_: str, after: int) -> list[tuple[Any, ...]]:
        return await (await self._cursor.execute(_READ, ([type_], [after], BATCH))).fetchall()

    async def _append(self, rows: list[tuple[Any, ...]]) -> None:
        await self._cursor.execute(_LOCK, (self._lock,))
        await self._cursor.execute(_APPEND, [list(column) for column in zip(*rows, strict=True)])

    async def _settle(self, handler: str, seq: int, count: int, now: int) -> None:
        await self._cursor.execute(_MOVE, (seq, count, 0, now, self._handlers[handler], 0))


async def by_hand(url: str, events: int) -> float:
    """Events a second of the loop."""
    where = address(url, BY_HAND)
    store = PostgresStore(
        where, clock=SystemClock(), owner="bench", tables={each.name: each.tables for each in specs()}
    )
    await store.open()
    await store.register([handler for spec in specs() for handler in spec.handlers])
    handlers = {row["name"]: row["id"] for row in await store.fetch_all("SELECT name, id FROM antiphon_handlers")}
    await store.close()
    async with await connect(where) as connection:
        started = time.perf_counter()
        await HandWritten(connection, handlers).run(events)
        return events / (time.perf_counter() - started)


async def ours(specs: list[ServiceSpec], name: str, url: str, events: int) -> float:
    """Events a second of the framework, in an app of this name."""
    with tempfile.TemporaryDirectory() as folder:
        runtime = Runtime(name, specs, data=Path(folder), store=url)
        await runtime.start()
        try:
            seconds, _ = await through(runtime, events)
        finally:
            await runtime.stop()
    return events / seconds


async def drop(url: str) -> None:
    """Leave nothing behind."""
    with psycopg.connect(url, autocommit=True) as connection:
        for schema in (OURS, BY_HAND):
            connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE".encode())


def compare(
    description: str,
    url: str,
    by_hand: Callable[[str, int], Awaitable[float]],
    ours: Callable[[str, int], Awaitable[float]],
    drop: Callable[[str], Awaitable[None]],
) -> None:
    """What a user of the script is told: both, and their ratio, round by round. *url* is where it is by default."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("url", nargs="?", default=url)
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    async def rounds() -> None:
        for _ in range(options.rounds):
            await drop(options.url)
            limit = await by_hand(options.url, options.events)
            rate = await ours(options.url, options.events)
            print(f"by hand {limit:8,.0f}/s   antiphon {rate:8,.0f}/s   ratio {rate / limit:.2f}")
        await drop(options.url)

    asyncio.run(rounds())


def main() -> None:
    """Compare on PostgreSQL."""
    url = "postgresql://postgres@127.0.0.1:5432/test"
    compare("The chain on PostgreSQL, beside a loop by hand.", url, by_hand, partial(ours, specs(), OURS), drop)


if __name__ == "__main__":
    main()
