"""The events between the services: their contract, and all that one knows of the other."""

from antiphon import Event


class CustomerEnrolled(Event, key="customer_id"):
    """A customer has signed up for a plan. The enrollment counts once the plan's bonus is posted."""

    customer_id: str
    name: str
    email: str
    plan: str


class PointsPosted(Event, key="customer_id"):
    """The plan's bonus points are on the customer's account."""

    customer_id: str
    transaction_id: int
    points: int


class PointsFailed(Event, key="customer_id"):
    """No points could be posted, so the enrollment does not stand."""

    customer_id: str
    reason: str
