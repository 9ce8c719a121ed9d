"""A world: what can go wrong in it does, and nothing that is promised breaks."""

from __future__ import annotations

from collections import Counter

import pytest

from antiphon import App
from antiphon.simulate.faults import KINDS, FaultMix, Schedule
from antiphon.simulate.world import Run, World
from tests.simulate import shops

#: How often a kind strikes in a thousand points, so that a small world sees it.
OFTEN = {"power": 2.0, "handler": 200.0, "drop": 20.0, "duplicate": 20.0, "reorder": 20.0, "partition": 5.0}


def ran(app: App, seed: int, faults: FaultMix | Schedule, events: int = 6) -> tuple[World, Run]:
    """A world at its end."""
    world = World(app, seed, events=events, faults=faults)
    return world, world.run()


def until(app: App, faults: FaultMix | Schedule, wanted: str, events: int = 6, most: int = 60) -> World:
    """The first world whose timeline has *wanted*; in none on the way is a promise broken."""
    for seed in range(most):
        world, run = ran(app, seed, faults, events)
        assert run.violations == []
        if any(wanted in line for line in world.ledger.timeline()):
            return world
    raise AssertionError(f"no world of {most} has {wanted!r}")


def test_without_faults_everything_is_handled_once() -> None:
    """The plain run: no crash, no failed attempt, every event handled by every handler once."""
    world, run = ran(shops.sound(), 0, FaultMix.none())
    assert (run.crashes, run.violations, run.schedule.faults) == (0, [], ())
    assert {len(attempts) for attempts in world.ledger.attempts.values()} == {1}
    assert Counter(name for name, _ in world.ledger.attempts) == {
        "billing.bill": 6,
        "billing.ask": 6,
        "billing.print_it": 6,
        "shop.note": 6,
    }


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_fault_strikes_and_breaks_no_promise(kind: str) -> None:
    """Alone, often, in a handful of worlds: it strikes, and whatever is promised holds."""
    app, struck = shops.sound(), 0
    for seed in range(6):
        _, run = ran(app, seed, FaultMix({kind: OFTEN.get(kind, 5.0)}))
        assert run.violations == []
        assert {fault.kind for fault in run.schedule.faults} <= {kind}
        struck += len(run.schedule.faults)
    assert struck > 0


@pytest.mark.parametrize(
    ("detail", "outcome"),
    [
        ("raise*1", "raised"),
        ("after*1", "raised"),
        ("hang*1", "cancelled"),
        ("kill*1", "died"),
        ("kill-after*1", "died"),
        ("reject", "rejected"),
    ],
)
def test_a_handler_that_fares_ill_does_so_in_every_way(detail: str, outcome: str) -> None:
    """It raises, before or after its work, hangs until its time-out, kills its process, or refuses the event."""
    seen: Counter[str] = Counter()
    for seed in range(12):
        world, run = ran(shops.sound(), seed, Schedule.parse(f"handler@1::{detail}"))
        assert run.violations == []
        seen.update(attempt.outcome for attempts in world.ledger.attempts.values() for attempt in attempts)
    assert seen[outcome] > 0, seen


def test_a_lease_expires_while_its_worker_still_runs() -> None:
    """A process that is stopped for longer than its lease wakes up beside its successor, and commits nothing."""
    app = shops.sound()
    for seed in range(60):
        world, run = ran(app, seed, FaultMix({"stall": 8.0}))
        assert run.violations == []
        owners = [{attempt.owner for attempt in attempts} for attempts in world.ledger.attempts.values()]
        if run.crashes == 0 and any(len(each) > 1 for each in owners):
            return
    raise AssertionError("in no world two living workers have tried the same event")


@pytest.mark.parametrize("where", ["bus.send", "bus.receive"])
def test_the_bus_is_lost_between_sending_and_the_confirmation(where: str) -> None:
    """The batch has arrived, its sender does not know: it is sent again, and taken once."""

    def of(world: World) -> bool:
        return any(f":after, at {where}" in line for line in world.ledger.timeline())

    for seed in range(60):
        world, run = ran(shops.sound(), seed, FaultMix({"drop": 20.0}))
        assert run.violations == []
        if of(world):
            return
    raise AssertionError(f"no connection was lost after {where}")


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("duplicate", "at bus.send"),
        ("duplicate", "at bus.receive"),
        ("reorder", "at bus.receive"),
        ("disk", ":full:"),
        ("disk", ":slow:"),
        ("disk", ":locked:"),
        ("power", "at commit"),
        ("crash", "at step"),
        ("crash", "at committed"),
        ("clock", "fault clock"),
    ],
)
def test_faults_strike_at_statements_at_steps_and_on_the_way(kind: str, wanted: str) -> None:
    """At a commit, after it, at an await, at the bus: each place is reached, and breaks no promise."""
    until(shops.sound(), FaultMix({kind: {"power": 20.0, "crash": 5.0}.get(kind, 20.0)}), wanted)


def test_failures_end_with_the_faults_unless_the_policy_gives_up_soon() -> None:
    """A handler that fails for ever becomes a dead letter when its policy gives up within minutes."""
    world = until(shops.sound(), Schedule.parse("handler@1::raise*99"), "call 4")
    assert world.now < 600


def test_a_world_is_a_function_of_its_seed() -> None:
    """The same seed leaves the same trace; another one does not. What one world leaves behind does not matter."""
    app = shops.sound()
    mixes = {seed: FaultMix.swarm(seed) for seed in range(4)}
    first = [ran(app, seed, mix)[1].trace_hash for seed, mix in mixes.items()]
    again = [ran(app, seed, mix)[1].trace_hash for seed, mix in reversed(mixes.items())]
    assert again[::-1] == first
    assert len(set(first)) == len(first)


def test_what_struck_said_again_strikes_in_the_same_way() -> None:
    """The schedule of a run reproduces its trace without its fault mix."""
    app = shops.sound()
    for seed in range(3):
        _, run = ran(app, seed, FaultMix.swarm(seed))
        assert ran(app, seed, Schedule.parse(str(run.schedule)))[1].trace_hash == run.trace_hash


def test_careless_handlers_are_reported_with_file_and_line() -> None:
    """What blocks the loop, and what no seed decides, is named once each."""
    _, run = ran(shops.careless(), 0, FaultMix.none())
    assert [report.what.split()[0] for report in run.reports] == ["time.sleep(0.1)", "lists"]
    assert all(report.file == shops.__file__ for report in run.reports)
