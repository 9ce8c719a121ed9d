"""The messages of the FastStream systems, as Pydantic models: what its documentation uses."""

from __future__ import annotations

from pydantic import BaseModel


class OrderPlaced(BaseModel):
    """Published by the shop."""

    order_id: str
    customer: str
    cents: int
    currency: str
    items: list[str]
    address: str
    sent_us: int


class OrderBilled(BaseModel):
    """What billing answers with."""

    order_id: str
    customer: str
    cents: int
    sent_us: int
