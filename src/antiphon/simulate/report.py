"""What a search has come to, in words and as JSON."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import msgspec

from antiphon.simulate.search import Found, Outcome

_MOST_LINES = 120


def replay_command(reference: str, found: Found) -> str:
    """The command that shows a violation again."""
    words = ["antiphon", "simulate", reference, "--seed", str(found.seed), "--events", str(found.events)]
    return shlex.join([*words, "--schedule", found.schedule])


def as_json(reference: str, outcome: Outcome) -> dict[str, Any]:
    """The figures of a search, and what it found."""
    cpu_s = max(outcome.cpu_seconds, 1e-9)
    figures: dict[str, Any] = {
        "seeds": outcome.seeds,
        "events": outcome.events,
        "runs": outcome.runs,
        "faults": outcome.faults,
        "faults_by_kind": outcome.faults_by_kind,
        "crashes": outcome.crashes,
        "violations": sum(map(len, outcome.violating.values())),
        "trace_hash": outcome.digest,
        "points": outcome.points,
        "virtual_seconds": round(outcome.virtual_seconds, 3),
        "cpu_seconds": round(outcome.cpu_seconds, 3),
        "points_per_cpu_second": round(outcome.points / cpu_s),
        "times_real_time": round(outcome.virtual_seconds / cpu_s),
    }
    if outcome.violating:
        figures["violating_seeds"] = sorted(outcome.violating)
    if outcome.found is not None:
        figures["found"] = {
            **msgspec.to_builtins(outcome.found),
            "replay": replay_command(reference, outcome.found),
        }
    if outcome.reports:
        figures["reports"] = [msgspec.to_builtins(report) for report in outcome.reports]
    return figures


def as_text(reference: str, outcome: Outcome) -> Iterator[str]:
    """The same in lines."""
    for report in outcome.reports:
        yield f"not deterministic: {report}"
    figures = as_json(reference, outcome)
    if outcome.found is not None:
        yield from _found(reference, outcome.found)
        others = [seed for seed in sorted(outcome.violating) if seed != outcome.found.seed]
        if others:
            yield f"also violated by {len(others)} more seeds: {', '.join(map(str, others[:20]))}"
        yield ""
    yield (
        f"{figures['seeds']:,} seeds, {figures['runs']:,} runs, {figures['events']:,} events, "
        f"{figures['faults']:,} faults, {figures['crashes']:,} crashes: {figures['violations'] or 'no'} violations"
    )
    yield (
        f"{figures['points']:,} effect points in {figures['cpu_seconds']:,.1f} CPU seconds "
        f"({figures['points_per_cpu_second']:,} a second), {figures['virtual_seconds']:,.0f} virtual seconds "
        f"({figures['times_real_time']:,} times real time); trace {outcome.digest}"
    )


def _found(reference: str, found: Found) -> Iterator[str]:
    for violation in dict.fromkeys(found.violations):
        yield f"VIOLATION of {violation.name}: {violation.text}"
    yield f"seed {found.seed}, {found.events} events"
    if found.shrunk and found.schedule != found.drawn:
        yield f"faults, shrunk from {len(found.drawn.split())} in {found.runs} runs: {found.schedule or 'none needed'}"
    else:
        yield f"faults: {found.schedule or 'none'}"
    lines = found.timeline
    yield "timeline:"
    if len(lines) > _MOST_LINES:
        half = _MOST_LINES // 2
        lines = [*lines[:half], f"... {len(lines) - 2 * half} lines ...", *lines[-half:]]
    yield from (f"  {line}" for line in lines)
    yield f"replay: {replay_command(reference, found)}"
