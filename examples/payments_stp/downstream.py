"""The downstream channel: is told of each payment once, and keeps the advice for whoever collects it."""

from typing import Any

from antiphon import Service, Transaction

from . import retries
from .messages import PaymentAdvised

downstream = Service("downstream", tables="downstream.sql")


@downstream.on(PaymentAdvised, retry=retries.DATABASE)
async def keep_advice(advised: PaymentAdvised, tx: Transaction) -> None:
    """Keep an advice for whoever collects it."""
    await write_down(advised, tx)


async def write_down(advised: PaymentAdvised, tx: Transaction) -> None:
    """Write down an advice. Its payment is the primary key: a second one would not go unnoticed."""
    await tx.execute(
        "INSERT INTO advices (payment_id, outcome, reason, advised_at) VALUES (?, ?, ?, ?)",
        advised.payment_id,
        advised.outcome,
        advised.reason,
        tx.now.isoformat(),
    )


@downstream.get("/advices")
async def collect(tx: Transaction, after: str = "", limit: int = 100) -> list[dict[str, Any]]:
    """The advices of payments whose id comes *after* one, in the order of the ids, at most *limit*."""
    rows = await tx.fetch_all(
        "SELECT payment_id, outcome, reason, advised_at FROM advices WHERE payment_id > ? ORDER BY 1 LIMIT ?",
        after,
        max(0, min(limit, 1_000)),
    )
    return [dict(row) for row in rows]
