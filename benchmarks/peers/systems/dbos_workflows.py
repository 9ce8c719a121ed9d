"""The job as DBOS workflows on one queue; a step that writes records itself in the same transaction as its write."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal

import sqlalchemy as sa
from dbos import DBOS, DBOSClient, EnqueueOptions, SQLAlchemyDatasource

from benchmarks.peers import job

IsolationLevel = Literal["SERIALIZABLE", "READ COMMITTED"]
QUEUE = "orders"
_BILL = sa.text(job.BILL.replace("?", ":customer", 1).replace("?", ":cents", 1))
_COUNT = sa.text(job.COUNT)


def serve(url: str, *, at_once: int, isolation: IsolationLevel) -> None:
    """Run the workflows of the database at *url*, until the process is killed."""
    DBOS(config={"name": "orders", "system_database_url": url, "log_level": "ERROR", "executor_id": "worker"})
    store = SQLAlchemyDatasource.create(url)

    @store.transaction(isolation_level=isolation)
    def upsert(customer: str, cents: int) -> None:
        store.sql_session().execute(_BILL, {"customer": customer, "cents": cents})

    @store.transaction(isolation_level=isolation)
    def add_one() -> None:
        store.sql_session().execute(_COUNT)

    @DBOS.workflow()
    def count(billed: dict[str, Any]) -> None:
        job.note(billed["sent_us"])
        add_one()

    @DBOS.workflow()
    def bill(order: dict[str, Any]) -> None:
        upsert(order["customer"], order["cents"])
        DBOS.enqueue_workflow(QUEUE, count, job.billed_of(order))

    DBOS.launch()
    DBOS.register_queue(QUEUE, worker_concurrency=at_once, polling_interval_sec=0.02)
    threading.Event().wait()


@asynccontextmanager
async def publishing(url: str) -> AsyncIterator[Callable[[list[dict[str, Any]]], Awaitable[object]]]:
    """Enqueue one after the other, from outside the application."""
    client = DBOSClient(system_database_url=url)
    options: EnqueueOptions = {"queue_name": QUEUE, "workflow_name": "serve.<locals>.bill"}

    async def publish(orders: list[dict[str, Any]]) -> None:
        for order in orders:
            client.enqueue(options, order)

    try:
        yield publish
    finally:
        client.destroy()
