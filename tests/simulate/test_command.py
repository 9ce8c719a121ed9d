"""``antiphon simulate`` as its users call it, and the examples under it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from typing import Any

import pytest

EXAMPLES = ("enrollment", "flight_booking", "payments_stp", "securecart")


def simulate(*arguments: str) -> tuple[int, dict[str, Any], str]:
    """The exit code, the last line of stdout as JSON, and stderr."""
    command = [sys.executable, "-m", "antiphon", "simulate", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert lines, done.stderr
    return done.returncode, json.loads(lines[-1]), done.stderr


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seeds", [6, pytest.param(100, marks=pytest.mark.soak)])
@pytest.mark.parametrize(("example", "events"), [(example, 2) for example in EXAMPLES])
def test_the_examples_keep_every_promise_in_all_their_worlds(example: str, seeds: int, events: int) -> None:
    """Worlds with all that can go wrong: none breaks a promise of the engine's or the example's own."""
    code, figures, told = simulate(f"examples.{example}:app", "--seeds", str(seeds), "--events", str(events))
    assert (code, figures["violations"]) == (0, 0), told
    assert (figures["seeds"], figures["events"], figures["runs"]) == (seeds, events * seeds, 2 * seeds)
    assert figures["crashes"] > seeds / 2
    assert figures["times_real_time"] == pytest.approx(figures["virtual_seconds"] / figures["cpu_seconds"], abs=2)
    assert figures["points_per_cpu_second"] > 1_000
    kinds = {"crash", "power", "stall", "late", "clock", "handler raise"}
    assert kinds & set(figures["faults_by_kind"]) if seeds < 100 else kinds <= set(figures["faults_by_kind"])
    assert "reports" not in figures


def test_a_violation_is_replayed_by_the_command_that_it_prints() -> None:
    """The printed command violates the same, with exactly the faults of its schedule, and the same trace each time."""
    code, figures, told = simulate("tests.simulate.shops:unlucky_app", "--seeds", "10", "--events", "8")
    assert code == 1
    found = figures["found"]
    assert "VIOLATION of nothing_ever_fails" in told
    assert "timeline:" in told
    assert f"replay: {found['replay']}" in told
    arguments = shlex.split(found["replay"])
    assert arguments[:2] == ["antiphon", "simulate"]
    hashes = set()
    for _ in range(2):
        code, again, _ = simulate(*arguments[2:])
        assert code == 1
        assert again["found"]["violations"] == found["violations"]
        assert again["found"]["drawn"] == found["schedule"]
        hashes.add(again["trace_hash"])
    assert len(hashes) == 1


def test_a_seed_that_is_named_is_run_alone_without_faults_if_none_are_wanted() -> None:
    """``--seed`` names one world, ``--faults none`` leaves out all faults, ``--workers`` changes nothing."""
    arguments = ("tests.simulate.shops:sound_app", "--seed", "7", "--events", "3")
    _, calm, _ = simulate(*arguments, "--faults", "none")
    assert (calm["seeds"], calm["faults"], calm["crashes"]) == (1, 0, 0)
    _, one, _ = simulate(*arguments, "--workers", "1")
    _, two, _ = simulate(*arguments, "--workers", "2")
    assert one["trace_hash"] == two["trace_hash"] != calm["trace_hash"]


@pytest.mark.soak
@pytest.mark.timeout(86_400)
@pytest.mark.parametrize("example", EXAMPLES)
def test_a_hundred_thousand_worlds(example: str) -> None:
    """25,000 seeds of each example, or as many as ANTIPHON_SOAK_WITHIN (30m by default) allows for each."""
    within = os.environ.get("ANTIPHON_SOAK_WITHIN", "30m")
    code, figures, told = simulate(f"examples.{example}:app", "--seeds", "25000", "--events", "10", "--within", within)
    assert (code, figures["violations"]) == (0, 0), told
    assert figures["crashes"] > figures["seeds"] / 2
