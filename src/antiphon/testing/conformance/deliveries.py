"""Deliveries: the cursor, order by key through retries, dead letters, start positions."""

from __future__ import annotations

import asyncio
from pathlib import Path

from antiphon.model.delivery import Status
from antiphon.ports import INTERNAL, Lease, LoggedEvent, Store
from antiphon.testing.clock import VirtualClock
from antiphon.testing.conformance.kit import (
    TYPES,
    A,
    B,
    MakeStore,
    StoreCheck,
    append,
    check,
    dead,
    done,
    envelope,
    failed,
    fresh,
    handler,
    leased,
    numbers,
    opened,
    park,
    retry_at,
    same,
    settle,
    start,
    take,
)


async def due(store: Store, lease: Lease, limit: int = 100) -> list[int]:
    """The numbers of what is due."""
    return numbers(await store.read_due(lease, limit))


async def what_took_effect_is_not_owed_again(make: MakeStore, path: Path) -> None:
    """The cursor moves with the unit that settles; undone with it, the events are read again."""
    clock = VirtualClock()
    async with leased(make, path, clock=clock) as (store, lease):
        await append(store, *(envelope(n) for n in range(6)))
        events = await fresh(store, lease, 4)
        same(numbers(events), [0, 1, 2, 3], "fresh events up to a limit")
        await settle(store, lease, *(done(event) for event in events[:2]))
        same(numbers(await fresh(store, lease)), [2, 3, 4, 5], "fresh events after two were settled")
        async with store.unit() as unit:
            await unit.settle(lease, [], events[3].seq, 2)
        lease.seq = events[3].seq
        same(numbers(await fresh(store, lease)), [4, 5], "fresh events after two more were settled as plain")
        same(await due(store, lease), [], "due deliveries")
        await store.release(lease)
    async with opened(make, path, clock=clock) as (store,):
        same(numbers(await fresh(store, await take(store, "one"))), [4, 5], "fresh events after a restart")


async def a_cursor_never_goes_back(make: MakeStore, path: Path) -> None:
    """Settling up to an earlier position leaves it where it is."""
    async with leased(make, path) as (store, lease):
        await append(store, *(envelope(n) for n in range(3)))
        events = await fresh(store, lease)
        async with store.unit() as unit:
            await unit.settle(lease, [], events[2].seq, 3)
        async with store.unit() as unit:
            await unit.settle(lease, [], events[0].seq)
        await store.release(lease)
        same(await fresh(store, await take(store, "one")), [], "fresh events")


async def several_types_come_in_the_order_of_the_log(make: MakeStore, path: Path) -> None:
    """A handler of several types gets them merged, and no other type's."""
    async with leased(make, path, A, B) as (store, lease):
        mixed = [(TYPES[0], 0), (TYPES[1], 1), ("elsewhere.C", 2), (TYPES[1], 3), (TYPES[0], 4), (TYPES[0], 5)]
        await append(store, *(envelope(n, type_=type_) for type_, n in mixed))
        same(numbers(await fresh(store, lease, 3)), [0, 1, 3], "the first three")
        same(numbers(await fresh(store, lease)), [0, 1, 3, 4, 5], "all")


async def a_retry_waits_for_its_time(make: MakeStore, path: Path) -> None:
    """It is due at its store time and not before, whatever the wall clock says, and counts its attempts."""
    clock = VirtualClock()
    async with leased(make, path, clock=clock) as (store, lease):
        await append(store, envelope(1), envelope(2))
        first, second = await fresh(store, lease)
        at = store.store_ms() + 60_000
        await settle(store, lease, failed(first, retry_at(at)), failed(second, retry_at(at - 20_000), burns=False))
        same(await store.next_due_ms(lease), at - 20_000, "when the next delivery is due")
        clock.set_wall(86_400)
        same(await due(store, lease), [], "due deliveries before their time")
        await clock.jump(40)
        same(await due(store, lease), [2], "due deliveries after 40 s")
        await clock.jump(20)
        found = await store.read_due(lease, 10)
        same(numbers(found), [2, 1], "due deliveries after 60 s, earliest first")
        same([each.attempts for each in found], [0, 1], "attempts that count")
        same([each.status for each in found], [Status.RETRY] * 2, "their statuses")
        same(len(await store.read_due(lease, 1)), 1, "due deliveries up to a limit")
        await settle(store, lease, done(second, is_fresh=False), done(first, is_fresh=False, number=2))
        same((await due(store, lease), await store.next_due_ms(lease)), ([], None), "what is left")


async def order_by_key_holds_through_retries(make: MakeStore, path: Path) -> None:
    """Behind an event that failed the later ones of its key wait, in order; other keys, and none, do not."""
    clock = VirtualClock()
    async with leased(make, path, clock=clock) as (store, lease):
        keys = ["a", "b", "a", None, "a", None]
        await append(store, *(envelope(n, key=key) for n, key in enumerate(keys)))
        events = await fresh(store, lease)
        await settle(store, lease, failed(events[0], retry_at(store.store_ms() + 1_000)), done(events[1]))
        async with store.unit() as unit:
            blocked = await unit.open_keys(lease, ["a", "b", "c"])
        same(blocked, frozenset({"a"}), "keys that are not over")
        await park(store, lease, events[2])
        await settle(store, lease, failed(events[3], retry_at(store.store_ms())))
        await park(store, lease, events[4])
        await settle(store, lease, done(events[5]))
        same(await due(store, lease), [3], "due deliveries: one without a key")
        await clock.jump(1)
        found = await due(store, lease)
        check(0 in found and [n for n in found if n != 3] == sorted(n for n in found if n != 3), f"due: {found}")
        await settle(store, lease, failed(events[0], retry_at(store.store_ms() + 1_000), is_fresh=False, number=2))
        check(not {2, 4} & set(await due(store, lease)), "a later event of a key is due before an earlier one")
        await clock.jump(1)
        await settle(store, lease, done(events[0], is_fresh=False, number=3), done(events[3], is_fresh=False, number=2))
        same((await due(store, lease))[0], 2, "the next of the key")
        await settle(store, lease, failed(events[2], retry_at(store.store_ms() + 1_000), is_fresh=False))
        same(await due(store, lease), [], "due deliveries after the next of the key has failed as well")
        await clock.jump(1)
        await settle(store, lease, done(events[2], is_fresh=False, number=2))
        same(await due(store, lease), [4], "the last of the key")
        await settle(store, lease, done(events[4], is_fresh=False))
        async with store.unit() as unit:
            same(await unit.open_keys(lease, ["a"]), frozenset(), "keys that are not over, at the end")


async def a_running_attempt_holds_back_its_key(make: MakeStore, path: Path) -> None:
    """While one of a key runs none other of it is due; when it has ended, the next is, once."""
    async with leased(make, path) as (store, lease):
        await append(store, *(envelope(n, key="k") for n in range(3)), envelope(3, key="other"))
        events = await fresh(store, lease)
        await start(store, lease, events[0])
        async with store.unit() as unit:
            same(await unit.open_keys(lease, ["k"]), frozenset({"k"}), "keys that are not over while one runs")
        await park(store, lease, events[1], events[2])
        same(await due(store, lease), [], "due deliveries while the first runs")
        same(await store.next_due_ms(lease), None, "when the next is due while the first runs")
        await settle(store, lease, done(events[0], is_fresh=False))
        async with store.unit() as unit:
            same(await unit.open_keys(lease, ["k"]), frozenset({"k"}), "keys that are not over while others wait")
        same((await due(store, lease))[:1], [1], "due deliveries when the first has ended")
        await start(store, lease, events[1])
        same(await due(store, lease), [], "due deliveries while the second runs")
        same(numbers(await fresh(store, lease)), [3], "fresh events meanwhile")


async def what_is_parked_while_another_ends_is_due(make: MakeStore, path: Path) -> None:
    """An attempt ends while the next event of its key is parked behind it, in units side by side: whichever comes
    first, the next is due, or was not held back."""
    rounds = 20
    async with leased(make, path) as (store, lease):
        await append(store, *(envelope(n, key=f"k{n // 2}") for n in range(2 * rounds)))
        events = await fresh(store, lease)
        for first, second in zip(events[::2], events[1::2], strict=True):
            await start(store, lease, first)

            async def park_second(first: LoggedEvent = first, second: LoggedEvent = second) -> bool:
                async with store.unit() as unit:
                    await unit.fence(lease)
                    waits = bool(await unit.open_keys(lease, [str(first.envelope.key)]))
                    if waits:
                        await unit.park(lease, [second])
                    await unit.settle(lease, [], second.seq)
                return waits

            waits, _ = await asyncio.gather(park_second(), settle(store, lease, done(first, is_fresh=False)))
            lease.seq = second.seq
            wanted = numbers([second]) if waits else []
            same(await due(store, lease), wanted, f"due when {numbers([first])} has ended, parked: {waits}")
            if waits:
                await settle(store, lease, done(second, is_fresh=False))


async def a_dead_letter_frees_its_key(make: MakeStore, path: Path) -> None:
    """What is set aside is not due, and what waited behind it goes on, whether it was fresh or retried."""
    async with leased(make, path) as (store, lease):
        await append(store, *(envelope(n, key="k") for n in range(4)))
        events = await fresh(store, lease)
        async with store.unit() as unit:
            await unit.park(lease, [events[1]])
            await unit.settle(lease, [failed(events[0], dead())], events[1].seq)
        lease.seq = events[1].seq
        same(await due(store, lease), [1], "due deliveries after a fresh event was set aside")
        await park(store, lease, events[2], events[3])
        await settle(store, lease, failed(events[1], retry_at(store.store_ms()), is_fresh=False))
        await settle(store, lease, failed(events[1], dead(), is_fresh=False, number=2))
        same((await due(store, lease))[:1], [2], "due deliveries after a retried one was set aside")
        await settle(store, lease, done(events[2], is_fresh=False), done(events[3], is_fresh=False))
        same((await due(store, lease), await store.next_due_ms(lease)), ([], None), "what is left")


async def any_text_is_a_key(make: MakeStore, path: Path) -> None:
    """Empty, long, with a NUL or quotes: a key is found again as it is, and no other is taken for it."""
    keys = ["", " ", "a", "a\0b", "a\0c", "\0", "x" * 100_000, "'\"[]{}", "ключ \U0001f511", "%", "_"]
    async with leased(make, path) as (store, lease):
        await append(store, *(envelope(n, key=key) for n, key in enumerate(keys)))
        events = await fresh(store, lease)
        even = [failed(event, retry_at(store.store_ms())) for event in events[::2]]
        await settle(store, lease, *even, *(done(event) for event in events[1::2]))
        async with store.unit() as unit:
            same(await unit.open_keys(lease, keys), frozenset(keys[::2]), "keys that are not over")
            same(await unit.open_keys(lease, []), frozenset(), "of no keys")


async def handlers_do_not_know_each_other(make: MakeStore, path: Path) -> None:
    """Each has its own cursor, rows and lease: what one fails on holds back no other."""
    async with opened(make, path) as (store,):
        await store.register([handler("work"), handler("rest")])
        work, rest = await take(store, "one"), await take(store, "one", "svc.rest")
        await append(store, envelope(0, key="k"), envelope(1, key="k"))
        events = await fresh(store, work)
        await settle(store, work, failed(events[0], retry_at(store.store_ms())))
        async with store.unit() as unit:
            same(await unit.open_keys(rest, ["k"]), frozenset(), "keys that are not over for the other")
        same(numbers(await fresh(store, rest)), [0, 1], "fresh events of the other")
        same(await due(store, rest), [], "due deliveries of the other")
        same(await due(store, work), [0], "due deliveries of the one that failed")


async def a_handler_starts_where_it_says(make: MakeStore, path: Path) -> None:
    """At the earliest event, or after what is there; registered again, it stays where it is."""
    async with opened(make, path) as (store,):
        await append(store, envelope(0))
        both = [handler("work"), handler("late", start="now")]
        await store.register(both)
        await append(store, envelope(1))
        await store.register(both)
        work, late = await take(store, "one"), await take(store, "one", "svc.late")
        same(numbers(await fresh(store, work)), [0, 1], "events for a handler that starts at the earliest")
        same(numbers(await fresh(store, late)), [1], "events for a handler that starts now")


async def a_domain_event_stays_inside_its_service(make: MakeStore, path: Path) -> None:
    """One that is INTERNAL is owed to handlers of the service that published it, and to no others."""
    async with opened(make, path) as (store,):
        await store.register([handler("work"), handler("work", service="other")])
        own, other = await take(store, "one"), await take(store, "one", "other.work")
        await append(store, envelope(0), origin=INTERNAL)
        await append(store, envelope(1))
        same(numbers(await fresh(store, own)), [0, 1], "events for the service itself")
        same(numbers(await fresh(store, other)), [1], "events for another service")


DELIVERY_CHECKS: list[StoreCheck] = [
    what_took_effect_is_not_owed_again,
    a_cursor_never_goes_back,
    several_types_come_in_the_order_of_the_log,
    a_retry_waits_for_its_time,
    order_by_key_holds_through_retries,
    a_running_attempt_holds_back_its_key,
    what_is_parked_while_another_ends_is_due,
    a_dead_letter_frees_its_key,
    any_text_is_a_key,
    handlers_do_not_know_each_other,
    a_handler_starts_where_it_says,
    a_domain_event_stays_inside_its_service,
]
