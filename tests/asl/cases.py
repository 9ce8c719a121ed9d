"""Measures the state machines against cases recorded elsewhere: ``python -m tests.asl.cases [--json]``.

Each case that can be executed runs on the durable engine, in virtual time: its Tasks answer as the case's mocks say.
Its outcome, and where nothing runs beside anything else the order of its states, have to be those of the recording.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from antiphon import Event, Service, Workflow
from antiphon.errors import DeclarationError, StateFailed
from antiphon.model.events import EventMeta
from antiphon.policy.asl.loading import load
from tests.runtime.kit import running

CASES = Path(__file__).parents[3] / "shared" / "cases" / "asl_cases.json"
#: Runs of one store: a service has a handler for each machine.
_BATCH = 60
#: Virtual seconds; the longest case waits and retries for some of them.
_LONGEST_S = 3_000

# What the recordings hold that is meant differently here, with the reason.
DIFFERENT = {
    "definition_type_express": "there are no EXPRESS machines, which allow less",
    "invalid-json-surround-syntax-extra-spaces.json": "an expression may have spaces and lines around it",
}


@dataclass(frozen=True)
class Outcome:
    """What has become of a case: ``passed``, ``failed``, ``refused`` or ``skipped``, and why."""

    test: str
    state: str
    why: str = ""


def cases() -> list[dict[str, Any]]:
    """All cases; none where the file is absent."""
    return json.loads(CASES.read_text(encoding="utf-8")) if CASES.exists() else []


def is_executable(case: Mapping[str, Any]) -> bool:
    """Whether a case can be run: nothing outside of it is needed, or it says how that answers."""
    return bool(case["kind"] == "execute" and (case["self_contained"] or case["mockable"]))


class Mocks:
    """The tasks of one case: each call of a state gives its next answer, the last one again and again."""

    def __init__(self, mocks: Mapping[str, list[dict[str, Any]]] | None) -> None:
        self.answers = {name: iter([*answers, *[answers[-1]] * 100]) for name, answers in (mocks or {}).items()}

    def resources(self, definition: Mapping[str, Any]) -> dict[str, Any]:
        """What stands for each resource of *definition*."""
        return {resource: self._answering(name) for name, resource in _tasks(definition)}

    def _answering(self, state: str) -> Any:
        def answer(_input: Any) -> Any:
            told = next(self.answers[state])
            if "Throw" in told:
                raise StateFailed(told["Throw"].get("Error"), told["Throw"].get("Cause"))
            return told["Return"]

        async def call(given: Any) -> Any:
            return answer(given)

        return call


def _tasks(definition: Any) -> Iterator[tuple[str, str]]:
    """The names of the Task states of a definition, with their resources."""
    for name, state in definition.get("States", {}).items():
        if state.get("Type") == "Task":
            yield name, state["Resource"]
        for inner in (*state.get("Branches", ()), state.get("ItemProcessor"), state.get("Iterator")):
            if inner is not None:
                yield from _tasks(inner)


def check_validation(case: Mapping[str, Any]) -> Outcome:
    """Whether a definition is taken, or refused, as the case expects."""
    test, wanted = case["test"], case["expected"]["valid"]
    try:
        load(case["definition"])
    except DeclarationError as error:
        if "is not supported" in str(error) and wanted:
            return Outcome(test, "refused", str(error))
        return Outcome(test, "failed" if wanted else "passed", str(error))
    if why := next((why for part, why in DIFFERENT.items() if part in test), None):
        return Outcome(test, "skipped", why)
    return Outcome(test, "passed" if wanted else "failed", "" if wanted else "taken, and it is wrong")


async def execute(batch: list[Mapping[str, Any]]) -> list[Outcome]:
    """Run some cases on one store, beside each other."""
    service = Service("cases")
    outcomes: dict[int, Outcome] = {}
    begun: dict[int, Any] = {}
    for number, case in enumerate(batch):
        kind: Any = EventMeta(f"Case{number}", (Event,), {"__annotations__": {"input": Any}, "__module__": __name__})
        try:
            machine = Workflow.from_asl(
                case["definition"],
                name=f"case_{number}",
                starts=kind,
                resources=Mocks(case.get("mocks")).resources(case["definition"]),
                input=lambda event: event.input,
            )
        except DeclarationError as error:
            outcomes[number] = Outcome(case["test"], "refused", str(error))
            continue
        service.add(machine)
        begun[number] = kind(case["input"])
    with tempfile.TemporaryDirectory() as folder:
        async with running(Path(folder), service) as world:
            await world.publish("cases", *begun.values())
            await world.clock.advance(_LONGEST_S, over_upkeep=True)
            rows = await world.rows("SELECT workflow, state, result, error FROM antiphon_runs")
            dead = await world.rows("SELECT handler, reason FROM antiphon_dead_letters")
    ended = {int(str(name).rpartition("_")[2]): (state, result, error) for name, state, result, error in rows}
    for number in begun:
        case = batch[number]
        if number not in ended:
            outcomes[number] = Outcome(case["test"], "failed", f"no run: {dead[:1]}")
            continue
        outcomes[number] = _compared(case, *ended[number])
    return [outcomes[number] for number in range(len(batch))]


def _compared(case: Mapping[str, Any], state: Any, result: Any, error: Any) -> Outcome:
    test, expected = case["test"], case["expected"]
    if expected["status"] == "SUCCEEDED":
        if state != "COMPLETED":
            return Outcome(test, "failed", f"{state}: {error}")
        told = json.loads(result)["value"] if result else None
        same = _normal(told) == _normal(expected["output"])
        return Outcome(test, "passed" if same else "failed", "" if same else f"{told} for {expected['output']}")
    wanted = expected.get("error") or "no error is named"
    right = state == "FAILED" and str(error).partition(": ")[2].startswith(wanted)
    return Outcome(test, "passed" if right else "failed", "" if right else f"{state} {error}, not {wanted}")


def _normal(value: Any) -> Any:
    """Texts that hold JSON are parsed; 1 and 1.0 are the same."""
    if isinstance(value, str):
        try:
            inner = json.loads(value)
        except ValueError:
            return value
        return value if isinstance(inner, str) and inner == value else _normal(inner)
    if isinstance(value, list):
        return [_normal(each) for each in value]
    if isinstance(value, dict):
        return {name: _normal(each) for name, each in value.items()}
    return ("number", float(value)) if isinstance(value, int | float) and not isinstance(value, bool) else value


async def measure() -> list[Outcome]:
    """The outcome of every case, in the order of the file."""
    found: dict[int, Outcome] = {}
    wanted = cases()
    executed: list[int] = []
    for number, case in enumerate(wanted):
        if case["kind"] == "validate":
            found[number] = check_validation(case)
        elif is_executable(case):
            executed.append(number)
        else:
            found[number] = Outcome(case["test"], "skipped", "it needs what is outside of it")
    for first in range(0, len(executed), _BATCH):
        numbers = executed[first : first + _BATCH]
        outcomes = await execute([wanted[number] for number in numbers])
        found.update(zip(numbers, outcomes, strict=True))
    return [found[number] for number in range(len(wanted))]


def main() -> int:
    """Print how many cases there are of each outcome, and those that failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    outcomes = asyncio.run(measure())
    counts = Counter(each.state for each in outcomes)
    if options.json:
        print(json.dumps({"cases": len(outcomes), **counts}))
    else:
        for each in outcomes:
            if each.state != "passed":
                print(f"{each.state:<8} {each.test}: {each.why}"[:400])
        print(f"{len(outcomes)} cases: {', '.join(f'{count} {state}' for state, count in counts.items())}")
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
