"""Dead letters: found, grouped, shown, edited, archived."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import msgspec
import pytest

from antiphon import InvalidEvent, Service, Status
from antiphon.errors import AntiphonError, NotFound
from antiphon.model.envelope import Envelope
from antiphon.model.views import DeadLetterFilter
from antiphon.ports import PUBLISHED
from antiphon.store.desk import Desk
from antiphon.testing.clock import VirtualClock
from tests.runtime.kit import running
from tests.store.shops import ONCE, TWICE, TYPES, Ordered, Shop, desk_of, order, statuses

pytestmark = pytest.mark.anyio


# ---------------------------------------------------------------------- looking


async def test_each_filter_narrows_the_list(tmp_path: Path) -> None:
    """By handler, type, group, status, time and text; the newest death comes first."""
    shop = Shop()
    shop.failing, shop.refused = {1, 2}, {3}
    async with running(tmp_path, *shop.services) as world:
        dead = desk_of(world).dead
        ids = await order(world, 1, 3, 4)
        await world.clock.advance(60)
        between = world.clock.now_ms()
        ids += await order(world, 2)
        found = await dead.list()
        assert [each.event_id for each in found] == [ids[3], *sorted(ids[:2], reverse=True)]
        assert {each.handler for each in found} == {"billing.bill"}
        assert [each.status for each in found] == [Status.FAILED, Status.ERROR, Status.FAILED]
        group = found[0].group

        async def numbers(**which: Any) -> set[str]:
            return {each.event_id for each in await dead.list(DeadLetterFilter(**which))}

        assert await numbers(handler="billing.bill") == {ids[0], ids[1], ids[3]}
        assert await numbers(handler="audit.note") == set()
        assert await numbers(type="Ordered", status=Status.ERROR) == {ids[1]}
        assert await numbers(type="Billed") == set()
        assert await numbers(group=group) == {ids[0], ids[3]} == await numbers(group=group[:4])
        assert await numbers(since_ms=between) == {ids[3]}
        assert await numbers(until_ms=between - 1) == {ids[0], ids[1]}
        assert await numbers(text="CARD FOR 2") == {ids[3]}
        assert await numbers(text='"n":1') == {ids[0]}
        assert await numbers(text="not ours") == {ids[1]}
        assert await numbers(text="100%") == set()
        assert [each.event_id for each in await dead.list(limit=1, offset=1)] == [found[1].event_id]


async def test_groups_are_by_failure(tmp_path: Path) -> None:
    """Equal failures are one group with its count, handlers, times and an example; the largest comes first."""
    shop = Shop()
    shop.failing, shop.refused = {1, 2, 3}, {9}
    async with running(tmp_path, *shop.services) as world:
        dead = desk_of(world).dead
        ids = await order(world, 1, 2, 9)
        await world.clock.advance(5)
        ids += await order(world, 3)
        first, second = await dead.groups()
        assert (first.count, first.handlers, first.example) == (3, ("billing.bill",), ids[3])
        assert first.last_ms - first.first_ms == 5_000
        assert first.label.startswith("RuntimeError in ")
        assert first.label.endswith(": no card for #")
        assert (second.count, second.label.split(" ")[0]) == (1, "Reject")
        assert await dead.groups(DeadLetterFilter(group=second.group)) == [second]
        assert (await dead.list(DeadLetterFilter(group=first.group)))[0].group == first.group


async def test_one_is_shown_whole(tmp_path: Path) -> None:
    """Event, data, error, traceback and every attempt with its time; by the beginning of its id too."""
    shop = Shop(TWICE)
    shop.failing = {7}
    async with running(tmp_path, *shop.services) as world:
        dead = desk_of(world).dead
        (event_id,) = await order(world, 7)
        await world.clock.advance(11)
        for name in (event_id, event_id[:30]):
            shown = await dead.show(name)
            assert shown.event.data == {"customer": "c7", "n": 7}
            assert shown.letter.attempts == 2
            assert shown.letter.reason == "gave up after 2 attempts in 10 s: RuntimeError: no card for 7"
            assert "RuntimeError: no card for 7" in (shown.traceback or "")
            assert [(each.number, each.outcome) for each in shown.history] == [(1, "failed"), (2, "failed")]
            assert shown.history[1].at_ms - shown.history[0].at_ms == 10_000
            assert "in bill" in (shown.history[0].traceback or "")
        assert msgspec.json.decode(msgspec.json.encode(shown))["event"]["data"]["n"] == 7


async def test_what_is_no_dead_letter_is_not_found(tmp_path: Path) -> None:
    """An unknown id, a handled event, another handler's: each is said."""
    shop = Shop()
    shop.failing = {1}
    async with running(tmp_path, *shop.services) as world:
        dead = desk_of(world).dead
        died, handled = await order(world, 1, 2)
        with pytest.raises(NotFound, match="no event has"):
            await dead.show("zzz")
        with pytest.raises(NotFound, match="no dead letter for any handler"):
            await dead.show(handled)
        with pytest.raises(NotFound, match=r"no dead letter for audit\.note"):
            await dead.show(died, "audit.note")
        with pytest.raises(NotFound, match="several events begin"):
            await dead.show(died[:8])
        with pytest.raises(NotFound, match="no redrive begins"):
            await dead.job("nothing")


async def test_an_event_that_is_dead_twice_needs_its_handler(tmp_path: Path) -> None:
    """Where two handlers have given up on one event, the handler is asked for, by name."""
    service = Service("both")
    seen: list[str] = []

    @service.on(Ordered, retry=ONCE)
    async def one(event: Ordered) -> None:
        seen.append("one")
        raise RuntimeError("one")

    @service.on(Ordered, retry=ONCE)
    async def two(event: Ordered) -> None:
        raise RuntimeError("two")

    async with running(tmp_path, Service("shop"), service) as world:
        dead = desk_of(world).dead
        (event_id,) = await order(world, 1)
        with pytest.raises(NotFound, match=r"Name one of both\.one, both\.two"):
            await dead.redrive_one(event_id)
        await dead.redrive_one(event_id, "both.one")
        await world.clock.rest()
        assert seen == ["one", "one"]
        assert (await dead.show(event_id, "both.two")).letter.message == "two"


async def test_raw_bytes_are_kept(tmp_path: Path) -> None:
    """Data that is no JSON is dead at once, and shown with its bytes, in base64 and to read."""
    shop = Shop()
    raw = b'{"customer": "c\xff", "n": 1'
    async with running(tmp_path, *shop.services) as world:
        now = world.clock.now_ms()
        envelope = Envelope("bad-1", "Ordered", 1, "c", "shop", now, raw, "bad-1")
        async with world.store.unit() as unit:
            await unit.append([(envelope, PUBLISHED)])
        await world.clock.rest()
        shown = await desk_of(world).dead.show("bad-1", "billing.bill")
        assert shown.letter.status is Status.ERROR
        assert shown.event.data is None
        assert shown.event.raw is not None
        assert base64.b64decode(shown.event.raw.base64) == raw
        assert shown.event.raw.text == repr(raw)
        assert "UTF-8" in shown.event.raw.why


# ---------------------------------------------------------------------- editing


async def test_an_edited_event_goes_to_the_failing_handler_alone(tmp_path: Path) -> None:
    """A new event, caused by the original, keyed anew; no other handler of its type sees it."""
    shop = Shop()
    shop.failing = {1}
    async with running(tmp_path, *shop.services) as world:
        desk = desk_of(world)
        (original,) = await order(world, 1)
        noted = list(shop.noted)
        edited = await desk.dead.edit(original, b'{"customer": "other", "n": 100}')
        await world.clock.rest()
        assert shop.billed == [("other", 100)]
        assert shop.noted == [*noted, ("Billed", 100)]
        assert (edited.causation_id, edited.correlation_id) == (original, original)
        assert (edited.key, edited.only_for, edited.origin) == ("other", "billing.bill", "internal")
        assert await statuses(desk, edited.id) == {"billing.bill": "COMPLETED"}
        shown = await desk.dead.show(original)
        assert shown.letter.archived == f"edited as {edited.id}"
        assert [(each.outcome, each.message) for each in shown.history[1:]] == [("edited", edited.id)]
        assert await desk.dead.list() == []
        assert [each.event_id for each in await desk.dead.list(DeadLetterFilter(archived=True))] == [original]
        trace = await desk.trace(original)
        assert [(node.depth, node.event.type) for node in trace.nodes] == [
            (0, "Ordered"),
            (1, "Ordered"),
            (2, "Billed"),
        ]
        rows = await world.rows("SELECT HANDLER FROM antiphon_events WHERE EVENT_ID = ?", edited.id)
        assert rows == [("billing.bill",)]
        assert [(each.handler, each.lag) for each in await desk.status()] == [("audit.note", 0), ("billing.bill", 0)]


async def test_an_edit_that_breaks_the_contract_changes_nothing(tmp_path: Path) -> None:
    """The field and the reason are told; the dead letter is as it was. Unknown types are checked as JSON."""
    shop = Shop()
    shop.failing = {1}
    async with running(tmp_path, *shop.services) as world:
        (event_id,) = await order(world, 1)
        for desk, data, field in (
            (desk_of(world), b'{"customer": "c"}', r"\$\.n: "),
            (desk_of(world), b'{"customer": "c", "n": "x"}', r"\$\.n: "),
            (desk_of(world), b'{"customer": "", "n": 1}', r"\$\.customer: "),
            (desk_of(world), b"{", r"\$: not JSON"),
            (Desk(world.store), b'{"a": 1, "a": 2}', r"\$\.a: this key occurs twice"),
        ):
            with pytest.raises(InvalidEvent, match=field):
                await desk.dead.edit(event_id, data)
        assert [each.event_id for each in await desk_of(world).dead.list()] == [event_id]
        assert await world.store.head() == 1
        # Without the app's classes any JSON will do, under the old key; the handler has the last word.
        edited = await Desk(world.store).dead.edit(event_id, b'{"customer": 5}')
        await world.clock.rest()
        assert edited.key == "c1"
        (letter,) = await desk_of(world).dead.list()
        assert (letter.event_id, letter.status) == (edited.id, Status.ERROR)


async def test_an_edited_event_keeps_the_order_of_its_key(tmp_path: Path) -> None:
    """It comes after what was published before it, and before what comes later."""
    shop = Shop(TWICE)
    shop.refused = {1}
    shop.failing = {2}
    async with running(tmp_path, *shop.services) as world:
        desk = desk_of(world)
        first, _, _ = await order(world, 1, 2, 3, customer="k")
        await desk.dead.edit(first, b'{"customer": "k", "n": 11}')
        await order(world, 4, customer="k")
        assert shop.billed == []
        shop.failing.clear()
        await world.clock.advance(11)
        assert [n for _, n in shop.billed] == [2, 3, 11, 4]


async def test_an_edited_event_stays_in_its_store(tmp_path: Path) -> None:
    """With a file per service it is not sent to the bus: other services had the original."""
    shop = Shop()
    shop.failing = {1}
    async with running(tmp_path, *shop.services, own_stores=True) as world:
        desk = Desk(world.runtime.stores["billing"], TYPES)
        await order(world, 1)
        (letter,) = await desk.dead.list()
        edited = await desk.dead.edit(letter.event_id, b'{"customer": "c", "n": 2}')
        await world.clock.rest()
        assert shop.billed == [("c", 2)]
        assert [n for kind, n in shop.noted if kind == "Ordered"] == [1]
        assert world.runtime.hub is not None
        rows = await world.runtime.hub.fetch_all("SELECT 1 FROM antiphon_log WHERE id = ?", (edited.id,))
        assert rows == []


async def test_an_edited_event_outlives_a_restart(tmp_path: Path) -> None:
    """Edited while nothing runs, it is handled at the next start, once."""
    shop = Shop()
    shop.failing = {1}
    clock = VirtualClock()
    async with running(tmp_path, *shop.services, clock=clock) as world:
        await order(world, 1)
    async with running(tmp_path, *shop.services, only=["shop"], clock=clock) as world:
        desk = desk_of(world)
        (letter,) = await desk.dead.list()
        await desk.dead.edit(letter.event_id, b'{"customer": "c", "n": 2}')
        lags = {each.handler: each.lag for each in await desk.status()}
        assert lags == {"audit.note": 0, "billing.bill": 1}
    for _ in range(2):
        async with running(tmp_path, *shop.services, clock=clock):
            assert shop.billed == [("c", 2)]


# ---------------------------------------------------------------------- archiving


async def test_archived_ones_are_out_of_the_way(tmp_path: Path) -> None:
    """One, or all that match, with the reason; they are neither listed nor redriven, but can be looked at."""
    shop = Shop()
    shop.failing, shop.refused = {1, 2, 3}, {4}
    async with running(tmp_path, *shop.services) as world:
        desk = desk_of(world)
        ids = await order(world, 1, 2, 3, 4)
        assert (await desk.dead.archive_one(ids[3], "a test order")).archived is None
        with pytest.raises(AntiphonError, match="archived: a test order"):
            await desk.dead.redrive_one(ids[3])
        with pytest.raises(AntiphonError, match="archived"):
            await desk.dead.archive_one(ids[3], "again")
        group = (await desk.dead.groups())[0].group
        assert await desk.dead.archive(DeadLetterFilter(group=group), "duplicates") == 3
        assert await desk.dead.archive(DeadLetterFilter(group=group), "duplicates") == 0
        assert await desk.dead.list() == []
        assert (await desk.dead.plan()).count == 0
        archived = await desk.dead.list(DeadLetterFilter(archived=True))
        assert {each.archived for each in archived} == {"a test order", "duplicates"}
        assert (await desk.dead.show(ids[0])).history[-1].outcome == "archived"
        counts = next(each.counts for each in await desk.status() if each.handler == "billing.bill")
        assert (counts.dead, counts.archived) == (0, 4)
