"""Searching: many seeds, each in two interpreters; what is found is shrunk, and can be seen again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from antiphon.cli.simulate import FAULTS
from antiphon.simulate.faults import Schedule
from antiphon.simulate.interpreters import interpreters
from antiphon.simulate.report import as_text, replay_command
from antiphon.simulate.search import NOT_DETERMINISTIC, Outcome, Search
from antiphon.simulate.worker import Job
from tests.simulate import shops


def searched(reference: str, look: Callable[[Search], Coroutine[Any, Any, Outcome]]) -> Outcome:
    """What a search over an app comes to, in two interpreters that hash strings differently."""
    places = {handler.name: handler.source for spec in getattr(shops, reference).specs for handler in spec.handlers}

    async def search() -> Outcome:
        async with interpreters(f"tests.simulate.shops:{reference}", 2) as runner:
            return await look(Search(runner, places=places))

    return asyncio.run(search())


def jobs(seeds: int, events: int) -> list[Job]:
    """Worlds with all kinds of faults."""
    return [Job(seed, events, FAULTS) for seed in range(seeds)]


def test_a_sound_app_keeps_its_promises_in_every_world() -> None:
    """Two runs of each seed, under different hash seeds, leave the same trace, and nothing is violated."""
    outcome = searched("sound_app", lambda search: search.seeds(jobs(10, 5)))
    assert outcome.violating == {}
    assert (outcome.seeds, outcome.runs) == (10, 20)
    assert outcome.crashes > 5
    assert sum(outcome.faults_by_kind.values()) == outcome.faults
    again = searched("sound_app", lambda search: search.seeds(jobs(2, 5)))
    assert again.digest == searched("sound_app", lambda search: search.seeds(reversed(jobs(2, 5)))).digest


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.soak)])
def test_a_small_world_survives_a_crash_at_each_of_its_points(every: int) -> None:
    """Exhaustive: the process that is there is killed at every statement, step and moment after a commit."""
    outcome = searched("small_app", lambda search: search.exhaustive([Job(1, 1)], every=every))
    assert outcome.violating == {}
    assert outcome.crashes == outcome.runs - 2 > 700 / every


def test_a_violation_is_shrunk_to_what_it_takes() -> None:
    """Of all that went wrong the one fault is left without which nothing is violated, and as few events as it takes."""
    outcome = searched("unlucky_app", lambda search: search.seeds(jobs(10, 8)))
    found = outcome.found
    assert found is not None
    assert {violation.name for violation in found.violations} == {"nothing_ever_fails"}
    assert found.shrunk
    left = Schedule.parse(found.schedule).faults
    assert [fault.kind for fault in left] == ["handler"]
    assert len(Schedule.parse(found.drawn).faults) > 1
    assert found.events <= 8
    text = "\n".join(as_text("tests.simulate.shops:unlucky_app", outcome))
    assert "VIOLATION of nothing_ever_fails: 1 attempts have failed" in text
    assert f"{shops.__file__}:" in text
    assert f"fault {found.schedule}" in text
    assert text.count(replay_command("tests.simulate.shops:unlucky_app", found)) == 1


def test_what_hangs_on_the_order_of_a_set_is_found_with_its_handler() -> None:
    """Under another hash seed the handler publishes in another order: it is named with file and line."""
    outcome = searched("unordered_app", lambda search: search.seeds(jobs(3, 4)))
    assert outcome.found is not None
    texts = [violation.text for violation in outcome.found.violations if violation.name == NOT_DETERMINISTIC]
    line = shops.unordered.__code__.co_firstlineno
    source = next(h.source for spec in shops.unordered_app.specs for h in spec.handlers if h.name == "packing.pack")
    assert texts
    assert f"packing.pack ({source})" in texts[0]
    assert line < int(source.rpartition(":")[2]) < line + 8
