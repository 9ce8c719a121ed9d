"""Partitions: a handler's events divided among several workers, by their keys, and nothing lost on the way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from antiphon.errors import LeaseLost
from antiphon.ports import Lease, LoggedEvent, OpenDelivery, Store, partition_name
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
    numbers,
    opened,
    park,
    refused,
    retry_at,
    same,
    settle,
    start,
    take,
)

_PARTS = 4


async def _take_all(store: Store, owner: str, parts: int = _PARTS) -> list[Lease]:
    return [await take(store, owner, partition_name("svc.work", part)) for part in range(parts)]


def _keys(events: Sequence[LoggedEvent | OpenDelivery]) -> list[str | None]:
    found = [each.event if isinstance(each, OpenDelivery) else each for each in events]
    return [event.envelope.key for event in found]


async def a_handler_begins_as_one_partition(make: MakeStore, path: Path) -> None:
    """It has the handler's name, and everything."""
    async with opened(make, path, "one") as (store,):
        await store.register([handler("work")])
        lease = await take(store, "one")
        same((lease.part, lease.parts, lease.name), (0, 1, "svc.work"), "the partition that a handler begins as")
        (found,) = [(each.name, each.part, each.parts, each.owner) for each in await store.partitions()]
        same(found, ("svc.work", 0, 1, "one"), "its partitions")
        await append(store, *(envelope(n, key=f"k{n}") for n in range(20)))
        same(numbers(await fresh(store, lease)), list(range(20)), "what its only partition is owed")


async def partitions_share_all_events(make: MakeStore, path: Path) -> None:
    """After a split one partition has each event, the same all those of a key, in order; what comes later too."""
    async with opened(make, path, "one") as (store,):
        await store.register([handler("work")])
        await append(store, *(envelope(n, key=f"k{n % 20}" if n % 5 else None) for n in range(100)))
        lease = await take(store, "one")
        await settle(store, lease, *(done(event) for event in (await fresh(store, lease))[:30]))
        await store.split(lease, _PARTS)
        found = [(each.name, each.parts, each.owner) for each in await store.partitions()]
        same(found, [(partition_name("svc.work", n), _PARTS, None) for n in range(_PARTS)], "partitions after a split")
        leases = await _take_all(store, "one")
        same({lease.seq for lease in leases}, {lease.seq}, "cursors after a split")
        shares = [await fresh(store, lease) for lease in leases]
        same(
            sorted(n for share in shares for n in numbers(share)), list(range(30, 100)), "what the partitions are owed"
        )
        for share in shares:
            same(numbers(share), sorted(numbers(share)), "the order in a partition")
        homes = [set(_keys(share)) - {None} for share in shares]
        same(sum(len(home) for home in homes), len(set().union(*homes)), "keys, counted in each partition and in all")
        check(sum(1 for share in shares if share) > 1, "all events are in one partition")
        await append(store, *(envelope(n, key=f"k{n % 20}") for n in range(100, 140)))
        later = [await fresh(store, lease) for lease in leases]
        same(sorted(n for share in later for n in numbers(share) if n >= 100), list(range(100, 140)), "what came later")
        for home, share in zip(homes, later, strict=True):
            known = set(_keys(share)) & set().union(*homes)
            check(known <= home, f"keys went to another partition: {sorted(map(str, known - home))}")


async def a_partition_is_read_to_its_end(make: MakeStore, path: Path) -> None:
    """Where others' events lie between, and in small steps, a partition still comes to each of its own."""
    async with opened(make, path, "one", "two") as (store, other):
        await store.register([handler("work", A, B)])
        lease = await take(store, "one")
        await store.split(lease, _PARTS)
        leases = await _take_all(store, "one")
        taken: list[int] = []
        for first in range(0, 90, 30):
            events = [envelope(n, key=f"k{n % 7}", type_=TYPES[n % 2]) for n in range(first, first + 30)]
            await append(other, *events[:15])
            await append(store, *events[15:])
            await store.look_after()
            for lease in leases:
                while some := await fresh(store, lease, 2):
                    check(len(some) <= 2, f"{len(some)} events were given, 2 wanted")
                    taken += numbers(some)
                    await settle(store, lease, *(done(event) for event in some))
                same(await fresh(store, lease), [], "a partition that was read to its end")
        same(sorted(taken), list(range(90)), "events handled in all partitions")


async def a_split_takes_deliveries_along(make: MakeStore, path: Path) -> None:
    """What waits, was running, or is parked goes to the partition of its key, with its attempts; and stays in order."""
    async with opened(make, path, "one") as (store,):
        await store.register([handler("work")])
        await append(store, *(envelope(n, key=f"k{n}") for n in range(40)))
        await append(store, *(envelope(n, key=f"k{n - 40}") for n in range(40, 80)))
        lease = await take(store, "one")
        events = await fresh(store, lease)
        await settle(store, lease, *(failed(event, retry_at(store.store_ms())) for event in events[:20]))
        await start(store, lease, *events[20:40])
        await park(store, lease, *events[40:])
        await store.split(lease, _PARTS)
        same(await fresh(store, await take(store, "one")), [], "fresh events after a split")
        leases = [await take(store, "one"), *(await _take_all(store, "one"))[1:]]
        found: dict[str | None, list[int]] = {}
        for lease in leases:
            due = await store.read_due(lease, 200)
            check(not any(each.suspect for each in due), "a split has made deliveries suspect")
            tried = {number: each.attempts for number, each in zip(numbers(due), due, strict=True)}
            for number, key in zip(numbers(due), _keys(due), strict=True):
                found.setdefault(key, []).append(number)
                same(tried[number], 1 if number < 20 else 0, f"attempts of event {number} after a split")
            for key in {key for key in _keys(due) if key is not None}:
                async with store.unit() as unit:
                    same(await unit.open_keys(lease, [key]), frozenset({key}), "open keys of the partition")
        same(found, {f"k{n}": [n, n + 40] for n in range(40)}, "deliveries by key, in order, of all partitions")


async def a_split_keeps_dead_letters(make: MakeStore, path: Path) -> None:
    """One that is dead is not tried again, and its key goes on."""
    async with opened(make, path, "one") as (store,):
        await store.register([handler("work")])
        await append(store, *(envelope(n, key=f"k{n % 10}") for n in range(20)))
        lease = await take(store, "one")
        await settle(store, lease, *(failed(event, dead()) for event in (await fresh(store, lease))[:10]))
        await store.split(lease, _PARTS)
        leases = await _take_all(store, "one")
        same([await store.read_due(lease, 10) for lease in leases], [[]] * _PARTS, "due deliveries")
        owed = [number for lease in leases for number in numbers(await fresh(store, lease))]
        same(sorted(owed), list(range(10, 20)), "what is owed after dead letters")
        counts = await store.fetch_all(
            "SELECT count(*), count(DISTINCT handler_id) FROM antiphon_deliveries WHERE status = 'FAILED'"
        )
        same(counts[0][0], 10, "dead letters after a split")
        check(counts[0][1] > 1, "all dead letters stayed with one partition")


async def a_partition_can_be_split_again(make: MakeStore, path: Path) -> None:
    """One of several is divided by itself; together they still share all."""
    async with opened(make, path, "one") as (store,):
        await store.register([handler("work")])
        await append(store, *(envelope(n, key=f"k{n}") for n in range(60)))
        await store.split(await take(store, "one"), 2)
        lease = await take(store, "one", "svc.work#1")
        await settle(store, lease, *(done(event) for event in (await fresh(store, lease))[:5]))
        handled = set(range(60)) - set(numbers(await fresh(store, lease)))
        handled -= set(numbers(await fresh(store, await take(store, "one"))))
        await store.release(await take(store, "one"))
        await store.split(lease, 8)
        parts = [(each.part, each.parts) for each in await store.partitions()]
        same(parts, [(0, 2), (1, 8), (3, 8), (5, 8), (7, 8)], "partitions after one was split again")
        owed = [
            number
            for part, _ in parts
            for number in numbers(await fresh(store, await take(store, "one", partition_name("svc.work", part))))
        ]
        same(sorted(owed), sorted(set(range(60)) - handled), "what the partitions are owed")


async def the_fence_holds_for_each_partition(make: MakeStore, path: Path) -> None:
    """Two owners at once, each of its own; a split is fenced, and fences off whoever had the whole."""
    async with opened(make, path, "one", "two") as (store, other):
        await store.register([handler("work")])
        await append(store, *(envelope(n, key=f"k{n}") for n in range(20)))
        whole = await take(store, "one")
        (first, *_) = await fresh(store, whole)
        await store.split(whole, 2)
        await refused(settle(store, whole, done(first)), LeaseLost, "settling with the lease of what was split")
        await refused(store.split(whole, 2), LeaseLost, "splitting with the lease of what was split")
        mine, others = await take(store, "one"), await take(other, "two", "svc.work#1")
        same(await other.acquire("svc.work", "two"), None, "a partition that somebody else has")
        same(await store.acquire("svc.work#1", "one"), None, "another partition that somebody else has")
        same(await store.acquire("svc.work#2", "one"), None, "a partition that is not there")
        same(await store.renew("one"), frozenset({"svc.work"}), "what the one holds")
        same(await other.renew("two"), frozenset({"svc.work#1"}), "what the other holds")
        for each, lease in ((store, mine), (other, others)):
            await settle(each, lease, *(done(event) for event in await fresh(each, lease)))
        await other.release(others)
        again = await take(store, "one", "svc.work#1")
        check(again.epoch > others.epoch, "the epoch of a partition did not grow")
        same(await fresh(store, again), [], "what is left of the other's partition")


async def a_death_blames_its_partition_alone(make: MakeStore, path: Path) -> None:
    """What ran in a partition whose owner died is suspected, and what came next in it; another's owner runs on."""
    clock = VirtualClock()
    async with opened(make, path, "last", clock=clock) as (store,):
        await store.register([handler("work")])
        await append(store, *(envelope(n, key=f"k{n}") for n in range(20)))
        await store.split(await take(store, "last"), 2)
        running = await take(store, "last", "svc.work#1")
        await start(store, running, (await fresh(store, running))[0])
        for owner in "abc":
            async with opened(make, path, owner, clock=clock) as (victim,):
                await take(victim, owner)
        lease = await take(store, "last")
        owed = await fresh(store, lease)
        same(lease.suspect_seq, owed[-1].seq, "up to where the partition's events are suspected")
        same(running.suspect_seq, 0, "suspicion of another partition")
        await store.release(running)
        again = await take(store, "last", "svc.work#1")
        due = await store.read_due(again, 10)
        same([(each.crashes, each.suspect) for each in due], [(0, False)], "what ran in another partition")


async def a_type_that_is_added_is_owed_by_every_partition(make: MakeStore, path: Path) -> None:
    """A handler that is bound to one type more after it was split gets its events, each in one partition."""
    async with opened(make, path, "one") as (store,):
        await store.register([handler("work")])
        await store.split(await take(store, "one"), 2)
        await store.register([handler("work", A, B)])
        await append(store, *(envelope(n, key=f"k{n}", type_=TYPES[1]) for n in range(20)))
        owed = [numbers(await fresh(store, lease)) for lease in await _take_all(store, "one", 2)]
        same(sorted(owed[0] + owed[1]), list(range(20)), "events of the type that was added")


PARTITION_CHECKS: list[StoreCheck] = [
    a_handler_begins_as_one_partition,
    partitions_share_all_events,
    a_partition_is_read_to_its_end,
    a_split_takes_deliveries_along,
    a_split_keeps_dead_letters,
    a_partition_can_be_split_again,
    the_fence_holds_for_each_partition,
    a_death_blames_its_partition_alone,
    a_type_that_is_added_is_owed_by_every_partition,
]
