"""The limit: the chain as a loop of batched SQL written by hand, on a store's own tables and settings.

No framework: no validation, no savepoint, no lease, no other process. Data is decoded only where a row
needs a field of it. What it leaves is what the framework leaves: the same log rows under the same indexes,
accounts, totals, cursors and progress; one commit per batch and step, synchronous=FULL.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import msgspec

from antiphon.bench import workload
from antiphon.bench.workload import BATCH
from antiphon.ports import PUBLISHED
from antiphon.runtime.clock import SystemClock
from antiphon.store.sqlite.checkpoints import checkpoint
from antiphon.store.sqlite.connection import connect
from antiphon.store.sqlite.queries import query
from antiphon.store.sqlite.store import SqliteStore

_MOVE = "UPDATE antiphon_handlers SET seq = ?, handled = handled + ?, updated_ms = ? WHERE id = ?"
# As often as a store looks after its file.
CHECKPOINT_EVERY_S = 1.0
_HANDLERS = "SELECT name, id FROM antiphon_handlers"


class HandWritten:
    """The loop. Make the file with `prepare` first."""

    def __init__(self, path: Path) -> None:
        self._connection: sqlite3.Connection = connect(path)
        self._clock = SystemClock()
        self._handlers = dict(self._connection.execute(_HANDLERS).fetchall())
        self._billed = self._counted = 0

    @staticmethod
    async def prepare(path: Path) -> None:
        """Make the file: a store's tables, the services' own, a row for each handler."""
        specs = [service.spec for service in workload.services()]
        store = SqliteStore(path, clock=SystemClock(), owner="bench", tables={spec.name: spec.tables for spec in specs})
        await store.open()
        try:
            await store.register([handler for spec in specs for handler in spec.handlers])
        finally:
            await store.close()

    def run(self, count: int) -> None:
        """Place, bill and count so many orders."""
        copied = perf_counter()
        for start in range(0, count, BATCH):
            self._step(self._place, start, min(BATCH, count - start))
            self._step(self._bill)
            self._step(self._count)
            if perf_counter() - copied > CHECKPOINT_EVERY_S:
                checkpoint(self._connection, empty=False)
                copied = perf_counter()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _step(self, step: Callable[..., None], *arguments: int) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        step(*arguments)
        self._connection.execute("COMMIT")

    def _place(self, start: int, count: int) -> None:
        encode, new_id, now = msgspec.json.Encoder().encode, self._clock.new_id, self._clock.now_ms()
        self._connection.executemany(
            query("append_plain"),
            [
                (new_id(), "OrderPlaced", 1, order.customer, "shop", now, None, None, PUBLISHED, encode(order), 0)
                for order in workload.orders(start, count)
            ],
        )

    def _bill(self) -> None:
        decode, encode, new_id = msgspec.json.decode, msgspec.json.encode, self._clock.new_id
        now = self._clock.now_ms()
        accounts, billed, seq = [], [], self._billed
        for row in self._connection.execute(query("read_type"), ("OrderPlaced", self._billed, BATCH)).fetchall():
            seq, event_id, data = row[0], row[1], decode(row[-1])
            customer, cents = data["customer"], data["cents"]
            accounts.append((customer, cents))
            follow_up = encode({"order_id": data["order_id"], "customer": customer, "cents": cents})
            billed.append(
                (new_id(), "OrderBilled", 1, customer, "billing", now, event_id, event_id, PUBLISHED, follow_up, 0)
            )
        self._connection.executemany(workload.BILL, accounts)
        self._connection.executemany(query("append_plain"), billed)
        self._billed = seq
        self._settle("billing.bill", seq, len(billed), now)

    def _count(self) -> None:
        rows = self._connection.execute(query("read_type"), ("OrderBilled", self._counted, BATCH)).fetchall()
        self._connection.executemany(workload.COUNT, [()] * len(rows))
        self._counted = rows[-1][0]
        self._settle("counter.count", self._counted, len(rows), self._clock.now_ms())

    def _settle(self, handler: str, seq: int, count: int, now: int) -> None:
        handler_id = self._handlers[handler]
        self._connection.execute(_MOVE, (seq, count, now, handler_id))
        self._connection.execute(query("mark_progress"), (handler_id, seq, now))
