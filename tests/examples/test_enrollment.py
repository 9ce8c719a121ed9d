"""The enrollment example over HTTP, in one process and in one for each service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from antiphon.policy.choreography import check
from examples.enrollment import app
from examples.enrollment.shared.plans import BONUS_POINTS
from tests.examples.kit import in_a_process_each, in_one_process, shown

pytestmark = pytest.mark.anyio


async def enroll(client: httpx.AsyncClient, plan: str, **more: Any) -> dict[str, Any]:
    """Post an enrollment; the body of the 202."""
    body = {"name": "Ada Lovelace", "email": "ada@example.com", "plan": plan}
    answer = await client.post("/enrollments", json=body, **more)
    assert answer.status_code == 202, answer.text
    accepted: dict[str, Any] = answer.json()
    return accepted


async def outcome(client: httpx.AsyncClient, plan: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What becomes of an enrollment in *plan*: the customer, and the postings, without ids and times."""
    customer_id = (await enroll(client, plan))["customer_id"]
    customer = await shown(client, f"/customers/{customer_id}", lambda seen: seen["status"] != "PENDING")
    postings = (await client.get("/transactions", params={"customer_id": customer_id})).json()
    assert customer.pop("customer_id") == customer_id
    assert all(posting["customer_id"] == customer_id for posting in postings)
    return customer, [{name: posting[name] for name in ("kind", "points")} for posting in postings]


async def outcomes(client: httpx.AsyncClient) -> list[Any]:
    """What becomes of an enrollment with a bonus, and of one without."""
    return [await outcome(client, "gold"), await outcome(client, "basic")]


EXPECTED = [
    (
        {
            "name": "Ada Lovelace",
            "email": "ada@example.com",
            "plan": "gold",
            "status": "ENROLLED",
            "reason": None,
            "points": 500,
        },
        [{"kind": "enrollment bonus", "points": 500}],
    ),
    (
        {
            "name": "Ada Lovelace",
            "email": "ada@example.com",
            "plan": "basic",
            "status": "UNENROLLED",
            "reason": "plan 'basic' has no bonus",
            "points": 0,
        },
        [],
    ),
]


async def test_in_one_process(tmp_path: Path) -> None:
    """A plan with a bonus ends ENROLLED with its points; one without is un-enrolled with the reason."""
    async with in_one_process(app, tmp_path) as client:
        assert await outcomes(client) == EXPECTED


async def test_in_a_process_for_each_service(tmp_path: Path) -> None:
    """The same comes out when each service runs in a process of its own, asked at one address."""
    async with in_a_process_each("examples.enrollment:app", ["customer", "transaction"], tmp_path) as client:
        assert await outcomes(client) == EXPECTED


async def test_the_compensation_is_seen_in_the_trace(tmp_path: Path) -> None:
    """The events of a failed enrollment show the failure, what caused it, and the handler that took it back."""
    async with in_one_process(app, tmp_path) as client:
        accepted = await enroll(client, "basic")
        await shown(client, f"/customers/{accepted['customer_id']}", lambda seen: seen["status"] == "UNENROLLED")
        trace = await shown(
            client, accepted["events"], lambda seen: seen["events"][-1]["deliveries"][0]["status"] == "COMPLETED"
        )
    enrolled, failed = trace["events"]
    assert (enrolled["type"], failed["type"]) == ("CustomerEnrolled", "PointsFailed")
    assert failed["causation_id"] == enrolled["id"]
    assert [(each["handler"], each["status"]) for each in failed["deliveries"]] == [("customer.unenroll", "COMPLETED")]


async def test_a_repeated_post_enrolls_once(tmp_path: Path) -> None:
    """The same Idempotency-Key again is answered with the same customer, who has the bonus once."""
    async with in_one_process(app, tmp_path) as client:
        first, second = [await enroll(client, "silver", headers={"Idempotency-Key": "k1"}) for _ in range(2)]
        assert first["customer_id"] == second["customer_id"]
        await shown(client, f"/customers/{first['customer_id']}", lambda seen: seen["status"] == "ENROLLED")
        postings = await client.get("/transactions", params={"customer_id": first["customer_id"]})
        assert [posting["points"] for posting in postings.json()] == [BONUS_POINTS["silver"]]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": "Ada", "email": "ada@example.com"}, "plan"),
        ({"name": " ", "email": "ada@example.com", "plan": "gold"}, "name"),
        ({"name": "Ada", "email": "nobody", "plan": "gold"}, "email"),
    ],
)
async def test_a_wrong_enrollment_is_refused(tmp_path: Path, body: dict[str, str], field: str) -> None:
    """What is missing or wrong is refused with 422 and named, and nothing is kept."""
    async with in_one_process(app, tmp_path) as client:
        answer = await client.post("/enrollments", json=body)
        assert answer.status_code == 422
        assert answer.headers["content-type"].startswith("application/problem+json")
        assert field in answer.text


async def test_an_unknown_customer_is_not_found(tmp_path: Path) -> None:
    """A customer that does not exist is 404; one without postings has an empty list of them."""
    async with in_one_process(app, tmp_path) as client:
        answer = await client.get("/customers/nobody")
        assert answer.status_code == 404
        assert "nobody" in answer.json()["detail"]
        assert (await client.get("/transactions", params={"customer_id": "nobody"})).json() == []


def test_nothing_is_wrong_with_the_choreography() -> None:
    """`antiphon check` finds nothing."""
    assert check(app.specs) == []
