"""Payments, straight through: what is posted, what is told, and that no crash makes a difference."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from antiphon import AntiphonError, Reject, hours, minutes, seconds
from antiphon.demo.audit import audit, questions
from antiphon.demo.chance import Chance
from antiphon.policy.choreography import check
from antiphon.store.desk import Desk
from antiphon.testing import World
from examples.payments_stp import app, purchases
from examples.payments_stp.accounts import account_number, is_valid, merchant_account
from examples.payments_stp.demo import SHOP, payment, subject
from examples.payments_stp.messages import CURRENCY, ProcessPayment
from examples.payments_stp.service_c import CREDIT_LIMIT
from tests.conftest import require
from tests.examples.crashing import Life, crash_after_every_commit
from tests.examples.kit import CHECKOUT
from tests.examples.test_demo import played

pytestmark = pytest.mark.anyio

ADA, GRACE = account_number(1), account_number(2)
BODY = {"debtor": ADA, "creditor": SHOP, "amount": "11.77", "reference": "CDs"}
PROCESS, POST = "service_b.process", "service_c.post"


async def pay(world: World, **changes: Any) -> str:
    """Post a payment; its id."""
    answer = await world.request("POST", "/payments", json=BODY | changes)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["payment_id"])


def told(world: World) -> list[tuple[str, str | None]]:
    """What the upstream channel knows of all payments; the downstream one must know the same."""
    upstream = world.rows("upstream", "SELECT payment_id, status, reason FROM payments ORDER BY 1")
    downstream = world.rows("downstream", "SELECT payment_id, outcome, reason FROM advices ORDER BY 1")
    assert [row for row in upstream if row[1] != "IN_PROGRESS"] == downstream
    return [(status, reason) for _, status, reason in upstream]


def postings(world: World) -> list[tuple[str, str, int]]:
    """All postings, of which the sum is zero and each balance is made."""
    found = world.rows("service_c", "SELECT side, account, amount FROM postings ORDER BY payment_id, side DESC")
    assert sum(amount for _, _, amount in found) == 0
    balances: dict[str, int] = dict(world.rows("service_c", "SELECT account, balance FROM accounts"))
    assert balances == {each: sum(a for _, account, a in found if account == each) for each in balances}
    return found


def statuses(world: World, service: str, type_: str) -> list[str]:
    """The statuses of messages of a type, as the event table shows them."""
    sql = "SELECT STATUS FROM antiphon_events WHERE MESSAGE_TYPE = ? ORDER BY EVENT_ID"
    return [status for (status,) in world.rows(service, sql, type_)]


def test_nothing_is_wrong_with_the_choreography() -> None:
    """`antiphon check` finds nothing."""
    assert check(app.specs) == []


# ---------------------------------------------------------------------- what becomes of a payment


async def test_a_payment_goes_straight_through(tmp_path: Path) -> None:
    """It is posted on both sides, and both channels are told; each message is seen in its table."""
    async with app.test(data=tmp_path) as world:
        payment_id = await pay(world)
        await world.settle()
        assert told(world) == [("COMPLETED", None)]
        assert postings(world) == [("DR", ADA, -1177), ("CR", SHOP, 1177)]
        shown = (await world.request("GET", f"/payments/{payment_id}")).json()
        assert shown == {"payment_id": payment_id, "status": "COMPLETED", "reason": None}
        advice = (await world.request("GET", "/advices")).json()
        assert [(each["payment_id"], each["outcome"]) for each in advice] == [(payment_id, "COMPLETED")]

        inbound = world.rows("service_a", "SELECT MESSAGE_TYPE, SOURCE_SERVICE FROM antiphon_inbound ORDER BY EVENT_ID")
        assert inbound == [("RQ_A_INIT", "upstream"), ("RS_B_STP", "service_b")]
        requests = (
            "SELECT MESSAGE_TYPE, STATUS, TARGET_SERVICE FROM antiphon_requests WHERE SOURCE_SERVICE = ? ORDER BY 1"
        )
        assert world.rows("service_a", requests, "service_a") == [("RQ_B_STP", "ANSWERED", "service_b")]
        assert world.rows("service_b", requests, "service_b") == [
            ("CR_C_POST", "ANSWERED", "service_c"),
            ("DR_C_POST", "ANSWERED", "service_c"),
        ]
        responses = "SELECT MESSAGE_TYPE, SOURCE_SERVICE, LATE FROM antiphon_responses ORDER BY 1"
        assert world.rows("service_b", responses) == [
            ("RS_B_STP", "service_b", 0),
            ("RS_C_POST", "service_c", 0),
            ("RS_C_POST", "service_c", 0),
        ]
        kept = "SELECT PROCESS, STATUS, STATE, WORKING_DATA, CREATED_BY FROM antiphon_working_data WHERE NAME = ?"
        ((process, status, state, _, by),) = world.rows("service_b", kept, "answer")
        assert (process, status, json.loads(state)["phase"], by) == (PROCESS, "COMPLETED", "answered", "service_b")
        posted = [
            json.loads(row[3])["type"] for row in world.rows("service_b", kept, "RS_C_POST|RS_C_REF|antiphon.refused")
        ]
        assert posted == ["RS_C_POST", "RS_C_POST"]
        payload = "SELECT SOURCE_SERVICE, TARGET_SERVICE, PAYLOAD FROM antiphon_payloads WHERE TOPIC = 'DR_C_POST'"
        ((source, target, text),) = world.rows("service_c", payload)
        assert (source, target, json.loads(text)["account"]) == ("service_b", "service_c", ADA)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"debtor": ADA[:-1] + "2"}, "the debtor's account number is wrong"),
        ({"creditor": "no account"}, "the creditor's account number is wrong"),
        ({"creditor": ADA}, "debtor and creditor are the same"),
        ({"amount": "0.00"}, "the amount is not above zero"),
        ({"amount": "-3"}, "the amount is not above zero"),
        ({"currency": "EUR"}, "the currency is not USD"),
    ],
)
async def test_an_invalid_payment_is_rejected(tmp_path: Path, change: dict[str, str], reason: str) -> None:
    """A asks B to reject it, with the reason; the ledger hears nothing, and both channels are answered."""
    async with app.test(data=tmp_path) as world:
        await pay(world, **change)
        await world.settle()
        assert told(world) == [("REJECTED", reason)]
        assert postings(world) == []
        assert world.rows("service_b", "SELECT MESSAGE_TYPE FROM antiphon_inbound") == [("RQ_B_REJ",)]
        assert world.rows("service_c", "SELECT * FROM antiphon_inbound") == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"creditor": account_number(0, bank="ELSE")}, "is not held here"),
        ({"debtor": account_number(0, bank="ELSE")}, "is not held here"),
        ({"amount": "150.01"}, "has 150.00 USD left, 150.01 USD are asked for"),
        ({"debtor": merchant_account(1), "amount": "0.01"}, "has 0.00 USD left"),
    ],
)
async def test_the_ledger_posts_both_or_neither(tmp_path: Path, change: dict[str, str], reason: str) -> None:
    """What one side cannot have, the other is not posted for either, and both are told so once."""
    async with app.test(data=tmp_path) as world:
        await pay(world, **change)
        await world.settle()
        ((outcome, why),) = told(world)
        assert outcome == "REJECTED"
        assert reason in str(why)
        assert postings(world) == []
        answers = "SELECT MESSAGE_TYPE FROM antiphon_responses WHERE SOURCE_SERVICE = 'service_c'"
        assert world.rows("service_c", answers) == [("RS_C_REF",)] * 2


async def test_credit_comes_to_its_end(tmp_path: Path) -> None:
    """A customer may be overdrawn to the limit, to the cent, and no further; others are not concerned."""
    async with app.test(data=tmp_path) as world:
        for amount in ("100.00", "50.00", "0.01"):
            await pay(world, amount=amount)
            await world.settle()
        await pay(world, debtor=GRACE)
        await world.settle()
        assert [outcome for outcome, _ in told(world)] == ["COMPLETED", "COMPLETED", "REJECTED", "COMPLETED"]
        assert ("DR", ADA, -10_000) in postings(world)
        assert world.rows("service_c", "SELECT balance FROM accounts WHERE account = ?", ADA) == [(-CREDIT_LIMIT,)]


# ---------------------------------------------------------------------- trouble


async def test_while_the_ledger_fails_its_messages_are_in_retry(tmp_path: Path) -> None:
    """RETRY is seen in the event table, nobody is told anything, and then everything is COMPLETED."""
    async with app.test(data=tmp_path) as world:
        fault = world.fail(POST, times=None, error=ConnectionError)
        await pay(world)
        await world.advance(minutes(2))
        assert statuses(world, "service_c", "DR_C_POST") == ["RETRY"]
        assert told(world) == [("IN_PROGRESS", None)]
        fault.end()
        await world.advance(hours(1))
        assert told(world) == [("COMPLETED", None)]
        assert statuses(world, "service_c", "DR_C_POST") == ["COMPLETED"]
        assert statuses(world, "service_c", "CR_C_POST") == ["COMPLETED"]
        assert len(postings(world)) == 2


async def test_while_the_ledger_is_down_payments_wait(tmp_path: Path) -> None:
    """Requests are WAITING for a day, others are served, and all is posted once when it comes back."""
    async with app.test(data=tmp_path) as world:
        await world.crash("service_c")
        for _ in range(3):
            await pay(world, amount="1.00")
        await pay(world, amount="0.00")
        await world.advance(hours(23))
        assert [outcome for outcome, _ in told(world)] == ["IN_PROGRESS"] * 3 + ["REJECTED"]
        waiting = "SELECT count(*) FROM antiphon_requests WHERE STATUS = 'WAITING' AND TARGET_SERVICE = 'service_c'"
        assert world.rows("service_b", waiting) == [(6,)]
        await world.restart("service_c")
        await world.advance(minutes(1))
        assert [outcome for outcome, _ in told(world)] == ["COMPLETED"] * 3 + ["REJECTED"]
        assert len(postings(world)) == 6


@pytest.mark.parametrize("redriven_before", [False, True])
async def test_a_dead_letter_at_the_ledger_is_voided_before_anybody_is_told(
    tmp_path: Path, redriven_before: bool
) -> None:
    """Whether it is redriven before or after the ledger voids it: what is told then stays true."""
    async with app.test(data=tmp_path) as world:
        world.fail(POST, error=Reject)
        void = world.fail("service_c.void", times=None, error=ConnectionError)
        await pay(world)
        await world.advance(seconds(1))
        assert statuses(world, "service_c", "DR_C_POST") == ["ERROR"]
        assert told(world) == [("IN_PROGRESS", None)]
        assert app.runtime is not None
        desk = Desk(app.runtime.store_of("service_c"))
        ((dead,),) = world.rows("service_c", "SELECT EVENT_ID FROM antiphon_dead_letters")
        if redriven_before:
            await desk.dead.redrive_one(dead)
            await world.settle()
        void.end()
        await world.advance(minutes(5))
        if not redriven_before:
            await desk.dead.redrive_one(dead)
            await world.advance(minutes(5))
        ((outcome, reason),) = told(world)
        assert outcome == ("COMPLETED" if redriven_before else "REJECTED")
        assert (reason is None) == redriven_before
        assert len(postings(world)) == (2 if redriven_before else 0)
        assert statuses(world, "service_c", "DR_C_POST") == ["COMPLETED"]
        assert statuses(world, "service_c", "RQ_C_VOID") == ["COMPLETED"]
        assert world.rows("upstream", "SELECT answers FROM payments") == [(1,)]


async def test_what_no_ledger_can_post_is_an_error(tmp_path: Path) -> None:
    """A message that breaks the contract is ERROR at the ledger; whoever asked for it is answered all the same."""
    async with app.test(data=tmp_path) as world:
        wrong = ProcessPayment("p1", ADA, SHOP, Decimal(-5), CURRENCY, "not validated")
        await world.publish(wrong, service="service_a")
        await world.settle()
        assert statuses(world, "service_c", "DR_C_POST") == ["ERROR"]
        assert world.rows("service_b", "SELECT outcome FROM payments") == [("REJECTED",)]
        assert world.rows("service_c", "SELECT status FROM transfers") == [("REFUSED",)]
        assert postings(world) == []


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("handler", [PROCESS, f"{PROCESS}.inbox", POST, "service_a.initiate", "service_a.answer"])
async def test_a_handler_that_fails_before_or_after_its_work_is_undone(
    tmp_path: Path, handler: str, after: bool
) -> None:
    """Whatever has failed twice, even when all its work was done, takes effect once at the end."""
    async with app.test(data=tmp_path) as world:
        world.fail(handler, times=2, after=after)
        await pay(world)
        await pay(world, amount="0.00")
        await world.advance(minutes(10))
        assert told(world) == [("COMPLETED", None), ("REJECTED", "the amount is not above zero")]
        assert len(postings(world)) == 2


@pytest.mark.parametrize(
    ("body", "every"),
    [
        # Each life takes its time: some commits here, and each of them in `make soak`.
        pytest.param(BODY, 6, id="settled-6"),
        pytest.param(BODY, 1, id="settled", marks=pytest.mark.soak),
        pytest.param(BODY | {"amount": "999.00"}, 1, id="refused", marks=pytest.mark.soak),
        pytest.param(BODY | {"amount": "0.00"}, 1, id="invalid", marks=pytest.mark.soak),
    ],
)
async def test_a_crash_at_any_step_changes_nothing(body: dict[str, str], every: int) -> None:
    """Any service is killed after any of its commits: the same is told and posted at the end, once."""

    async def play(life: Life) -> None:
        await life.post("/payments", body)
        await life.passes(seconds(1))

    def look(world: World) -> Any:
        answers = world.rows("upstream", "SELECT answers FROM payments")
        return [told(world), postings(world), answers, world.rows("service_a", "SELECT * FROM working_data")]

    assert await crash_after_every_commit(app, play, look, every=every) > 10


# ---------------------------------------------------------------------- the ledger's tables


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO postings VALUES ('p9', 'DR', 'a', -5)",
        "INSERT INTO postings SELECT payment_id, 'CR', account, 5 FROM postings WHERE side = 'DR'",
        "UPDATE postings SET amount = 2 * amount",
        "DELETE FROM postings WHERE side = 'CR'",
        "INSERT OR REPLACE INTO postings SELECT payment_id, side, account, 2 * amount FROM postings WHERE side = 'CR'",
        "UPDATE entries SET amount = 1",
        "DELETE FROM entries",
        "INSERT INTO entries VALUES ('p9', 'nobody', 'no one', 5, '')",
        "INSERT INTO entries SELECT 'p9', debit, debit, 5, '' FROM entries",
        "INSERT INTO entries SELECT 'p9', debit, credit, 0, '' FROM entries",
        "INSERT INTO entries SELECT 'p9', debit, credit, 100000, '' FROM entries",
        "INSERT INTO entries SELECT * FROM entries",
        "UPDATE transfers SET status = 'PENDING'",
    ],
)
async def test_the_tables_keep_the_sum_at_zero(tmp_path: Path, statement: str) -> None:
    """No statement can post one side, twice, another amount, or take something back."""
    async with app.test(data=tmp_path) as world:
        await pay(world)
        await world.settle()
        before = postings(world)
    with closing(sqlite3.connect(tmp_path / "service_c.db")) as ledger:
        with pytest.raises(sqlite3.IntegrityError):
            ledger.execute(statement)
        assert ledger.execute("SELECT side, account, amount FROM postings ORDER BY side DESC").fetchall() == before


# ---------------------------------------------------------------------- accounts and purchases


def test_check_digits_find_what_is_mistyped() -> None:
    """One wrong digit, or two neighbours exchanged, make an account number wrong, and the page's are right."""
    page = (CHECKOUT / "examples" / "payments_stp" / "README.md").read_text(encoding="utf-8")
    assert {account_number(1), merchant_account(0)} == set(re.findall(r"XX\d{2}ANTI\d{10}", page))
    number = account_number(1234567890)
    assert is_valid(number)
    digits = [at for at, character in enumerate(number) if character.isdigit()]
    for at in digits:
        for digit in set("0123456789") - {number[at]}:
            assert not is_valid(number[:at] + digit + number[at + 1 :])
    for at in digits[2:-1]:
        exchanged = number[:at] + number[at + 1] + number[at] + number[at + 2 :]
        assert not is_valid(exchanged)


def test_the_purchases_are_real(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are those of the data set, in the order of their days; without it an error says how to install it."""
    require("lifetimes", find_spec("lifetimes") is not None)
    found = purchases.purchases()
    assert len(found) == 69_659
    assert len({purchase.customer for purchase in found}) == 23_570
    assert (str(found[0].day), str(found[-1].day)) == ("1997-01-01", "1998-06-30")
    asked = [payment(Chance(3), number) for number in range(500)]
    assert asked == [payment(Chance(3), number) for number in range(500)]
    assert 0 < sum(not is_valid(each["debtor"]) for each in asked) < 60

    monkeypatch.setattr(purchases, "find_spec", lambda name: None)
    purchases.purchases.cache_clear()
    try:
        with pytest.raises(AntiphonError, match=r"antiphon\[payments\]"):
            purchases.purchases()
    finally:
        purchases.purchases.cache_clear()


# ---------------------------------------------------------------------- the demo


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The databases of a demo whose processes were killed, and in which attempts failed; and what it said."""
    require("lifetimes", find_spec("lifetimes") is not None)
    data = tmp_path_factory.mktemp("payments")
    options = ("--for", "5", "--kill", "1.5", "--fail", "0.1", "--data", str(data))
    return data, played("payments_stp", *options, cwd=data)


def test_the_demo_ends_in_an_audit(kept: tuple[Path, dict[str, Any]]) -> None:
    """Processes were killed and attempts failed; each payment was answered once, and debit is credit."""
    _, facts = kept
    assert facts["audit_ok"] is True
    assert facts["drained"] is True
    assert facts["processes_killed"] > 0
    assert facts["retries"] > 0
    assert facts["accepted"] == facts["completed"] + facts["rejected"] > 20
    assert facts["rejected"] == facts["invalid"] + facts["refused"]
    assert facts["postings"] == 2 * facts["completed"]
    assert facts["debit_cents"] == facts["credit_cents"] > 0
    assert (facts["lost"], facts["duplicated"], facts["dead_letters"]) == (0, 0, 0)


_FREE = "DROP TRIGGER posting_stays; DROP TRIGGER posting_is_kept; DROP TRIGGER posting_has_entry; "


@pytest.mark.parametrize(
    ("service", "damage", "finding"),
    [
        ("upstream", "DELETE FROM payments WHERE payment_id = ?", "lost: accepted and not kept"),
        ("upstream", "UPDATE payments SET answers = 0 WHERE payment_id = ?", "lost: never answered upstream"),
        ("upstream", "UPDATE payments SET answers = 2 WHERE payment_id = ?", "duplicated: answered twice upstream"),
        (
            "upstream",
            "UPDATE payments SET status = 'REJECTED' WHERE payment_id = ?",
            "duplicated: posted, and rejected",
        ),
        ("downstream", "DELETE FROM advices WHERE payment_id = ?", "lost: never advised downstream"),
        (
            "downstream",
            "UPDATE advices SET outcome = 'REJECTED' WHERE payment_id = ?",
            "lost: the channels were told different things",
        ),
        ("service_a", "INSERT INTO working_data VALUES ('r', ?, 'u')", "lost: a request that A still waits for"),
        (
            "service_c",
            "DROP TRIGGER decision_stays; UPDATE transfers SET status = 'PENDING' WHERE payment_id = ?",
            "lost: a payment that the ledger has not decided",
        ),
        (
            "service_c",
            _FREE + "DELETE FROM postings WHERE payment_id = ?",
            "lost: completed and not posted, both sides",
        ),
        (
            "service_c",
            _FREE + "DELETE FROM postings WHERE side = 'CR' AND payment_id = ?",
            "lost: the sum of the ledger is not zero",
        ),
        (
            "service_c",
            _FREE + "UPDATE postings SET amount = 2 * amount WHERE side = 'CR' AND payment_id = ?",
            "lost: a payment whose debit is not its credit",
        ),
        (
            "service_c",
            "UPDATE accounts SET balance = balance + 1 WHERE account = "
            "(SELECT account FROM postings WHERE side = 'DR' AND payment_id = ?)",
            "lost: a balance that is not the sum of its postings",
        ),
        (
            "service_b",
            "UPDATE antiphon_log SET type = 'RS_B_STP', origin = 0, request_id = NULL, key = ? "
            "WHERE seq IN (SELECT seq FROM antiphon_log ORDER BY seq LIMIT 2)",
            "duplicated: a message published twice",
        ),
    ],
)
def test_the_audit_finds_what_is_wrong(
    kept: tuple[Path, dict[str, Any]], tmp_path: Path, service: str, damage: str, finding: str
) -> None:
    """Each way to lose a payment, or to do something twice, is found in databases that were damaged so."""
    data, _ = kept
    for database in data.glob("*.db"):
        with closing(sqlite3.connect(database)) as there, closing(sqlite3.connect(tmp_path / database.name)) as here:
            there.backup(here)
    with closing(sqlite3.connect(tmp_path / "upstream.db")) as connection:
        rows = connection.execute("SELECT payment_id, status FROM payments ORDER BY 1").fetchall()
    accepted = [payment_id for payment_id, _ in rows]
    completed = next(payment_id for payment_id, status in rows if status == "COMPLETED")
    assert audit(subject(), tmp_path, accepted, {}).findings == {}
    with closing(sqlite3.connect(tmp_path / f"{service}.db")) as connection, connection:
        for statement in damage.split("; "):
            connection.execute(statement, (completed,) * statement.count("?"))
    found = audit(subject(), tmp_path, accepted, {})
    assert not found.ok
    assert found.findings[finding] == 1
    assert finding in questions(subject())
