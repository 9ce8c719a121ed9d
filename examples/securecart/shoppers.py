"""Customers, made up from a seed: what they order, and how they pay. The demo, the simulator and tests share them."""

from random import Random  # noqa: TID251  seeded by whoever asks
from typing import Any

from .bank_stand_in import DECLINED
from .catalogue import CATALOGUE
from .shipping import COUNTRIES

_NAMES = ("ada", "alan", "barbara", "edsger", "frances", "grace", "jim", "leslie", "radia", "tony")
_GOOD_CARDS = ("4242", "1881", "5100")
#: So many of a hundred orders are for what there is very little of, with a card that is declined, to nowhere.
_SCARCE, _DECLINED, _NOWHERE = 12, 8, 3


def account_of(random: Random, accounts: int) -> str:
    """One of so many accounts."""
    number = random.randrange(accounts)
    return f"{_NAMES[number % len(_NAMES)]}-{number}"


def order(random: Random, accounts: int = 400) -> dict[str, Any]:
    """An order, as it is posted, of one to four products; *accounts* are few, so that their payments meet."""
    account = account_of(random, accounts)
    scarce = random.randrange(100) < _SCARCE
    pool = [each.sku for each in CATALOGUE.values() if (each.stock < 20) == scarce]
    skus = random.sample(pool, min(len(pool), random.choice((1, 1, 1, 2, 2, 3, 4))))
    declined, nowhere = random.randrange(100) < _DECLINED, random.randrange(100) < _NOWHERE
    return {
        "account": account,
        "email": f"{account}@customers.example",
        "card": f"4000 0000 0000 {DECLINED if declined else random.choice(_GOOD_CARDS)}",
        "country": "AQ" if nowhere else random.choice(sorted(COUNTRIES)),
        "lines": [{"sku": sku, "quantity": random.choice((1, 1, 1, 1, 2, 3))} for sku in skus],
    }
