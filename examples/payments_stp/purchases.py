"""What customers have really paid: the purchases at CDNOW, a music shop, from January 1997 to June 1998.

They come from the file that the package ``lifetimes`` (the extra ``payments``) carries. Only that file is read; the
package itself is not imported, since it would load pandas and scipy.
"""

from datetime import date
from decimal import Decimal
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from antiphon import AntiphonError

_FILE = Path("datasets") / "CDNOW_master.txt"


class Purchase(NamedTuple):
    """What a customer, known by a number, paid for so many *discs* on a day; in US dollars, sometimes nothing."""

    customer: int
    day: date
    discs: int
    dollars: Decimal


@cache
def purchases() -> tuple[Purchase, ...]:
    """All purchases in the order of their days. Raises AntiphonError if the data set is not installed."""
    spec = find_spec("lifetimes")
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    if not places:
        raise AntiphonError(
            "the purchases that are paid for are not installed",
            where="the package lifetimes",
            mend="pip install 'antiphon[payments]'",
        )
    with (Path(places[0]) / _FILE).open(encoding="ascii") as file:
        next(file)
        found = [_purchase(line) for line in file if line.strip()]
    return tuple(sorted(found, key=lambda purchase: purchase.day))


def _purchase(line: str) -> Purchase:
    customer, day, discs, dollars = line.split()
    return Purchase(int(customer), date.fromisoformat(day), int(discs), Decimal(dollars))
