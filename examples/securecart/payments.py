"""The Payments service: takes money at the bank, and gives it back; of one account strictly in order."""

from antiphon import Effects, Reject, Service, Transaction, seconds

from . import bank, retries
from .events import CardCharged, CardDeclined, ChargeCard, ChargeReturned, ReturnCharge

payments = Service("payments", tables="payments.sql")


@payments.on(ChargeCard, ReturnCharge, retry=retries.BANK, concurrency=16, timeout=seconds(30))
async def book(
    asked: ChargeCard | ReturnCharge, tx: Transaction, effects: Effects
) -> CardCharged | CardDeclined | ChargeReturned:
    """Charge, or give back. One handler for both, and both are keyed by the account: while one of an account's
    bookings waits for the bank, the next ones of that account wait behind it, and nobody else's do."""
    if isinstance(asked, ReturnCharge):
        return await _give_back(asked, tx, effects)
    return await _charge(asked, tx, effects)


async def _charge(asked: ChargeCard, tx: Transaction, effects: Effects) -> CardCharged | CardDeclined:
    """The call is recorded before it is made. After a crash the bank is asked what it has booked."""
    if await tx.fetch_value("SELECT 1 FROM given_up WHERE order_id = ?", asked.order_id):
        raise Reject(f"order {asked.order_id} was given up")
    reference = effects.key("charge")
    answer = await effects.once(
        "charge",
        bank.charge,
        reference,
        asked.card_last4,
        asked.cents,
        verify=bank.booked,
        not_done=(ConnectionRefusedError,),
    )
    if answer.number is None:
        return CardDeclined(asked.account, asked.order_id, answer.declined or "the bank gave no reason")
    await tx.execute(
        "INSERT INTO charges (order_id, account, cents, number, charged_at) VALUES (?, ?, ?, ?, ?)",
        asked.order_id,
        asked.account,
        asked.cents,
        answer.number,
        tx.now.isoformat(),
    )
    return CardCharged(asked.account, asked.order_id, answer.number)


async def _give_back(asked: ReturnCharge, tx: Transaction, effects: Effects) -> ChargeReturned:
    """Whatever was taken for the order. Raises Reject if the bank cannot; a person has to, then."""
    charged = await tx.fetch_one(
        "SELECT number, cents FROM charges WHERE order_id = ? AND refunded_at IS NULL", asked.order_id
    )
    if charged is not None:
        reference = effects.key("refund")
        answer = await effects.once(
            "refund",
            bank.refund,
            reference,
            charged["number"],
            verify=bank.booked,
            not_done=(ConnectionRefusedError,),
        )
        if answer.number is None:
            raise Reject(f"{charged['cents']} cents of order {asked.order_id} cannot be given back: {answer.declined}")
        await tx.execute(
            "UPDATE charges SET refunded_at = ?, refund = ? WHERE order_id = ?",
            tx.now.isoformat(),
            answer.number,
            asked.order_id,
        )
    await tx.execute("INSERT INTO given_up (order_id) VALUES (?) ON CONFLICT DO NOTHING", asked.order_id)
    return ChargeReturned(asked.account, asked.order_id, 0 if charged is None else charged["cents"])
