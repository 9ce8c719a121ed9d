"""Sagas without a conductor: what a failure leaves done that nothing undoes, known from the declarations alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """A handler or route: the events (by any id) that it *takes* and *publishes*, whether it *keeps* anything that
    could have to be undone, and the name of the step that it *undoes*.

    One that *conducts* is a workflow: it undoes what it has asked for, which its function says and no declaration.
    """

    name: str
    takes: tuple[str, ...]
    publishes: tuple[str, ...]
    keeps: bool = False
    undoes: str | None = None
    conducts: bool = False


def left_done(steps: Sequence[Step], failures: Iterable[str]) -> list[tuple[str, Step, Step]]:
    """Each failure event with the step that publishes it, and an earlier one whose work nothing after it undoes.

    Earlier are the handlers through which the process came there; what undoes, or only passes on, is none of them.
    A failure that a workflow publishes, or takes, is the workflow's own business.
    """
    takers = _by_event(steps, lambda step: step.takes)
    publishers = _by_event(steps, lambda step: step.publishes)
    found = []
    for failure in failures:
        if any(step.conducts for step in takers.get(failure, ())):
            continue
        undone = {step.undoes for step in _onward([failure], takers)}
        for failing in publishers.get(failure, ()):
            if failing.conducts:
                continue
            earlier = _backward(failing, publishers)
            found += [
                (failure, failing, step)
                for step in steps
                if step in earlier and step.takes and step.keeps and step.undoes is None and step.name not in undone
            ]
    return found


def never_triggered(steps: Sequence[Step]) -> list[Step]:
    """Compensations of which no event follows from what they undo."""
    takers = _by_event(steps, lambda step: step.takes)
    by_name = {step.name: step for step in steps}
    found = []
    for step in steps:
        undone = by_name.get(step.undoes or "")
        if undone is None:
            continue
        following = _onward(undone.publishes, takers)
        events = {*undone.publishes, *(event for each in following for event in each.publishes)}
        if events.isdisjoint(step.takes):
            found.append(step)
    return found


def _onward(events: Iterable[str], takers: Mapping[str, list[Step]]) -> set[Step]:
    """All steps that follow from *events*."""
    found: set[Step] = set()
    waiting = list(events)
    while waiting:
        for step in takers.get(waiting.pop(), ()):
            if step not in found:
                found.add(step)
                waiting += step.publishes
    return found


def _backward(step: Step, publishers: Mapping[str, list[Step]]) -> set[Step]:
    """All steps that lead to *step*, but itself."""
    found: set[Step] = set()
    waiting = list(step.takes)
    while waiting:
        for earlier in publishers.get(waiting.pop(), ()):
            if earlier not in found and earlier is not step:
                found.add(earlier)
                waiting += earlier.takes
    return found


def _by_event(steps: Sequence[Step], side: Callable[[Step], tuple[str, ...]]) -> dict[str, list[Step]]:
    found: dict[str, list[Step]] = {}
    for step in steps:
        for event in side(step):
            found.setdefault(event, []).append(step)
    return found
