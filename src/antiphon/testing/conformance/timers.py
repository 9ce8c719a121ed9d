"""Timers: exactly once, never early, on the clock that they name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from antiphon.model.envelope import Envelope
from antiphon.ports import PUBLISHED, TIMER_SET, Store, Timer, TimerClock
from antiphon.testing.clock import VirtualClock
from antiphon.testing.conformance.kit import (
    Interrupted,
    MakeStore,
    StoreCheck,
    check,
    envelope,
    ids,
    log_of,
    once,
    opened,
    same,
)


def timer(n: int, due_ms: int, clock: TimerClock = "store", recurrence: str | None = None) -> Timer:
    """A timer for event number *n*."""
    event = envelope(n)
    return Timer(event.id, due_ms, clock, recurrence, event)


async def put(store: Store, *timers: Timer) -> None:
    """Keep timers, in a unit of its own."""
    async with store.unit() as unit:
        for each in timers:
            await unit.put_timer(each)


def as_it_is(each: Timer) -> tuple[Envelope, int | None]:
    """The timer's event, once."""
    return each.envelope, None


def every(seconds: int) -> Callable[[Timer], tuple[Envelope, int | None]]:
    """The timer's event with an id of its own, again and again."""

    def occur(each: Timer) -> tuple[Envelope, int | None]:
        return msgspec.structs.replace(each.envelope, id=f"at-{each.due_ms}"), each.due_ms + 1_000 * seconds

    return occur


async def a_timer_fires_once_and_not_early(make: MakeStore, path: Path) -> None:
    """At its time its event is in the log, with its origin and id; asked again, nothing more comes."""
    clock = VirtualClock()
    async with opened(make, path, clock=clock) as (store,):
        now = store.store_ms()
        await put(store, timer(1, now + 10_000), timer(2, now + 5_000))
        same(await store.next_timer_ms(), 5_000, "milliseconds until the next timer")
        await clock.jump(4.999)
        same(await store.fire_timers(as_it_is, 10), 0, "timers fired before their time")
        await clock.jump(0.001)
        same(await store.fire_timers(as_it_is, 10), 1, "timers fired at the first one's time")
        same(await store.next_timer_ms(), 5_000, "milliseconds until the next timer")
    async with opened(make, path, clock=clock) as (store,):
        await clock.jump(60)
        check(((await store.next_timer_ms()) or 0) <= 0, "a timer whose time passed while nobody ran is not due")
        same(await store.fire_timers(as_it_is, 10), 1, "timers fired after a restart")
        same(await store.fire_timers(as_it_is, 10), 0, "timers fired again")
        same(await store.next_timer_ms(), None, "milliseconds until the next timer")
        log = await log_of(store)
        same([event.envelope.id for event in log], [envelope(n).id for n in (2, 1)], "the log")
        same([event.origin for event in log], [PUBLISHED] * 2, "origins")


async def each_timer_goes_by_its_own_clock(make: MakeStore, path: Path) -> None:
    """A delay is not moved by a wall clock that is set; a date is."""
    clock = VirtualClock()
    async with opened(make, path, clock=clock) as (store,):
        await put(store, timer(1, store.store_ms() + 60_000), timer(2, clock.now_ms() + 60_000, "wall"))
        clock.set_wall(-3_600)
        await clock.jump(61)
        same(await store.fire_timers(as_it_is, 10), 1, "timers fired after a minute, with the wall clock set back")
        same(await ids(store), [envelope(1).id], "the log")
        clock.set_wall(0)
        same(await store.fire_timers(as_it_is, 10), 1, "timers fired when the wall clock was right again")


async def a_recurring_timer_moves_on(make: MakeStore, path: Path) -> None:
    """It fires at each of its times; put again as it was it keeps its time, put differently it gets the new one."""
    clock = VirtualClock()
    async with opened(make, path, clock=clock) as (store,):
        now = store.store_ms()
        await put(store, timer(1, now + 10_000, recurrence="every 10 s"))
        await clock.jump(10)
        same(await store.fire_timers(every(10), 10), 1, "timers fired")
        same(await store.next_timer_ms(), 10_000, "milliseconds until it comes again")
        await put(store, timer(1, now + 99_000, recurrence="every 10 s"))
        same(await store.next_timer_ms(), 10_000, "milliseconds after it was put again as it was")
        await put(store, timer(1, now + 40_000, recurrence="every 30 s"))
        same(await store.next_timer_ms(), 30_000, "milliseconds after it was put differently")
        await clock.jump(30)
        same(await store.fire_timers(every(30), 10), 1, "timers fired")
        same(await ids(store), [f"at-{now + ms}" for ms in (10_000, 40_000)], "the log")


async def a_timer_can_be_taken_back(make: MakeStore, path: Path) -> None:
    """Until it has fired; then, and a second time, the answer is no."""
    clock = VirtualClock()
    async with opened(make, path, clock=clock) as (store,):
        await put(store, timer(1, store.store_ms() + 1_000), timer(2, store.store_ms() + 1_000))
        async with store.unit() as unit:
            same(await unit.end_timer(envelope(1).id), True, "taking back a timer that waits")
            same(await unit.end_timer(envelope(1).id), False, "taking it back again")
        await clock.jump(2)
        same(await store.fire_timers(as_it_is, 10), 1, "timers fired")
        async with store.unit() as unit:
            same(await unit.end_timer(envelope(2).id), False, "taking back a timer that has fired")
        same(await ids(store), [envelope(2).id], "the log")


async def processes_fire_a_timer_once_between_them(make: MakeStore, path: Path) -> None:
    """Several that fire at the same time do not fire the same one twice."""
    clock = VirtualClock()
    async with opened(make, path, "one", "two", "three", clock=clock) as stores:
        await put(stores[0], *(timer(n, stores[0].store_ms() + 1_000) for n in range(30)))
        await clock.jump(2)
        fired = 0
        while fired < 30:
            counts = await asyncio.gather(*(store.fire_timers(as_it_is, 4) for store in stores))
            check(sum(counts) > 0, f"only {fired} of 30 timers fired")
            fired += sum(counts)
        same(fired, 30, "timers fired")
        same(sorted(await ids(stores[0])), [envelope(n).id for n in range(30)], "the log")


async def what_fails_to_fire_waits(make: MakeStore, path: Path) -> None:
    """An exception while timers fire leaves all of them where they were."""
    clock = VirtualClock()

    def broken(each: Timer) -> tuple[Envelope, int | None]:
        raise Interrupted

    async with opened(make, path, clock=clock) as (store,):
        await put(store, timer(1, store.store_ms()))
        with suppress(Interrupted):
            await store.fire_timers(broken, 10)
        same(await ids(store), [], "the log")
        same(await store.fire_timers(as_it_is, 10), 1, "timers fired afterwards")


async def a_new_timer_wakes(make: MakeStore, path: Path) -> None:
    """Who listens to TIMER_SET is woken when one has been put, and finds it."""
    async with opened(make, path) as (store,):
        wakes: list[int] = []
        store.listen((TIMER_SET,), once(wakes))
        await put(store, timer(1, store.store_ms() + 1_000))
        await asyncio.sleep(0)
        check(bool(wakes), "a new timer has woken nobody")
        same(await store.next_timer_ms(), 1_000, "milliseconds until it is due")


TIMER_CHECKS: list[StoreCheck] = [
    a_timer_fires_once_and_not_early,
    each_timer_goes_by_its_own_clock,
    a_recurring_timer_moves_on,
    a_timer_can_be_taken_back,
    processes_fire_a_timer_once_between_them,
    what_fails_to_fire_waits,
    a_new_timer_wakes,
]
