"""Every claim of a world: what it lets pass, and what it says when it does not hold."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from antiphon import hours
from antiphon.errors import DeclarationError
from antiphon.testing import World, WorldFailure
from tests.testing.shop import OrderPaid, OrderPlaced, OrderRefunded, OutOfStock, Shop

pytestmark = pytest.mark.anyio


@pytest.fixture
def shop() -> Shop:
    """The shop."""
    return Shop()


@pytest.fixture
async def world(shop: Shop) -> AsyncIterator[World]:
    """One order is paid, one is refunded since nothing is left, one has a price that is refused."""
    async with shop.app.test() as world:
        world.fail(shop.charge, error=TimeoutError("bank asleep"))
        for order_id, cents in (("fine", 100), ("dear", 5_000), ("wrong", -1)):
            await world.publish(OrderPlaced(order_id, cents))
        await world.advance(hours(24))
        yield world


def said(claim: Callable[[], object]) -> str:
    """What a claim that must fail says, without the timeline, which must be there."""
    with pytest.raises(WorldFailure) as caught:
        claim()
    text, _, timeline = str(caught.value).partition("\n\n")
    assert timeline.startswith("timeline of shop from 2026-01-01T00:00:00.000Z, seed 0, now +86400.000s\n")
    return text


async def test_published(world: World) -> None:
    """The count is exact, or one and more; *where* narrows; what was found is returned."""
    assert [each.order_id for each in world.assert_published(OrderPaid, 3)] == ["dear", "wrong", "fine"]
    assert world.assert_published(OrderPaid, where=lambda paid: paid.cents < 0) == [OrderPaid("wrong", -1)]
    assert len(world.assert_published(OrderPlaced, None)) == 3
    world.assert_published(OrderPaid, 0, where=lambda paid: paid.cents == 1)


async def test_published_says_what_there_was_instead(world: World) -> None:
    """Too many, too few, none that fits: with what else was published."""
    others = "published were: 3 x OrderPlaced, 3 x OrderPaid, 1 x OutOfStock, 1 x OrderRefunded"
    assert said(lambda: world.assert_published(OrderPaid)) == f"OrderPaid was published 3 times, not once; {others}"
    assert said(lambda: world.assert_published(OutOfStock, 2)) == (
        f"OutOfStock was published once, not 2 times; {others}"
    )
    assert said(lambda: world.assert_published(OrderPaid, None, where=lambda paid: paid.cents == 1)) == (
        "OrderPaid that fits was published 0 times, not one or more times, of 3; others are: "
        "OrderPaid(order_id='dear', cents=5000); OrderPaid(order_id='wrong', cents=-1); "
        "OrderPaid(order_id='fine', cents=100)"
    )


async def test_not_published(world: World) -> None:
    """None at all, or none that fits; otherwise it says how many there were."""
    world.assert_not_published(OrderRefunded, where=lambda refunded: refunded.order_id == "fine")
    assert "OutOfStock was published once, not 0 times" in said(lambda: world.assert_not_published(OutOfStock))


async def test_dead_letters(world: World, shop: Shop) -> None:
    """By the handler's function or name, or by the event's class; narrowed by reason or error."""
    (letter,) = world.assert_dead_letter(shop.take)
    assert letter.handler == "stock.take"
    assert world.assert_dead_letter("stock.take", reason="a price below zero") == [letter]
    assert world.assert_dead_letter(OrderPaid, reason="Reject") == [letter]
    world.assert_dead_letter(shop.charge, n=0)


async def test_dead_letters_say_which_there_are(world: World, shop: Shop) -> None:
    """Another reason, another handler, another number: the dead letters that there are, are named."""
    there = "  stock.take ERROR: Reject: a price below zero."
    assert said(lambda: world.assert_dead_letter(shop.take, reason="too heavy")).splitlines() == [
        "stock.take has 0 dead letters with 'too heavy' in their reason or error, not 1",
        "its dead letters:",
        there,
    ]
    assert said(lambda: world.assert_dead_letter(OrderPlaced, n=None)).splitlines() == [
        "OrderPlaced has 0 dead letters, not one or more",
        "all dead letters:",
        there,
    ]
    assert said(world.assert_no_dead_letters).splitlines() == ["there is 1 dead letter", "it is:", there]


async def test_compensated(world: World, shop: Shop) -> None:
    """By an event that followed, a handler that completed, or several in their order."""

    def is_dear(paid: OrderPaid) -> bool:
        return paid.order_id == "dear"

    world.assert_compensated(OutOfStock, by=OrderRefunded)
    world.assert_compensated(OutOfStock, by=[shop.refund, OrderRefunded, "orders.cancel"])
    world.assert_compensated(OrderPaid, by="orders.cancel", where=is_dear)


async def test_compensated_says_what_is_missing(world: World, shop: Shop) -> None:
    """Nothing that failed, no undoing of one of several, an order that was not kept."""
    assert said(lambda: world.assert_compensated(OrderPaid, by=OrderRefunded)) == (
        "OrderPaid(order_id='wrong', cents=-1) was not undone: OrderRefunded did not follow from it"
    )
    assert said(lambda: world.assert_compensated(OutOfStock, by=shop.charge)) == (
        "OutOfStock(order_id='dear') was not undone: charge did not follow from it"
    )
    assert said(lambda: world.assert_compensated(OrderRefunded, by=[OutOfStock])) == (
        "OrderRefunded(order_id='dear') was not undone: OutOfStock did not follow from it"
    )
    assert said(
        lambda: world.assert_compensated(OutOfStock, by=OrderRefunded, where=lambda gone: gone.order_id == "fine")
    ).startswith("OutOfStock that fits was published 0 times, not one or more times, of 1")


async def test_an_order_that_was_not_kept_is_found(shop: Shop) -> None:
    """Of several, each has to happen after the one before it."""
    async with shop.app.test() as world:
        await world.crash("orders")
        await world.publish(OrderPlaced("dear", 5_000), service="payment")
        await world.advance(hours(1))
        await world.restart("orders")
        await world.settle()
        world.assert_compensated(OutOfStock, by=[OrderRefunded, "orders.cancel"])
        with pytest.raises(WorldFailure, match=r"OrderRefunded did not follow from it after orders.cancel"):
            world.assert_compensated(OutOfStock, by=["orders.cancel", OrderRefunded])


async def test_what_is_no_handler_or_event_is_told(world: World, shop: Shop) -> None:
    """A misspelt handler is not a claim that happens to hold."""
    names = "orders.cancel, payment.charge, payment.refund, stock.take"
    with pytest.raises(DeclarationError, match=rf"no handler payment.chrage. It has {names}"):
        world.assert_dead_letter("payment.chrage", n=0)
    with pytest.raises(DeclarationError, match=r"no handler .*lambda"):
        world.fail(lambda paid: None)
    with pytest.raises(DeclarationError, match="not an event"):
        world.assert_not_published(str)
    with pytest.raises(DeclarationError, match=r"no service 'nobody'.*orders, payment, stock"):
        world.rows("nobody", "SELECT 1")


async def test_the_timeline_tells_it_all(world: World, shop: Shop) -> None:
    """Who published what, who handled it when, each attempt with its error, why it ended so; and the test's acts."""
    text = world.timeline()
    assert "  +0.000s payment.charge fails once: TimeoutError: bank asleep\n" in text
    assert "OrderPlaced [fine] by orders  " in text
    assert "attempt 1 failed: TimeoutError: bank asleep" in text
    assert "attempt 2 completed" in text
    assert "-> stock.take ERROR: 1 attempt, +0.000s, Reject: a price below zero" in text
    assert text.count("OrderPaid [dear]") == 1


async def test_a_long_timeline_keeps_its_ends(shop: Shop) -> None:
    """Hundreds of events are cut in the middle, and it says how much is left out."""
    async with shop.app.test() as world:
        for number in range(150):
            await world.publish(OrderPlaced(f"o-{number}"))
        await world.settle()
        lines = world.timeline().splitlines()
    assert len(lines) == 402
    assert "  ... 200 lines ..." in lines
    assert "[o-0]" in lines[1]
    assert "stock.take COMPLETED" in lines[-1]
