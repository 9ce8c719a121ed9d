"""The Customer service: takes enrollments, and takes them back when their bonus cannot be posted."""

from typing import Annotated, Any

from fastapi import HTTPException
from pydantic import BaseModel, StringConstraints

from antiphon import Service, Transaction

from .shared.events import CustomerEnrolled, PointsFailed, PointsPosted
from .shared.retries import DATABASE_RETRY

customer = Service("customer", tables="customer.sql")

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]


class NewEnrollment(BaseModel):
    """Who enrolls, and in which plan."""

    name: Text
    email: Annotated[Text, StringConstraints(pattern=r"^[^@\s]+@[^@\s]+$")]
    plan: Text


@customer.post("/enrollments")
async def enroll(new: NewEnrollment, tx: Transaction) -> CustomerEnrolled:
    """Take an enrollment; it is PENDING until the transaction service has answered."""
    customer_id = tx.new_id()
    await tx.execute(
        "INSERT INTO customers (customer_id, name, email, plan, enrolled_at) VALUES (?, ?, ?, ?, ?)",
        customer_id,
        new.name,
        new.email,
        new.plan,
        tx.now.isoformat(),
    )
    return CustomerEnrolled(customer_id=customer_id, name=new.name, email=new.email, plan=new.plan)


@customer.get("/customers/{customer_id}")
async def show(customer_id: str, tx: Transaction) -> dict[str, Any]:
    """A customer: PENDING, ENROLLED with points, or UNENROLLED with the reason."""
    row = await tx.fetch_one(
        "SELECT customer_id, name, email, plan, status, reason, points FROM customers WHERE customer_id = ?",
        customer_id,
    )
    if row is None:
        raise HTTPException(404, f"there is no customer {customer_id}")
    return dict(row)


@customer.on(PointsPosted, retry=DATABASE_RETRY)
async def confirm(posted: PointsPosted, tx: Transaction) -> None:
    """The bonus is posted: the enrollment stands."""
    await tx.execute(
        "UPDATE customers SET status = 'ENROLLED', points = ? WHERE customer_id = ?",
        posted.points,
        posted.customer_id,
    )


@customer.on(PointsFailed, retry=DATABASE_RETRY, compensates=enroll)
async def unenroll(failed: PointsFailed, tx: Transaction) -> None:
    """Compensate: what `enroll` did is taken back, and the customer is told why."""
    await tx.execute(
        "UPDATE customers SET status = 'UNENROLLED', reason = ? WHERE customer_id = ?",
        failed.reason,
        failed.customer_id,
    )
