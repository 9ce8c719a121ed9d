"""What processes of one simulated machine share: the writer gate, signs of life, bells, the machine's clock."""

import asyncio
from collections.abc import Iterator
from contextvars import Context
from pathlib import Path

import pytest

from antiphon.simulate.clock import SimClock
from antiphon.simulate.faults import Fault
from antiphon.simulate.machine import START_MS
from antiphon.simulate.process import PROCESS, Process
from tests.simulate.rig import Rig


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """A machine."""
    made = Rig(tmp_path)
    yield made
    made.close()


def of(process: Process) -> Context:
    """A context in which *process* runs."""
    context = Context()
    context.run(PROCESS.set, process)
    return context


def test_the_gate_is_fair_and_a_dead_holder_leaves_it(rig: Rig) -> None:
    """First come, first served; one that dies in the queue or inside lets the next in, and never comes back."""
    processes = [rig.process(name) for name in "abcd"]
    clocks = [SimClock(process, rig.machine, rig.loop, 0) for process in processes]
    entered: list[str] = []

    async def hold(process: Process, clock: SimClock) -> None:
        gate = rig.place(process).gate(clock)
        await gate.acquire()
        entered.append(process.name)
        await asyncio.sleep(5)
        gate.release()

    async def work() -> None:
        for process, clock in zip(processes, clocks, strict=True):
            rig.loop.create_task(hold(process, clock), context=of(process))
            await asyncio.sleep(0.1)
        assert entered == ["a"]
        processes[0].kill()
        processes[2].kill()
        await asyncio.sleep(1)
        assert entered == ["a", "b"]
        await asyncio.sleep(6)
        assert entered == ["a", "b", "d"]

    Context().run(rig.loop.run_until_complete, work())


def test_a_sign_of_life_goes_with_its_process_and_not_with_a_pause(rig: Rig) -> None:
    """Who is stopped is alive and no neighbour any more; who is killed is not alive."""
    first, second = rig.process("a"), rig.process("b")
    lives = [
        rig.run(process, lambda process=process: rig.place(process).life(process.owner, ["shop"]))  # type: ignore[misc]
        for process in (first, second)
    ]

    async def work() -> None:
        for life in lives:
            life.beat()
        assert set(lives[0].neighbours()) == {first.owner, second.owner}
        await asyncio.sleep(10)
        lives[0].beat()
        assert set(lives[0].neighbours()) == {first.owner}
        assert rig.place(first).is_alive(second.owner)
        second.kill()
        assert not rig.place(first).is_alive(second.owner)

    Context().run(rig.loop.run_until_complete, work())


@pytest.mark.parametrize(("fault", "heard_after"), [(None, 0.1), ("delay:4.0", 4.0), ("drop:before", None)])
def test_a_bell_is_heard_by_others_unless_a_fault_delays_or_drops_it(
    rig: Rig, fault: str | None, heard_after: float | None
) -> None:
    """Ringing wakes every other process that lives; the own bell is silent."""
    first, second = rig.process("a"), rig.process("b")
    heard: list[tuple[str, float]] = []
    bells = {
        process.name: rig.run(
            process,
            lambda process=process: rig.place(process).bell(  # type: ignore[misc]
                process.owner, lambda: heard.append((process.name, rig.loop.time()))
            ),
        )
        for process in (first, second)
    }
    if fault is not None:
        kind, _, detail = fault.partition(":")
        rig.strike = lambda process, name: Fault(kind, 1, "a", detail) if name == "bell" else None

    async def work() -> None:
        rig.run(first, bells["a"].ring)
        await asyncio.sleep(10)

    Context().run(rig.loop.run_until_complete, work())
    assert [name for name, _ in heard] == (["b"] if heard_after else [])
    assert all(at <= (heard_after or 0) + 0.1 for _, at in heard)


def test_the_machines_clock_runs_with_time_and_begins_anew_with_a_boot(rig: Rig) -> None:
    """Wall clocks may be wrong, one process's more than another's; the boot clock goes on until the power fails."""
    process, other = rig.process("a"), rig.process("b")
    clock, right = SimClock(process, rig.machine, rig.loop, 0), SimClock(other, rig.machine, rig.loop, 0)
    process.skew_ms = -60_000

    async def work() -> None:
        before, boot = clock.boot_ms(), clock.boot_id()
        await asyncio.sleep(5)
        assert clock.boot_ms() - before == 5000
        assert (clock.now_ms(), right.now_ms()) == (START_MS + 5000 - 60_000, START_MS + 5000)
        rig.power_fails(Fault("power", 1), {})
        assert clock.boot_id() != boot
        assert clock.boot_ms() == 0

    Context().run(rig.loop.run_until_complete, work())


def test_ids_sort_as_they_are_made_whatever_the_wall_clock_does(rig: Rig) -> None:
    """A clock that jumps back does not put an id before an earlier one of the same process."""
    process = rig.process("a")
    clock = SimClock(process, rig.machine, rig.loop, 0)
    ids = []
    for skew_ms in (0, 5000, -7_200_000, 3, 60_000):
        process.skew_ms = skew_ms
        ids += [clock.new_id() for _ in range(20)]
    assert ids == sorted(set(ids))
