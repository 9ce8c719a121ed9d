"""SecureCart as ``antiphon demo`` shows it: most orders are shipped, some are declined, what is scarce runs out."""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random  # noqa: TID251  seeded by the demo's chance
from typing import Any

from antiphon.demo.chance import Chance
from antiphon.demo.subject import Subject

from . import app
from .bank_stand_in import Books, Teller
from .shoppers import order

#: Customers of the demo think less long, in seconds.
_WINDOW_S = "1"
_KILL_EVERY_S = 2.0


def subject() -> Subject:
    """What the demo is told."""
    return Subject(
        app=app,
        noun="order",
        path="/orders",
        id_field="order_id",
        request=_order,
        progress=("orders", "SELECT status, count(*) FROM orders GROUP BY status"),
        statuses=("QUEUED", "RESERVED", "PAID", "SHIPPING", "SHIPPED", "CANCELLING", "CANCELLED", "FAILED"),
        ends={"SHIPPED": "green", "CANCELLED": "yellow", "FAILED": "red"},
        last_events=("OrderFulfilled", "OrderFailed"),
        audit_sql=Path(__file__).with_name("audit.sql").read_text(encoding="utf-8"),
        summary=_summary,
        addresses=(("/stock", "what is sold, and how much is left"),),
        hint="order a LENS-0035 in the API with a card that ends in 4242: there was one",
        counters={"e-mails": ("notifications", "SELECT count(*) FROM emails")},
        at_rest=lambda statuses, counters: counters["e-mails"] >= sum(statuses.values()),
        kill_every_s=_KILL_EVERY_S,
        outside=_bank,
    )


def _order(chance: Chance, number: int) -> dict[str, Any]:
    """The *number*-th order."""
    return order(Random(f"{chance.of('order', number)}"))


@asynccontextmanager
async def _bank(received: Counter[str]) -> AsyncIterator[None]:
    """The bank, on a port of its own. It counts what it books with the e-mails that are *received*."""
    books = Books(received)
    server = await asyncio.get_running_loop().create_server(lambda: Teller(books), "127.0.0.1", 0)
    async with server:
        os.environ.update(BANK_PORT=str(server.sockets[0].getsockname()[1]), SECURECART_WINDOW_S=_WINDOW_S)
        yield


def _summary(facts: Mapping[str, Any]) -> list[str]:
    return [
        f"{facts['accepted']} orders accepted in {facts['seconds']:.1f} s: {facts['shipped']} shipped, "
        f"{facts['failed']} failed, of these {facts['refunded']} with their payment given back; "
        f"{facts['emails']} e-mails.",
        f"{facts['dead_letters']} dead letters: the failed orders, each with its reason, and what no carrier takes.",
    ]
