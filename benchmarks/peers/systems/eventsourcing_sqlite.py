"""eventsourcing on SQLite: a shop, and two applications that follow, in the publishing process.

What a follower writes, the event that it adds and its position in what it follows are one transaction.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import Any, ClassVar
from uuid import UUID

from eventsourcing.application import Application, ProcessingEvent
from eventsourcing.dispatch import singledispatchmethod
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import StoredEvent
from eventsourcing.sqlite import SQLiteCursor, SQLiteDatastore, SQLiteProcessRecorder
from eventsourcing.system import ProcessApplication, SingleThreadedRunner, System

from benchmarks.peers import job

MODULE = "benchmarks.peers.systems.eventsourcing_sqlite"
DATABASE = job.database()
WORKER = ["-c", f"from {MODULE} import serve; serve()"]
EMBEDDED = True


class Order(Aggregate):
    """Placed in the shop."""

    @event("Placed")
    def __init__(
        self, order_id: str, customer: str, cents: int, currency: str, items: list[str], address: str, sent_us: int
    ) -> None:
        self.order_id = order_id
        self.customer = customer
        self.cents = cents
        self.currency = currency
        self.items = items
        self.address = address
        self.sent_us = sent_us


class Invoice(Aggregate):
    """Made by billing."""

    @event("Billed")
    def __init__(self, order_id: str, customer: str, cents: int, sent_us: int) -> None:
        self.order_id = order_id
        self.customer = customer
        self.cents = cents
        self.sent_us = sent_us


class WritingRecorder(SQLiteProcessRecorder):
    """Runs the statement that a policy hands over in the transaction of its events."""

    table: str

    def __init__(self, datastore: SQLiteDatastore) -> None:
        super().__init__(datastore, events_table_name=self.table)

    def _insert_events(self, c: SQLiteCursor, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Any:
        statement, parameters = kwargs.pop("write")
        c.execute(statement, parameters)
        return super()._insert_events(c, stored_events, **kwargs)


class BillingRecorder(WritingRecorder):
    """Billing's events."""

    table = "billing_events"


class CounterRecorder(WritingRecorder):
    """The counter's events: it has none, only its position."""

    table = "counter_events"


class Shop(Application[UUID]):
    """Where orders are placed."""

    def place(self, orders: list[dict[str, Any]]) -> None:
        """All of them in one transaction."""
        self.save(*(Order(**order) for order in orders))


class Billing(ProcessApplication[UUID]):
    """Follows the shop."""

    env: ClassVar[dict[str, str]] = {"PROCESS_RECORDER_TOPIC": f"{MODULE}:BillingRecorder"}

    @singledispatchmethod
    def policy(self, domain_event: Any, processing_event: ProcessingEvent[UUID]) -> None:
        """Other events are nothing to it."""

    @policy.register
    def _(self, placed: Order.Placed, processing_event: ProcessingEvent[UUID]) -> None:
        invoice = Invoice(placed.order_id, placed.customer, placed.cents, placed.sent_us)
        processing_event.collect_events(invoice, write=(job.BILL, (placed.customer, placed.cents)))


class Counter(ProcessApplication[UUID]):
    """Follows billing."""

    env: ClassVar[dict[str, str]] = {"PROCESS_RECORDER_TOPIC": f"{MODULE}:CounterRecorder"}

    @singledispatchmethod
    def policy(self, domain_event: Any, processing_event: ProcessingEvent[UUID]) -> None:
        """Other events are nothing to it."""

    @policy.register
    def _(self, billed: Invoice.Billed, processing_event: ProcessingEvent[UUID]) -> None:
        job.note(billed.sent_us)
        processing_event.collect_events(write=(job.COUNT, ()))


SYSTEM = System(pipes=[[Shop, Billing, Counter]])
ENVIRONMENT = {"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": DATABASE, "SQLITE_LOCK_TIMEOUT": "60"}


@contextmanager
def running() -> Iterator[SingleThreadedRunner[UUID]]:
    """The three applications; a follower works in the call that adds what it follows."""
    runner = SingleThreadedRunner[UUID](SYSTEM, ENVIRONMENT)
    runner.start()
    try:
        yield runner
    finally:
        runner.stop()


def serve() -> None:
    """Catch up with what was recorded before, then wait until the process is killed."""
    with running() as runner:
        runner.get(Counter).pull_and_process("Billing")
        runner.get(Billing).pull_and_process("Shop")
        threading.Event().wait()


async def prepare() -> None:
    """Nothing: the applications make their tables."""


@asynccontextmanager
async def publishing(*, handling: bool) -> AsyncIterator[Callable[[list[dict[str, Any]]], Awaitable[object]]]:
    """Place orders here, and handle here too if asked."""
    with running() if handling else nullcontext() as runner:
        shop = Shop(ENVIRONMENT) if runner is None else runner.get(Shop)

        async def publish(orders: list[dict[str, Any]]) -> None:
            shop.place(orders)

        yield publish


async def clean() -> None:
    """Nothing outside the folder."""
