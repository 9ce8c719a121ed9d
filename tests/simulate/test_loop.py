"""The event loop in virtual time: a seed decides the interleaving, and time costs nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVar

import pytest

from antiphon.simulate.faults import Fault
from antiphon.simulate.loop import SimLoop, Stuck
from antiphon.simulate.process import PROCESS, Effects, Process

T = TypeVar("T")


def run(work: Callable[[SimLoop], Coroutine[Any, Any, T]], seed: int = 0, **options: Any) -> T:
    """What *work* comes to on a loop of its own."""
    loop = SimLoop(seed, **options)
    try:
        return Context().run(loop.run_until_complete, work(loop))
    finally:
        loop.bury()


def begin(loop: SimLoop, process: Process, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Run *work* as a task of *process*."""
    context = Context()
    context.run(PROCESS.set, process)
    return loop.create_task(work, context=context)


def test_a_day_passes_in_no_time() -> None:
    """Time goes to the next timer at once, and timers fire in the order of their times."""

    async def work(loop: SimLoop) -> list[float]:
        fired: list[float] = []
        for delay in (3600.0, 1.0, 86_400.0, 60.0):
            loop.call_later(delay, fired.append, delay)
        await asyncio.sleep(100_000)
        assert loop.time() == pytest.approx(100_000)
        return fired

    began = time.monotonic()
    assert run(work) == [1.0, 60.0, 3600.0, 86_400.0]
    assert time.monotonic() - began < 5


async def interleaved(loop: SimLoop) -> str:
    """The order in which five tasks take their steps."""
    order: list[str] = []

    async def steps(name: str) -> None:
        for _ in range(4):
            order.append(name)
            await asyncio.sleep(0)

    await asyncio.gather(*(steps(name) for name in "abcde"))
    return "".join(order)


def test_a_seed_is_an_interleaving() -> None:
    """The same seed takes the same steps; others take others, each task its own in order."""
    found = {seed: run(interleaved, seed) for seed in range(20)}
    assert {seed: run(interleaved, seed) for seed in range(20)} == found
    assert len(set(found.values())) > 15
    assert {"".join(sorted(order)) for order in found.values()} == {"aaaabbbbccccddddeeee"}


def test_plain_callbacks_keep_their_order() -> None:
    """What is called soon is called in the order in which that was asked for, as asyncio promises."""

    async def work(loop: SimLoop) -> list[int]:
        called: list[int] = []
        for number in range(50):
            loop.call_soon(called.append, number)
            if number % 7 == 0:
                await asyncio.sleep(0)
        await asyncio.sleep(1)
        return called

    for seed in range(5):
        assert run(work, seed) == list(range(50))


def test_sets_of_tasks_have_an_order_that_no_address_decides() -> None:
    """``asyncio.wait`` keeps sets of tasks: they are hashed by their numbers, so every run sees the same order."""

    async def work(loop: SimLoop) -> list[str]:
        async def nothing() -> None:
            await asyncio.sleep(0)

        tasks = {asyncio.create_task(nothing(), name=f"t{number}") for number in range(30)}
        done, _ = await asyncio.wait(tasks)
        return [task.get_name() for task in done]

    junk = [object() for _ in range(1000)]
    first = run(work)
    del junk[::2]
    assert run(work) == first


def test_what_can_never_go_on_is_said() -> None:
    """A deadlock ends the run with an error instead of hanging; so does work without an end."""

    async def deadlock(loop: SimLoop) -> None:
        await loop.create_future()

    async def endless(loop: SimLoop) -> None:
        while True:  # noqa: ASYNC110  it is to have no end
            await asyncio.sleep(0)

    with pytest.raises(Stuck, match="nothing can ever run again"):
        run(deadlock)
    with pytest.raises(Stuck, match="no end after"):
        run(endless, most_steps=1000)


def test_a_blocking_call_runs_in_a_thread_of_which_one_runs_at_a_time() -> None:
    """Calls in threads begin at seeded moments and never overlap; what they raise arrives."""

    async def work(loop: SimLoop) -> list[int]:
        inside: list[int] = []
        order: list[int] = []

        def call(number: int) -> int:
            inside.append(number)
            assert len(inside) == 1
            order.append(number)
            inside.remove(number)
            return number

        assert await asyncio.gather(*(asyncio.to_thread(call, number) for number in range(6))) == list(range(6))
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 // 0)
        return order

    orders = {seed: run(work, seed) for seed in range(8)}
    assert {seed: run(work, seed) for seed in range(8)} == orders
    assert len({tuple(order) for order in orders.values()}) > 1


def struck(loop: SimLoop, kind: str, at: int, strike: Callable[[Process], Fault | None]) -> Effects:
    """Let *strike* be asked at the step number *at* of a process."""
    effects = Effects(loop.time, lambda process, name: strike(process) if process and effects.count == at else None)
    effects.next_at = 0
    loop.effects = effects
    return effects


@pytest.mark.parametrize("at", range(1, 7))
def test_a_process_can_be_killed_at_every_step_and_nothing_of_it_runs_after_that(at: int) -> None:
    """Each step of its tasks is a point. Killed there it ends as by SIGKILL: no ``finally`` runs, others go on."""

    async def work(loop: SimLoop) -> tuple[list[str], list[str]]:
        mine: list[str] = []
        others: list[str] = []
        process, other = Process("p", 0, frozenset(), loop), Process("q", 0, frozenset(), loop)

        async def steps(told: list[str]) -> None:
            try:
                for number in range(5):
                    told.append(f"step {number}")
                    await asyncio.sleep(1)
            finally:
                told.append("finally")

        struck(loop, "crash", at, lambda victim: victim.kill() if victim is process else None)
        begin(loop, process, steps(mine))
        await asyncio.sleep(100)
        assert not process.alive
        begin(loop, other, steps(others))
        await asyncio.sleep(100)
        return list(mine), list(others)  # at the end of a loop whatever is left in it is closed

    mine, others = run(work)
    assert mine == [f"step {number}" for number in range(at - 1)]
    assert others == [*(f"step {number}" for number in range(5)), "finally"]


def test_a_step_may_come_late_while_others_go_on() -> None:
    """A fault at a step holds that task back for a while; its neighbour in the same process runs meanwhile."""

    async def work(loop: SimLoop) -> dict[str, float]:
        ended: dict[str, float] = {}
        process = Process("p", 0, frozenset(), loop)

        async def note(name: str) -> None:
            ended[name] = loop.time()

        struck(loop, "late", 1, lambda victim: Fault("late", 1, "p", "3.0"))
        begin(loop, process, note("a"))
        begin(loop, process, note("b"))
        await asyncio.sleep(10)
        return ended

    assert sorted(run(work).values()) == [0.0, 3.0]


def test_a_process_that_is_stopped_runs_nothing_and_then_goes_on() -> None:
    """While it is stopped its timers pass; afterwards everything that was due runs."""

    async def work(loop: SimLoop) -> list[float]:
        seen: list[float] = []
        process = Process("p", 0, frozenset(), loop)

        async def tick() -> None:
            for _ in range(4):
                seen.append(loop.time())
                await asyncio.sleep(1)

        begin(loop, process, tick())
        await asyncio.sleep(1.5)
        process.stall(10.0)
        await asyncio.sleep(20)
        return seen

    assert run(work) == [0.0, 1.0, 10.0, 11.0]


def test_what_blocks_the_loop_holds_up_its_own_process_only() -> None:
    """To the one that blocks time has passed; its other tasks wait, those of others do not."""

    async def work(loop: SimLoop) -> dict[str, float]:
        seen: dict[str, float] = {}
        slow, quick = Process("slow", 0, frozenset(), loop), Process("quick", 0, frozenset(), loop)

        async def block() -> None:
            loop.busy(5.0)
            seen["after it"] = loop.time()

        async def note(name: str) -> None:
            await asyncio.sleep(1)
            seen[name] = loop.time()

        begin(loop, slow, note("same process"))
        begin(loop, quick, note("other process"))
        await asyncio.sleep(0.5)
        begin(loop, slow, block())
        await asyncio.sleep(20)
        return seen

    assert run(work) == {"after it": 5.5, "same process": 5.5, "other process": 1.0}
