"""Commands, replies, effects and lanes: what has a target, what ends a time-out, what is fenced, whose turn it is."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import msgspec

from antiphon.errors import LeaseLost
from antiphon.model.effects import Effect, EffectState
from antiphon.ports import INTERNAL, PUBLISHED, TIMEOUT_OF, Lease, Store, Timer
from antiphon.testing.clock import VirtualClock
from antiphon.testing.conformance.kit import (
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
    ids,
    leased,
    log_of,
    numbers,
    opened,
    same,
    settle,
    take,
)


async def owed(store: Store, lease: Lease) -> list[int]:
    """All that is fresh for a handler, read to the end; its cursor stays."""
    reading = msgspec.structs.replace(lease)
    found: list[int] = []
    while events := await fresh(store, reading):
        found += numbers(events)
        reading.seq = events[-1].seq
    return found


async def what_has_a_target_is_owed_to_it_alone(make: MakeStore, path: Path) -> None:
    """A command or reply reaches the handlers of its target, in this process and after reading anew, and no others."""
    async with opened(make, path, "one", "two") as (first, second):
        await first.register([handler("work"), handler("work", service="other")])
        own, other = await take(first, "one"), await take(first, "one", "other.work")
        await append(first, envelope(0), msgspec.structs.replace(envelope(1), target="other"), envelope(2))
        for store in (first, second):
            same(await owed(store, own), [0, 2], "events for everybody else")
            same(await owed(store, other), [0, 1, 2], "events for the target")


async def an_envelope_keeps_whom_it_is_for(make: MakeStore, path: Path) -> None:
    """Target, request and deadline come back as they were, from the log and from a timer."""
    talk = msgspec.structs.replace(envelope(0), target="other", request_id="r-1", deadline_ms=2**53)
    async with opened(make, path, "one", "two") as (first, second):
        async with first.unit() as unit:
            await unit.put_timer(Timer("t-1", 0, "store", None, msgspec.structs.replace(talk, id="t-1")))
        await append(first, talk)
        await first.fire_timers(lambda timer: (timer.envelope, None), 10)
        for store in (first, second):
            for event in await log_of(store):
                found = (event.envelope.target, event.envelope.request_id, event.envelope.deadline_ms)
                same(found, ("other", "r-1", 2**53), f"what {event.envelope.id} keeps")


async def an_answer_ends_the_time_out(make: MakeStore, path: Path) -> None:
    """Whatever answers a command first removes the timer that would; without an answer the timer fires, once."""
    clock = VirtualClock()
    async with opened(make, path, clock=clock) as (store,):
        async with store.unit() as unit:
            for name in ("answered", "forgotten"):
                late = msgspec.structs.replace(envelope(0), id=f"{TIMEOUT_OF}{name}", request_id=name)
                await unit.put_timer(Timer(late.id, store.store_ms() + 5_000, "store", None, late, INTERNAL))
        await append(store, msgspec.structs.replace(envelope(1), request_id="answered"))
        await clock.advance(6)
        for _ in range(2):
            await store.fire_timers(lambda timer: (timer.envelope, None), 10)
        same(await ids(store), [envelope(1).id, f"{TIMEOUT_OF}forgotten"], "what answers the commands")


async def a_verdict_brings_its_answer(make: MakeStore, path: Path) -> None:
    """The answer to a command that is set aside is appended with the verdict, or not at all."""
    answer = msgspec.structs.replace(envelope(1), request_id=envelope(0).id, target="asker")
    async with leased(make, path) as (store, lease):
        await append(store, envelope(0))
        (event,) = await fresh(store, lease)
        verdict = msgspec.structs.replace(failed(event, dead()), answer=(answer, PUBLISHED))
        with suppress(LeaseLost):
            stale = msgspec.structs.replace(lease, epoch=lease.epoch - 1)
            await settle(store, stale, verdict)
        same(await ids(store), [envelope(0).id], "the log after a verdict that was refused")
        await settle(store, lease, verdict)
        same(await ids(store), [envelope(0).id, answer.id], "the log after the verdict")


async def what_is_known_of_an_effect_is_kept_and_fenced(make: MakeStore, path: Path) -> None:
    """An effect reads back as it was put; a worker that has lost its lease changes nothing."""
    effect = Effect(event_id="e-1", handler="svc.work", name="charge", key="k", created_ms=1, updated_ms=1)
    outcome = msgspec.structs.replace(effect, state=EffectState.DONE, result=b'{"n":1}', calls=2, updated_ms=2)
    async with leased(make, path) as (store, lease):
        same(await store.read_effect("e-1", "svc.work", "charge"), None, "an effect that was never intended")
        for each in (effect, outcome):
            async with store.unit() as unit:
                await unit.put_effect(lease, each)
            same(await store.read_effect("e-1", "svc.work", "charge"), each, "the effect")
        refused = False
        try:
            async with store.unit() as unit:
                await unit.put_effect(msgspec.structs.replace(lease, epoch=lease.epoch - 1), effect)
        except LeaseLost:
            refused = True
        check(refused, "a worker without its lease has written down an effect")
        same(await store.read_effect("e-1", "svc.work", "charge"), outcome, "the effect afterwards")


async def lanes_hold_what_waits_in_order(make: MakeStore, path: Path) -> None:
    """What is lined up waits in its lane, by order and key, behind the cursor; a lane without anything is none."""
    async with leased(make, path) as (store, lease):
        await append(store, *(envelope(n, key="same" if n in (1, 3) else f"k{n}") for n in range(5)))
        events = await fresh(store, lease)
        async with store.unit() as unit:
            await unit.line_up(lease, [(event, "ba"[event.seq % 2]) for event in events], events[-1].seq)
        lease.seq = events[-1].seq
        same(numbers(await fresh(store, lease)), [], "what is fresh afterwards")
        same(await store.lanes(lease, "", 10), ["a", "b"], "the lanes")
        same(await store.lanes(lease, "b", 10), ["b"], "the lanes from one on")
        by_lane = {lane: await store.read_lane(lease, lane, 10) for lane in ("a", "b")}
        same(sorted(numbers([*by_lane["a"], *by_lane["b"]])), list(range(5)), "all that waits")
        one = next(lane for lane in by_lane if 1 in numbers(by_lane[lane]))
        same(numbers(by_lane[one]), [1, 3], "a key's events in their order")
        await settle(store, lease, *(done(each.event, is_fresh=False) for lane in by_lane.values() for each in lane))
        same(await store.lanes(lease, "", 10), [], "the lanes when all is done")


TALKING_CHECKS: list[StoreCheck] = [
    what_has_a_target_is_owed_to_it_alone,
    an_envelope_keeps_whom_it_is_for,
    an_answer_ends_the_time_out,
    a_verdict_brings_its_answer,
    what_is_known_of_an_effect_is_kept_and_fenced,
    lanes_hold_what_waits_in_order,
]
