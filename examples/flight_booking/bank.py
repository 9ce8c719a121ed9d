"""The bank that cards are charged at: a stand-in, which goes by the last digits of the card.

As at a real one, each request has an idempotency key: one that comes again with the same key is answered as the
first was, and charges nothing more.
"""

from decimal import Decimal
from hashlib import sha256

import msgspec

DECLINED = "0002"


class Answer(msgspec.Struct, frozen=True):
    """What became of a charge: its number in the bank's books, or why there is none."""

    number: str | None = None
    declined: str | None = None


async def charge(key: str, card_last4: str, amount: Decimal) -> Answer:
    """Charge *amount* to a card."""
    if card_last4 == DECLINED:
        return Answer(declined=f"the card ending in {DECLINED} was declined")
    return Answer(number=f"CH-{sha256(f'{key}:{amount}'.encode()).hexdigest()[:12]}")
