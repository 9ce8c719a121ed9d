"""The chain by hand: three services, a SQLite file each, joined by a broker's raw client.

Each takes a batch, and in one commit (synchronous=FULL) keeps what came (an id that it has is skipped), does the work,
keeps what follows, and moves on; then it sends, waits for the confirmations, and acknowledges. The tables, indexes and
rows are those of a store. There is no validation, no savepoint, no lease, no retry and no other process.
"""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from time import perf_counter, process_time

import msgspec

from antiphon.bench import workload
from antiphon.bench.limit import CHECKPOINT_EVERY_S, HandWritten
from antiphon.bench.workload import BATCH
from antiphon.ports import PUBLISHED, RECEIVED
from antiphon.runtime.clock import SystemClock
from antiphon.store.sqlite.checkpoints import checkpoint
from antiphon.store.sqlite.connection import connect
from antiphon.store.sqlite.queries import query
from benchmarks.engines.lines import LINES, Line, Message

_MOVE = "UPDATE antiphon_handlers SET seq = (SELECT max(seq) FROM antiphon_log), handled = handled + ?, updated_ms = ?"
_HAS = "SELECT 1 FROM antiphon_log WHERE id = ?"


class Place:
    """One service: its file, and its way to the others."""

    def __init__(self, path: Path, line: Line) -> None:
        self._connection: sqlite3.Connection = connect(path)
        self._clock = SystemClock()
        self.line = line
        self._copied = perf_counter()

    async def shop(self, count: int) -> None:
        """Publish so many orders."""
        encode, new_id = msgspec.json.Encoder().encode, self._clock.new_id
        for start in range(0, count, BATCH):
            orders = [
                Message(new_id(), order.customer, encode(order))
                for order in workload.orders(start, min(BATCH, count - start))
            ]
            self._connection.execute("BEGIN IMMEDIATE")
            self._keep("OrderPlaced", "shop", PUBLISHED, orders)
            self._commit()
            await self.line.send("OrderPlaced", orders)

    async def billing(self, count: int) -> None:
        """Bill so many orders."""
        decode, encode, new_id = msgspec.json.decode, msgspec.json.encode, self._clock.new_id
        while count > 0:
            came = await self.line.receive()
            self._connection.execute("BEGIN IMMEDIATE")
            new = self._keep("OrderPlaced", "shop", RECEIVED, came)
            accounts, billed = [], []
            for message in new:
                data = decode(message.data)
                customer, cents = data["customer"], data["cents"]
                accounts.append((customer, cents))
                follow_up = encode({"order_id": data["order_id"], "customer": customer, "cents": cents})
                billed.append(Message(new_id(), customer, follow_up))
            self._connection.executemany(workload.BILL, accounts)
            self._keep("OrderBilled", "billing", PUBLISHED, billed)
            self._settle(len(new))
            await self.line.send("OrderBilled", billed)
            await self.line.acknowledge()
            count -= len(new)

    async def counter(self, count: int) -> None:
        """Count so many that are billed."""
        while count > 0:
            came = await self.line.receive()
            self._connection.execute("BEGIN IMMEDIATE")
            new = self._keep("OrderBilled", "billing", RECEIVED, came)
            self._connection.executemany(workload.COUNT, [()] * len(new))
            self._settle(len(new))
            await self.line.acknowledge()
            count -= len(new)

    def _keep(self, type_: str, service: str, origin: int, messages: list[Message]) -> list[Message]:
        """Append; those that were not there."""
        now = self._clock.now_ms()
        rows = [(each.id, type_, 1, each.key, service, now, None, None, origin, each.data, 0) for each in messages]
        if self._connection.executemany(query("append_plain"), rows).rowcount == len(rows):
            return messages
        raise AssertionError("a broker that was not disturbed has sent something twice")

    def _settle(self, handled: int) -> None:
        now = self._clock.now_ms()
        self._connection.execute(_MOVE, (handled, now))
        seq = self._connection.execute("SELECT max(seq) FROM antiphon_log").fetchone()[0]
        self._connection.execute(query("mark_progress"), (1, seq, now))
        self._commit()

    def _commit(self) -> None:
        self._connection.execute("COMMIT")
        if perf_counter() - self._copied > CHECKPOINT_EVERY_S:
            checkpoint(self._connection, empty=False)
            self._copied = perf_counter()

    async def close(self) -> None:
        """Close the file and the line."""
        self._connection.close()
        await self.line.close()


async def by_hand(engine: str, url: str, name: str, folder: Path, events: int) -> tuple[float, float]:
    """Events a second of the whole chain in one process, and microseconds of its CPU for each."""
    services = (("shop", None), ("billing", "OrderPlaced"), ("counter", "OrderBilled"))
    places = []
    for service, receives in services:
        await HandWritten.prepare(folder / f"{service}.db")
        places.append(Place(folder / f"{service}.db", LINES[engine](url, name)))
        await places[-1].line.open(receives)
    shop, billing, counter = places
    try:
        started, busy = perf_counter(), process_time()
        await asyncio.gather(shop.shop(events), billing.billing(events), counter.counter(events))
        return events / (perf_counter() - started), (process_time() - busy) / events * 1e6
    finally:
        await shop.line.remove()  # type: ignore[attr-defined]
        for place in places:
            await place.close()
