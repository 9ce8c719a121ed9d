"""The Transaction service: posts bonus points to customers' accounts."""

from typing import Any

from antiphon import Service, Transaction

from .shared.events import CustomerEnrolled, PointsFailed, PointsPosted
from .shared.plans import bonus_of
from .shared.retries import DATABASE_RETRY

transaction = Service("transaction", tables="transaction.sql")


@transaction.on(CustomerEnrolled, retry=DATABASE_RETRY)
async def post_bonus(enrolled: CustomerEnrolled, tx: Transaction) -> PointsPosted | PointsFailed:
    """Post the bonus of the plan, or say that it has none."""
    points = bonus_of(enrolled.plan)
    if points is None:
        return PointsFailed(customer_id=enrolled.customer_id, reason=f"plan {enrolled.plan!r} has no bonus")
    transaction_id = await tx.fetch_value(
        "INSERT INTO postings (customer_id, kind, points, posted_at) VALUES (?, 'enrollment bonus', ?, ?) "
        "RETURNING transaction_id",
        enrolled.customer_id,
        points,
        tx.now.isoformat(),
    )
    return PointsPosted(customer_id=enrolled.customer_id, transaction_id=transaction_id, points=points)


@transaction.get("/transactions")
async def postings(customer_id: str, tx: Transaction) -> list[dict[str, Any]]:
    """The postings of a customer, oldest first; none while the enrollment is pending or has failed."""
    rows = await tx.fetch_all(
        "SELECT transaction_id, customer_id, kind, points, posted_at FROM postings WHERE customer_id = ? "
        "ORDER BY transaction_id",
        customer_id,
    )
    return [dict(row) for row in rows]
