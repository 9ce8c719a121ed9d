"""Calls to the outside: the intent first, the result kept, an unknown outcome verified, repeated or parked."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from antiphon import Delivery, Effects, Event, Retry, Service, Transaction, seconds
from antiphon.errors import AntiphonError, DeclarationError
from antiphon.model.effects import Effect, EffectState
from antiphon.policy.effects import idempotency_key, next_step
from antiphon.store.desk import Desk
from antiphon.store.effects import EffectDesk
from antiphon.store.maintenance import prune
from tests.runtime.kit import World, running

pytestmark = pytest.mark.anyio

QUICK = Retry(attempts=4, first=seconds(1), jitter=False)


class Charge(Event, key="order_id"):
    """A card has to be charged."""

    order_id: str


class Receipt(msgspec.Struct):
    """What the bank gives back."""

    number: int
    key: str


class Bank:
    """The other side: it charges whenever it is asked, and fails as it is told, before or after."""

    def __init__(self, *failures: str) -> None:
        self.charges: list[str] = []
        self.failures = list(failures)

    async def charge(self, key: str) -> Receipt:
        """Charge; with the failure ``before`` or ``after``, or ``refuse`` with nothing done."""
        failure = self.failures.pop(0) if self.failures else ""
        if failure == "refuse":
            raise ConnectionRefusedError("no route to the bank")
        if failure == "before":
            raise TimeoutError("no answer")
        self.charges.append(key)
        if failure == "after":
            raise TimeoutError("no answer")
        return Receipt(len(self.charges), key)

    async def find(self, key: str) -> Receipt | None:
        """What has been charged with that key."""
        return Receipt(self.charges.index(key) + 1, key) if key in self.charges else None


def payment(bank: Bank, after: Callable[[], None] = lambda: None, **how: Any) -> tuple[Service, list[Receipt]]:
    """A service that charges by an effect, writes the receipt down, and may fail *after* that."""
    service = Service("payment", tables="CREATE TABLE receipts (order_id TEXT PRIMARY KEY, number INTEGER);")
    receipts: list[Receipt] = []

    @service.on(Charge, retry=QUICK)
    async def charge(wanted: Charge, effects: Effects, tx: Transaction) -> None:
        receipt = await effects.once("charge", bank.charge, effects.key("charge"), **how)
        receipts.append(receipt)
        await tx.execute("INSERT INTO receipts VALUES (?, ?)", wanted.order_id, receipt.number)
        after()

    return service, receipts


async def effects_of(world: World) -> list[Effect]:
    """All that is on record."""
    return await EffectDesk(world.store).ls(tuple(EffectState))


async def test_the_result_is_kept_with_the_handlers_transaction(tmp_path: Path) -> None:
    """One call, one row DONE with its result and the key that the other side was given."""
    bank = Bank()
    service, receipts = payment(bank)
    async with running(tmp_path, service) as world:
        (event_id,) = await world.publish("payment", Charge("o1"))
        (effect,) = await effects_of(world)
        assert (effect.state, effect.calls, effect.key) == ("DONE", 1, f"{event_id}:payment.charge:charge")
        assert bank.charges == [effect.key]
        assert receipts == [Receipt(1, effect.key)]
        assert await world.rows("SELECT order_id, number FROM receipts") == [("o1", 1)]


async def test_the_intent_is_durable_before_the_call(tmp_path: Path) -> None:
    """While the other side is asked, another connection reads the intent, and no lock is held."""
    seen: list[str] = []
    service = Service("payment", tables="CREATE TABLE notes (x);")

    @service.on(Charge)
    async def charge(wanted: Charge, effects: Effects) -> None:
        async def look() -> None:
            seen.extend(effect.state for effect in await effects_of(world))
            async with world.runtime.transaction("payment") as other:
                await other.execute("INSERT INTO notes VALUES (1)")

        await effects.once("look", look)

    async with running(tmp_path, service) as world:
        await world.publish("payment", Charge("o1"))
        assert seen == ["INTENDED"]
        assert [effect.state for effect in await effects_of(world)] == ["DONE"]


async def test_a_handler_that_fails_afterwards_does_not_call_again(tmp_path: Path) -> None:
    """The outcome is recorded with the failure, and later attempts are given the result that was kept."""
    bank, failures = Bank(), iter([True, True, False])

    def after() -> None:
        if next(failures):
            raise ValueError("the printer jams")

    service, receipts = payment(bank, after)
    async with running(tmp_path, service) as world:
        await world.publish("payment", Charge("o1"))
        await world.until(lambda: len(receipts) == 3)
        assert len(bank.charges) == 1
        assert receipts == [Receipt(1, bank.charges[0])] * 3, "the kept result has the type that fn says"
        assert await world.rows("SELECT count(*) FROM receipts") == [(1,)]


@pytest.mark.parametrize(("failure", "charges", "calls"), [("after", 1, 1), ("before", 1, 2)])
async def test_an_unknown_outcome_is_verified(tmp_path: Path, failure: str, charges: int, calls: int) -> None:
    """The next attempt looks on the other side: what took effect is not repeated, what did not is made."""
    bank = Bank(failure)
    service, receipts = payment(bank, verify=bank.find)
    async with running(tmp_path, service) as world:
        await world.publish("payment", Charge("o1"))
        await world.until(lambda: bool(receipts))
        assert len(bank.charges) == charges
        (effect,) = await effects_of(world)
        assert (effect.state, effect.calls) == ("DONE", calls)


async def test_an_unknown_outcome_that_nobody_can_verify_is_parked(tmp_path: Path) -> None:
    """A dead letter FAILED at once, with the effect AMBIGUOUS; a person resolves it, a redrive goes by that."""
    bank = Bank("after")
    service, receipts = payment(bank)
    async with running(tmp_path, service) as world:
        (event_id,) = await world.publish("payment", Charge("o1"))
        await world.clock.advance(60)
        dead = await world.rows("SELECT STATUS, ERROR_TYPE, ATTEMPTS FROM antiphon_dead_letters")
        assert dead == [("FAILED", "antiphon.errors.AmbiguousEffect", 1)]
        (effect,) = await effects_of(world)
        assert (effect.state, len(bank.charges)) == ("AMBIGUOUS", 1)
        desk = EffectDesk(world.store)
        await desk.resolve(effect, done=True, result=b"17", reason="a slip of the pen")
        result = msgspec.json.encode(Receipt(1, effect.key))
        await desk.resolve(effect, done=True, result=result, reason="seen in the bank's portal")
        await Desk(world.store).dead.redrive_one(event_id)
        await world.until(lambda: bool(receipts))
        assert len(bank.charges) == 1
        with pytest.raises(AntiphonError, match="is known"):
            await desk.resolve(effect, done=False, result=None, reason="second thoughts")


@pytest.mark.parametrize("failure", ["before", "after"])
async def test_what_the_other_side_recognises_is_repeated(tmp_path: Path, failure: str) -> None:
    """An idempotent call is made again, with the same key."""
    bank = Bank(failure)
    service, receipts = payment(bank, idempotent=True)
    async with running(tmp_path, service) as world:
        await world.publish("payment", Charge("o1"))
        await world.until(lambda: bool(receipts))
        assert len(set(bank.charges)) == 1
        assert [(effect.state, effect.calls) for effect in await effects_of(world)] == [("DONE", 2)]


async def test_an_error_that_says_nothing_was_done_is_just_retried(tmp_path: Path) -> None:
    """With it listed in not_done there is nothing to verify; the call is made again."""
    bank = Bank("refuse", "refuse")
    service, receipts = payment(bank, not_done=(ConnectionRefusedError,))
    async with running(tmp_path, service) as world:
        await world.publish("payment", Charge("o1"))
        assert [effect.state for effect in await effects_of(world)] == ["NOT_DONE"]
        await world.until(lambda: bool(receipts))
        assert len(bank.charges) == 1


async def test_a_worker_that_lost_its_lease_calls_nothing(tmp_path: Path) -> None:
    """The intent is fenced: who was taken over cannot begin a call that the new owner does not know of."""
    bank, may_call = Bank(), asyncio.Event()
    service = Service("payment")

    @service.on(Charge, retry=QUICK)
    async def charge(wanted: Charge, effects: Effects) -> None:
        await may_call.wait()
        await effects.once("charge", bank.charge, effects.key("charge"))

    async with running(tmp_path, service) as world:
        await world.publish("payment", Charge("o1"))
        async with world.store.unit() as unit:
            await unit.execute("UPDATE antiphon_handlers SET epoch = epoch + 1")
        may_call.set()
        await world.clock.rest()
        assert bank.charges == []


async def test_effects_come_before_writes(tmp_path: Path) -> None:
    """A call after a write would hold the writer's lock while it waits: refused, in words."""
    service = Service("payment", tables="CREATE TABLE notes (x);")

    @service.on(Charge, retry=Retry(attempts=1))
    async def charge(wanted: Charge, tx: Transaction, effects: Effects) -> None:
        await tx.execute("INSERT INTO notes VALUES (1)")
        await effects.once("charge", Bank().charge, "k")

    async with running(tmp_path, service) as world:
        await world.publish("payment", Charge("o1"))
        ((reason,),) = await world.rows("SELECT REASON FROM antiphon_dead_letters")
        assert "Call first, write afterwards" in reason


async def test_calls_of_one_handler_have_names_of_their_own(tmp_path: Path) -> None:
    """Two calls side by side are two effects; one name twice at once, and what cannot be awaited, are refused."""
    bank, done = Bank(), []
    service = Service("payment")

    @service.on(Charge, retry=Retry(attempts=1))
    async def charge(wanted: Charge, effects: Effects, delivery: Delivery) -> None:
        await asyncio.gather(effects.once("a", bank.charge, "a"), effects.once("b", bank.charge, "b"))
        again = await effects.once("a", bank.charge, "a")
        assert again.key == "a"
        with pytest.raises(DeclarationError, match="under way"):
            await asyncio.gather(effects.once("c", bank.charge, "c"), effects.once("c", bank.charge, "c"))
        blocking: Any = print
        with pytest.raises(DeclarationError, match="no async def"):
            await effects.once("d", blocking, "d")
        done.append(wanted)

    async with running(tmp_path, service) as world:
        await world.publish("payment", Charge("o1"))
        assert done
        assert sorted(bank.charges) == ["a", "b", "c"]
        assert sorted(effect.name for effect in await effects_of(world)) == ["a", "b", "c"]


async def test_a_result_that_is_no_json_is_told(tmp_path: Path) -> None:
    """The call was made and is not made again; that its result is lost is said, not hidden."""
    made = []
    service = Service("payment")

    @service.on(Charge, retry=Retry(attempts=2, first=seconds(1), jitter=False))
    async def charge(wanted: Charge, effects: Effects) -> None:
        async def odd() -> object:
            made.append(1)
            return object()

        await effects.once("odd", odd)

    async with running(tmp_path, service) as world:
        await world.publish("payment", Charge("o1"))
        await world.clock.advance(10)
        assert made == [1]
        ((reason,),) = await world.rows("SELECT REASON FROM antiphon_dead_letters")
        assert "cannot be kept as JSON" in reason


async def test_a_persons_word_of_another_type_is_told_and_mended(tmp_path: Path) -> None:
    """A result that is not what the function returns leaves the event dead, with how to mend it; nothing is called."""
    bank = Bank("after")
    service, receipts = payment(bank)
    async with running(tmp_path, service) as world:
        (event_id,) = await world.publish("payment", Charge("o1"))
        (effect,) = await effects_of(world)
        desk, letters = EffectDesk(world.store), Desk(world.store).dead
        await desk.resolve(effect, done=True, result=b"17", reason="a slip of the pen")
        await letters.redrive_one(event_id)
        await world.clock.advance(60)
        ((reason,),) = await world.rows("SELECT REASON FROM antiphon_dead_letters")
        assert "is not what Bank.charge returns" in reason
        await desk.resolve(effect, done=False, result=None, reason="there is no such charge")
        await letters.redrive_one(event_id)
        await world.until(lambda: bool(receipts))
        assert len(bank.charges) == 2, "made again, since a person said that it was not done"


async def test_old_effects_go_with_their_events(tmp_path: Path) -> None:
    """Retention removes the record of calls whose events it has removed, and no other."""
    service, _ = payment(Bank())
    async with running(tmp_path, service) as world:
        await world.publish("payment", Charge("o1"))
        await world.clock.advance(3600)
        await world.publish("payment", Charge("o2"))
        await prune(world.store, world.clock.now_ms() - 1_000)
        (left,) = await world.rows("SELECT count(*) FROM antiphon_effects")
        assert left == (1,)


def test_effects_are_a_handlers() -> None:
    """A route has no event to be idempotent by, and a plain def cannot await."""
    service = Service("payment")
    with pytest.raises(DeclarationError, match="only a handler has"):

        @service.post("/pay")
        async def pay(effects: Effects) -> None:
            """Pays."""

    with pytest.raises(DeclarationError, match="has to be awaited"):

        @service.on(Charge)
        def charge(wanted: Charge, effects: Effects) -> None:
            """Charges."""


@pytest.mark.parametrize(
    ("state", "can_verify", "idempotent", "step"),
    [
        (None, False, False, "call"),
        ("NOT_DONE", True, True, "call"),
        ("DONE", True, True, "give result"),
        ("INTENDED", True, False, "verify"),
        ("INTENDED", True, True, "verify"),
        ("INTENDED", False, True, "call"),
        ("INTENDED", False, False, "park"),
        ("AMBIGUOUS", True, False, "verify"),
        ("AMBIGUOUS", False, True, "park"),
    ],
)
def test_the_next_step(state: str | None, can_verify: bool, idempotent: bool, step: str) -> None:
    """All that can be known of a call, and what an attempt does about it."""
    known = state and Effect(event_id="e", handler="h", name="n", key="k", state=EffectState(state))
    assert next_step(known or None, can_verify=can_verify, idempotent=idempotent) == step


def test_a_key_is_plain_text_for_any_id() -> None:
    """An id from elsewhere that others could not take as a header is hashed; one of ours is readable."""
    assert idempotency_key("0192-abc", "payment.charge", "charge") == "0192-abc:payment.charge:charge"
    odd = idempotency_key("zwei Wörter\n", "h", "n")
    assert odd.isascii()
    assert odd != idempotency_key("zwei Worter\n", "h", "n")
