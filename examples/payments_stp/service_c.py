"""Service C, the ledger: posts both sides of a payment, or neither.

The two sides come as two commands. The first is kept, unanswered, until the second is there; then the ledger decides,
and answers both with what it has decided, in the transaction that posts them.
"""

from typing import NamedTuple

from antiphon import Delivery, Reject, Service, Transaction

from . import retries
from .accounts import BANK, bank_of, is_merchant, is_valid
from .messages import CURRENCY, PostCredit, PostDebit, SidePosted, SideRefused, VoidAnswered, VoidPosting

service_c = Service("service_c", tables="service_c.sql")

#: How far a customer may be overdrawn, in cents; a merchant may not.
CREDIT_LIMIT = 15_000


class Side(NamedTuple):
    """One side of a payment as it was asked for; *amount* in cents."""

    payment_id: str
    side: str
    request_id: str
    account: str
    amount: int


@service_c.on(PostDebit, PostCredit, retry=retries.LEDGER)
async def post(asked: PostDebit | PostCredit, tx: Transaction, delivery: Delivery) -> SidePosted | SideRefused | None:
    """Keep the side that comes first; at the second, post both or refuse both. Answers both."""
    mine = _side_of(asked, delivery.envelope.id)
    known = await tx.fetch_one("SELECT status, reason FROM transfers WHERE payment_id = ?", mine.payment_id)
    if known is not None and known["status"] == "REFUSED":
        return SideRefused(mine.payment_id, known["reason"])
    kept = [Side(*row) for row in await tx.fetch_all("SELECT * FROM sides WHERE payment_id = ?", mine.payment_id)]
    if any(side.side == mine.side for side in kept):
        raise Reject(f"{mine.side} of payment {mine.payment_id} has come already")
    if known is None:
        await tx.execute("INSERT INTO transfers (payment_id, status) VALUES (?, 'PENDING')", mine.payment_id)
    await tx.execute("INSERT INTO sides VALUES (?, ?, ?, ?, ?)", *mine)
    reason = _why_never(asked)
    if reason is None and not kept:
        return None
    reason = reason or await _post_both(tx, *sorted([mine, *kept], key=lambda side: side.side, reverse=True))
    await tx.execute(
        "UPDATE transfers SET status = ?, reason = ? WHERE payment_id = ?",
        "POSTED" if reason is None else "REFUSED",
        reason,
        mine.payment_id,
    )
    answer = SidePosted(mine.payment_id) if reason is None else SideRefused(mine.payment_id, reason)
    for other in kept:
        await tx.reply(other.request_id, answer)
    return answer


@service_c.on(VoidPosting, retry=retries.LEDGER)
async def void(asked: VoidPosting, tx: Transaction) -> VoidAnswered | SideRefused:
    """Decide that nothing of the payment is posted, if nothing is decided yet; whoever waits is told."""
    status = await tx.fetch_value("SELECT status FROM transfers WHERE payment_id = ?", asked.payment_id)
    if status in (None, "PENDING"):
        await tx.execute(
            "INSERT INTO transfers VALUES (?1, 'REFUSED', ?2) "
            "ON CONFLICT DO UPDATE SET status = 'REFUSED', reason = excluded.reason",
            asked.payment_id,
            asked.reason,
        )
        for row in await tx.fetch_all("SELECT request_id FROM sides WHERE payment_id = ?", asked.payment_id):
            await tx.reply(row["request_id"], SideRefused(asked.payment_id, asked.reason))
    return VoidAnswered(asked.payment_id, posted=status == "POSTED")


async def _post_both(tx: Transaction, debit: Side, credit: Side) -> str | None:
    """Post the entry; or say why not, and leave everything as it was."""
    if debit.amount != credit.amount:
        return f"the debit is {_shown(debit.amount)}, the credit {_shown(credit.amount)}"
    for account in (debit.account, credit.account):
        lowest = 0 if is_merchant(account) else -CREDIT_LIMIT
        await tx.execute("INSERT INTO accounts (account, lowest) VALUES (?, ?) ON CONFLICT DO NOTHING", account, lowest)
    left = await tx.fetch_value("SELECT balance - lowest FROM accounts WHERE account = ?", debit.account)
    if debit.amount > left:
        return f"account {debit.account} has {_shown(left)} left, {_shown(debit.amount)} are asked for"
    await tx.execute(
        "INSERT INTO entries (payment_id, debit, credit, amount, posted_at) VALUES (?, ?, ?, ?, ?)",
        debit.payment_id,
        debit.account,
        credit.account,
        debit.amount,
        tx.now.isoformat(),
    )
    return None


def _side_of(asked: PostDebit | PostCredit, request_id: str) -> Side:
    """What is asked for. Raises Reject for an amount that no ledger can post."""
    cents = asked.amount * 100
    if cents <= 0 or cents != int(cents):
        raise Reject(f"{asked.amount} is no amount to post: it is above zero, in whole cents")
    side = "DR" if isinstance(asked, PostDebit) else "CR"
    return Side(asked.payment_id, side, request_id, asked.account, int(cents))


def _why_never(asked: PostDebit | PostCredit) -> str | None:
    """Why this side cannot be posted, whatever the other one is."""
    if not is_valid(asked.account) or bank_of(asked.account) != BANK:
        return f"account {asked.account} is not held here"
    if asked.currency != CURRENCY:
        return f"the ledger is in {CURRENCY}, not in {asked.currency}"
    return None


def _shown(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02d} {CURRENCY}"
