"""What `antiphon simulate examples.enrollment:app` is told: who enrolls, and what must hold whatever goes wrong."""

from random import Random  # noqa: TID251  the simulator's, seeded
from typing import Any

from antiphon import Look

from . import app
from .shared.plans import BONUS_POINTS, bonus_of


@app.traffic
def enrollment(random: Random) -> tuple[str, str, dict[str, Any]]:
    """Somebody enrolls, mostly in a plan that has a bonus."""
    plan = random.choice([*BONUS_POINTS, "Gold ", "free"])
    name = random.choice(["Ada", "Grace", "Edsger"])
    return "POST", "/enrollments", {"name": name, "email": f"{name.lower()}@mail.example", "plan": plan}


@app.invariant
def points_are_posted_once_at_most(look: Look) -> None:
    """No account has the bonus of enrolling twice, or for somebody who has not enrolled."""
    posted = [row["customer_id"] for row in look.rows("transaction", "SELECT customer_id FROM postings")]
    enrolled = {row["customer_id"] for row in look.rows("customer", "SELECT customer_id FROM customers")}
    assert len(posted) == len(set(posted)), (
        f"posted twice: {sorted({each for each in posted if posted.count(each) > 1})}"
    )
    assert set(posted) <= enrolled, f"posted for nobody: {sorted(set(posted) - enrolled)}"


@app.invariant
def who_is_enrolled_has_points(look: Look) -> None:
    """A customer is ENROLLED only if the bonus of the plan lies on the account, and UNENROLLED only if it does not."""
    posted = {row["customer_id"]: row["points"] for row in look.rows("transaction", "SELECT * FROM postings")}
    for row in look.rows("customer", "SELECT * FROM customers"):
        points = posted.get(row["customer_id"])
        if row["status"] == "ENROLLED":
            assert points == row["points"] == bonus_of(row["plan"]), f"{row['customer_id']} has {points} points"
        if row["status"] == "UNENROLLED":
            assert points is None, f"{row['customer_id']} is not enrolled, and has {points} points"


@app.invariant(at="end")
def every_enrollment_is_answered(look: Look) -> None:
    """Nobody stays PENDING, unless an event of theirs became a dead letter."""
    dead = look.dead_keys()
    for row in look.rows("customer", "SELECT customer_id, plan, status FROM customers"):
        wanted = "UNENROLLED" if bonus_of(row["plan"]) is None else "ENROLLED"
        assert row["status"] == wanted or row["customer_id"] in dead, f"{row['customer_id']} is {row['status']}"
