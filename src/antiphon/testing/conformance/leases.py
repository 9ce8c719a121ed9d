"""Leases: one owner at a time, a fence against the one before, and what a death says about events."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from antiphon.errors import LeaseLost
from antiphon.model.delivery import Status
from antiphon.ports import OpenDelivery
from antiphon.testing.clock import VirtualClock
from antiphon.testing.conformance.kit import (
    MakeStore,
    StoreCheck,
    append,
    check,
    done,
    envelope,
    failed,
    fresh,
    handler,
    ids,
    make_notes,
    note,
    notes,
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

# Longer than any lease may last without a sign of life.
_LONG_S = 120.0


async def a_lease_has_one_owner(make: MakeStore, path: Path) -> None:
    """While it is held nobody else gets it; released, it goes to who asks, with a higher epoch."""
    async with opened(make, path, "one", "two") as (store, other):
        await store.register([handler("work"), handler("rest")])
        first = await take(store, "one")
        same(await other.acquire("svc.work", "two"), None, "a lease that somebody else holds")
        check(await other.acquire("svc.rest", "two") is not None, "the free lease of another handler was not given")
        same(await other.acquire("svc.nothing", "two"), None, "the lease of a handler that is not registered")
        await store.release(first)
        second = await take(other, "two")
        check(second.epoch > first.epoch, f"epoch {second.epoch} after epoch {first.epoch}")
        same(await store.acquire("svc.work", "one"), None, "a lease that somebody else holds")


async def a_lease_expires_by_the_stores_clock(make: MakeStore, path: Path) -> None:
    """An owner that shows no life for long loses it; a wall clock that jumps takes nothing away."""
    clock = VirtualClock()
    async with opened(make, path, "one", "two", clock=clock) as (store, other):
        await store.register([handler("work")])
        await take(store, "one")
        clock.set_wall(30 * 86_400)
        same(await other.acquire("svc.work", "two"), None, "a lease, after the wall clock jumped forward")
        clock.set_wall(-30 * 86_400)
        await clock.jump(_LONG_S)
        check(await other.acquire("svc.work", "two") is not None, "a lease that has expired was not given")


async def renewing_keeps_leases(make: MakeStore, path: Path) -> None:
    """All leases of an owner are extended at once; those that somebody has taken are not among the answer."""
    clock = VirtualClock()
    async with opened(make, path, "one", "two", clock=clock) as (store, other):
        await store.register([handler("work"), handler("rest")])
        await take(store, "one")
        await take(store, "one", "svc.rest")
        for _ in range(30):
            await clock.jump(_LONG_S / 30)
            same(await store.renew("one"), frozenset({"svc.work", "svc.rest"}), "leases that are still held")
        same(await other.acquire("svc.work", "two"), None, "a lease that is renewed")
        await clock.jump(_LONG_S)
        await take(other, "two")
        same(await store.renew("one"), frozenset({"svc.rest"}), "leases that are still held after one was taken")


async def the_fence_holds(make: MakeStore, path: Path) -> None:
    """Who has lost the lease can settle, start, pause nothing, and its whole unit is undone."""
    clock = VirtualClock()
    async with opened(make, path, "one", "two", clock=clock) as (store, other):
        await store.register([handler("work")])
        await make_notes(store)
        await append(store, envelope(1), envelope(2))
        lost = await take(store, "one")
        events = await fresh(store, lost)
        await clock.jump(_LONG_S)
        lease = await take(other, "two")

        async def late_settle() -> None:
            async with store.unit() as unit:
                await note(unit, 1)
                await unit.settle(lost, [done(events[0])], events[0].seq)

        async def late_pause() -> None:
            async with store.unit() as unit:
                await note(unit, 2)
                await unit.pause(lost, 1, "down")

        async def late_fence() -> None:
            async with store.unit() as unit:
                await note(unit, 3)
                await unit.fence(lost)

        await refused(late_fence(), LeaseLost, "the fence without the lease")
        await refused(late_settle(), LeaseLost, "settling without the lease")
        await refused(start(store, lost, events[0]), LeaseLost, "starting without the lease")
        await refused(late_pause(), LeaseLost, "pausing without the lease")
        await store.release(lost)  # it has nothing to give back
        same(await store.acquire("svc.work", "one"), None, "the lease after the loser has released it")
        same(await notes(store), [], "rows of those who had lost the lease")
        same(numbers(await fresh(other, lease)), [1, 2], "events that are still owed")
        await settle(other, lease, done(events[0]), done(events[1]))


async def who_is_gone_holds_nothing(make: MakeStore, path: Path) -> None:
    """A process that has ended without giving back is not waited for: its leases are free at once."""
    clock = VirtualClock()
    async with opened(make, path, "two", clock=clock) as (other,):
        async with opened(make, path, "one", clock=clock) as (store,):
            await store.register([handler("work")])
            await take(store, "one")
            same(await other.acquire("svc.work", "two"), None, "the lease of a live process")
            check({"one", "two"} <= set(store.neighbours()), "a live neighbour is not known")
        check("one" not in other.neighbours(), "a neighbour that has gone is taken to live")
        await take(other, "two")


async def a_lease_that_was_not_given_back_is_its_owners(make: MakeStore, path: Path) -> None:
    """An owner that asks again gets it, with a new epoch; what was running is due, and nobody is suspected."""
    async with opened(make, path) as (store,):
        await store.register([handler("work")])
        await append(store, envelope(1))
        first = await take(store, "one")
        await start(store, first, *await fresh(store, first))
        again = await take(store, "one")
        check(again.epoch > first.epoch, f"epoch {again.epoch} after epoch {first.epoch}")
        due = await store.read_due(again, 10)
        same([(each.attempts, each.crashes, each.suspect) for each in due], [(0, 0, False)], "what was running")


async def releasing_burns_nothing(make: MakeStore, path: Path) -> None:
    """What was running when its owner stopped is due at once, its attempt does not count, nobody is suspected."""
    async with opened(make, path, "one", "two") as (store, other):
        await store.register([handler("work")])
        await append(store, envelope(1, key="k"), envelope(2, key="k"))
        lease = await take(store, "one")
        events = await fresh(store, lease)
        await start(store, lease, events[0])
        await park(store, lease, events[1])
        same(await store.read_due(lease, 10), [], "due deliveries while one runs")
        await store.release(lease)
        lease = await take(other, "two")
        due = await other.read_due(lease, 10)
        same(numbers(due)[:1], [1], "due deliveries after the release")
        found = (due[0].status, due[0].attempts, due[0].crashes, due[0].suspect)
        same(found, (Status.RETRY, 0, 0, False), "status, attempts, crashes and suspicion of what was running")
        same(lease.suspect_seq, 0, "up to where fresh events are suspected")


async def what_ran_when_its_process_died_is_suspected(make: MakeStore, path: Path) -> None:
    """Attempts on record are due at once and marked; a crash is counted only for one that ran alone."""
    clock = VirtualClock()
    async with opened(make, path, "last", clock=clock) as (store,):
        await store.register([handler("work")])
        await append(store, *(envelope(n, key=str(n)) for n in range(3)))
        async with opened(make, path, "a", clock=clock) as (victim,):
            lease = await take(victim, "a")
            await start(victim, lease, *(await fresh(victim, lease))[:2])
        async with opened(make, path, "b", clock=clock) as (victim,):
            lease = await take(victim, "b")
            due = await victim.read_due(lease, 10)
            same(_suspicion(due), [(0, True), (1, True)], "what ran at the first death, and whether it is suspected")
            same([each.crashes for each in due], [0, 0], "crashes after they ran side by side")
            await start(victim, lease, due[0].event, alone=True)
        due = await store.read_due(await take(store, "last"), 10)
        same(sorted(zip(numbers(due), [each.crashes for each in due], strict=True)), [(0, 1), (1, 0)], "crashes")
        same({each.attempts for each in due}, {0}, "attempts of what has only died with its process")


async def deaths_without_a_record_make_what_comes_next_suspect(make: MakeStore, path: Path) -> None:
    """One death blames nobody. After more at the same place, what is next is to be run one at a time, until
    the handler gets on."""
    clock = VirtualClock()
    async with opened(make, path, "last", clock=clock) as (store,):
        await store.register([handler("work")])
        await append(store, *(envelope(n) for n in range(5)))
        suspected = []
        for owner in "abcd":
            async with opened(make, path, owner, clock=clock) as (victim,):
                suspected.append((await take(victim, owner)).suspect_seq)
        same(suspected[:2], [0, 0], "suspicion at the start, and after one death")
        lease = await take(store, "last")
        events = await fresh(store, lease)
        check(lease.suspect_seq >= events[0].seq, f"after {len(suspected)} deaths at one place nobody is suspected")
        await settle(store, lease, *(done(event) for event in events))
        await append(store, envelope(9))
    async with opened(make, path, "next", clock=clock) as (store,):
        lease = await take(store, "next")
        check(lease.suspect_seq <= lease.seq, "after one death more, events are suspected although the handler got on")


async def deaths_make_waiting_deliveries_suspect_too(make: MakeStore, path: Path) -> None:
    """A retry that kills its process before it is recorded is found as well."""
    clock = VirtualClock()
    async with opened(make, path, "last", clock=clock) as (store,):
        await store.register([handler("work")])
        await append(store, envelope(1))
        lease = await take(store, "last")
        await settle(store, lease, failed((await fresh(store, lease))[0], retry_at(store.store_ms())))
        await store.release(lease)
        for owner in "abc":
            async with opened(make, path, owner, clock=clock) as (victim,):
                await take(victim, owner)
        due = await store.read_due(await take(store, "last"), 10)
        same(_suspicion(due), [(1, True)], "waiting deliveries and whether they are suspected")


def _suspicion(due: Sequence[OpenDelivery]) -> list[tuple[int, bool]]:
    return sorted(zip(numbers(due), [each.suspect for each in due], strict=True))


async def the_stores_clock_goes_on_over_restarts(make: MakeStore, path: Path) -> None:
    """It is the same for all processes of a machine, moves with time alone, and is not set back by a restart
    of the machine with a wrong wall clock."""
    clock = VirtualClock(seed=1)
    async with opened(make, path, "one", "two", clock=clock) as (store, other):
        await store.register([handler("work")])
        await clock.jump(86_400)
        before = store.store_ms()
        same(other.store_ms(), before, "the clock of another process")
        clock.set_wall(1_000_000)
        same(store.store_ms(), before, "the clock after the wall clock was set")
        clock.set_wall(0)
        await clock.jump(1)
        same(store.store_ms() - before, 1_000, "milliseconds after a second")
        lease = await take(store, "one")
        await store.renew("one")
        await store.release(lease)
        before = store.store_ms()
    async with opened(make, path, "one", clock=clock) as (store,):
        same(store.store_ms(), before, "the clock after a restart of the process")
    behind = VirtualClock(seed=2)
    behind.set_wall(-50 * 365 * 86_400)
    async with opened(make, path, "one", clock=behind) as (store,):
        check(store.store_ms() >= before, f"the clock went back by {before - store.store_ms()} ms over a restart")
        await append(store, envelope(1))
        same(await ids(store), [envelope(1).id], "events")


LEASE_CHECKS: list[StoreCheck] = [
    a_lease_has_one_owner,
    a_lease_expires_by_the_stores_clock,
    renewing_keeps_leases,
    the_fence_holds,
    who_is_gone_holds_nothing,
    a_lease_that_was_not_given_back_is_its_owners,
    releasing_burns_nothing,
    what_ran_when_its_process_died_is_suspected,
    deaths_without_a_record_make_what_comes_next_suspect,
    deaths_make_waiting_deliveries_suspect_too,
    the_stores_clock_goes_on_over_restarts,
]
