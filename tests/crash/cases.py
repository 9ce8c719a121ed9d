"""The applications that are killed, what their clients send, and what their tables must hold afterwards."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from antiphon.demo.audit import audit
from antiphon.demo.chance import Chance
from antiphon.demo.subject import subject_of
from examples.enrollment.shared.plans import BONUS_POINTS
from tests.crash.audits import reading
from tests.crash.lanes import FAILS_EVERY, RETURNS_EVERY

Audit = Callable[[Path, Mapping[int, str], Mapping[str, int]], Counter[str]]


@dataclass(frozen=True)
class Case:
    """An application under load. *audit* takes the data, what was accepted, and how often each e-mail came."""

    name: str
    reference: str
    services: tuple[str, ...]
    path: str
    id_field: str
    body: Callable[[int, int], dict[str, Any]]
    audit: Audit


# ---------------------------------------------------------------------- flight booking


def _booking(_lane: int, number: int) -> dict[str, Any]:
    return BOOKINGS.request(Chance(1), number)


def audit_bookings(data: Path, accepted: Mapping[int, str], received: Mapping[str, int]) -> Counter[str]:
    """Charges, refunds, seats, tickets and e-mails: the audit of the demo, and that nothing was booked beyond."""
    found = audit(BOOKINGS, data, accepted.values(), received)
    wrong = Counter({finding.replace("duplicated", "doubled"): count for finding, count in found.findings.items()})
    with reading(data / "booking.db") as connection:
        kept = [row[0] for row in connection.execute("SELECT booking_id FROM bookings")]
    wrong["doubled: bookings that no client was told of"] += len(set(kept) - set(accepted.values()))
    return +wrong


# ---------------------------------------------------------------------- enrollment

_PLANS = (*BONUS_POINTS, "unknown")


def _enrollment(_lane: int, number: int) -> dict[str, Any]:
    return {"name": f"Customer {number}", "email": f"c{number}@example.com", "plan": _PLANS[number % len(_PLANS)]}


def audit_enrollments(data: Path, accepted: Mapping[int, str], _received: Mapping[str, int]) -> Counter[str]:
    """Every customer has come to an end, with the points of the plan once, or with none and the reason."""
    with reading(data / "customer.db") as connection:
        rows = connection.execute("SELECT customer_id, plan, status, points, reason FROM customers").fetchall()
    with reading(data / "transaction.db") as connection:
        postings = connection.execute("SELECT customer_id, points FROM postings").fetchall()
    customers = {row[0]: row[1:] for row in rows}
    posted = Counter(customer for customer, _ in postings)
    wrong: Counter[str] = Counter()
    wrong["lost: accepted and not kept"] += len(set(accepted.values()) - set(customers))
    wrong["doubled: customers that no client was told of"] += len(set(customers) - set(accepted.values()))
    wrong["doubled: points posted twice"] += posted.total() - len(posted)
    wrong["doubled: points without a customer"] += len(set(posted) - set(customers))
    for customer, (plan, status, points, reason) in customers.items():
        bonus = BONUS_POINTS.get(plan)
        if status == "PENDING":
            wrong["lost: still pending"] += 1
        elif bonus is None:
            wrong["lost: not un-enrolled, or points without a plan"] += (
                status != "UNENROLLED" or not reason or points != 0 or customer in posted
            )
        else:
            wrong["lost: not enrolled, or without the points"] += (
                status != "ENROLLED" or points != bonus or (customer, bonus) not in set(postings)
            )
    return +wrong


# ---------------------------------------------------------------------- lanes


def _car(lane: int, number: int) -> dict[str, Any]:
    return {"lane": f"lane-{lane}", "n": number}


def audit_lanes(data: Path, accepted: Mapping[int, str], _received: Mapping[str, int]) -> Counter[str]:
    """Each table has each car once, and within a lane in order; nothing came back early, no tick counted twice."""
    wrong: Counter[str] = Counter()
    returning = {number for number in accepted if number % RETURNS_EVERY == 0}
    with reading(data / "lanes.db") as connection:
        for table in ("entered", "washed", "checked", "dried", "returned"):
            wrong += _cars(connection, table, returning if table == "returned" else set(accepted))
        wrong["broken: returned early"] += connection.execute("SELECT total(early) FROM returned").fetchone()[0]
        ticks = [row[0] for row in connection.execute("SELECT due FROM ticks ORDER BY id")]
        handled = "SELECT handled FROM antiphon_handlers WHERE name = 'records.count'"
        wrong["lost: ticks"] += connection.execute(handled).fetchone()[0] - len(ticks)
        failing = "SELECT count(*) FROM antiphon_attempts WHERE outcome = 'failed' AND error_type LIKE '%RuntimeError%'"
        failed = connection.execute(failing).fetchone()[0]
        wrong["lost: failed attempts"] += sum(number % FAILS_EVERY == 0 for number in accepted) - failed
    wrong["doubled: ticks"] += len(ticks) - len(set(ticks))
    wrong["disordered: ticks"] += ticks != sorted(ticks)
    return +wrong


def _cars(connection: sqlite3.Connection, table: str, expected: set[int]) -> Counter[str]:
    rows = connection.execute(f"SELECT lane, n FROM {table} ORDER BY id").fetchall()
    numbers = [n for _, n in rows]
    by_lane: dict[str, list[int]] = {}
    for lane, n in rows:
        by_lane.setdefault(lane, []).append(n)
    return Counter(
        {
            f"lost: not {table}": len(expected - set(numbers)),
            f"doubled: {table} twice, or never accepted": len(numbers) - len(set(numbers) & expected),
            f"disordered: {table}": sum(cars != sorted(cars) for cars in by_lane.values()),
        }
    )


BOOKINGS = subject_of("flight_booking")
CASES = {
    case.name: case
    for case in (
        Case(
            "flight_booking",
            "examples.flight_booking:app",
            ("booking", "payment", "seat", "ticket", "notification"),
            "/bookings",
            "booking_id",
            _booking,
            audit_bookings,
        ),
        Case(
            "enrollment",
            "examples.enrollment:app",
            ("customer", "transaction"),
            "/enrollments",
            "customer_id",
            _enrollment,
            audit_enrollments,
        ),
        Case(
            "lanes",
            "tests.crash.lanes:app",
            ("entrance", "washing", "records"),
            "/cars",
            "event_id",
            _car,
            audit_lanes,
        ),
    )
}
