"""The plans and their bonus."""

from typing import Final

#: Plan -> the points that enrolling in it earns. A plan that is not here has no bonus.
BONUS_POINTS: Final = {"bronze": 100, "silver": 250, "gold": 500, "premium": 750, "platinum": 1_000}


def bonus_of(plan: str) -> int | None:
    """The bonus points of *plan*, whatever its case; None if it has none."""
    return BONUS_POINTS.get(plan.strip().lower())
