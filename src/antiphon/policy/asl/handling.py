"""Reads what happens when a state fails: its retriers and its catchers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from antiphon.policy.asl.failures import ALL
from antiphon.policy.asl.fields import Fields
from antiphon.policy.asl.machine import LONGEST_DELAY, Catcher, Flow, Retrier
from antiphon.policy.asl.templates import Parts

_RETRIER_FIELDS = frozenset(
    {"ErrorEquals", "IntervalSeconds", "MaxAttempts", "BackoffRate", "MaxDelaySeconds", "JitterStrategy", "Comment"}
)


def retriers(fields: Fields) -> tuple[Retrier, ...]:
    """Those of a state's Retry."""
    found = []
    for at, each in fields.items_of("Retry"):
        if not fields.is_object(each, at, _RETRIER_FIELDS):
            continue
        interval = fields.count(each, at, "IntervalSeconds", 1, default=1)
        longest = fields.count(each, at, "MaxDelaySeconds", 1, default=None, most=int(LONGEST_DELAY))
        rate = each.get("BackoffRate", 2.0)
        if not isinstance(rate, int | float) or isinstance(rate, bool) or rate < 1:
            fields.report((*at, "BackoffRate"), "it has to be a number from 1.0")
            rate = 2.0
        if longest is not None and longest <= interval:
            fields.report((*at, "MaxDelaySeconds"), "it has to be above IntervalSeconds")
        strategy = each.get("JitterStrategy", "NONE")
        if strategy not in ("FULL", "NONE"):
            fields.report((*at, "JitterStrategy"), f"it is {strategy!r}; it has to be FULL or NONE")
        attempts = fields.count(each, at, "MaxAttempts", 0, default=3)
        errors = _errors(fields, each, at)
        found.append(Retrier(errors, interval, attempts, float(rate), longest, strategy == "FULL"))
    _check_last(fields, ("Retry",), [each.errors for each in found])
    return tuple(found)


def catchers(fields: Fields) -> tuple[Catcher, ...]:
    """Those of a state's Catch."""
    found = []
    known = {"ErrorEquals", "Next", "Comment", "Assign"} | ({"Output"} if fields.jsonata else {"ResultPath"})
    for at, each in fields.items_of("Catch"):
        if not fields.is_object(each, at, known):
            continue
        flow = Flow(
            jsonata=fields.jsonata,
            merges=fields.result_path(each, at),
            gives=fields.template(each, at, "Output"),
            assigns=fields.assigns(each, at),
        )
        found.append(Catcher(_errors(fields, each, at), fields.target(each.get("Next"), (*at, "Next")), flow))
    _check_last(fields, ("Catch",), [each.errors for each in found])
    return tuple(found)


def _errors(fields: Fields, value: Mapping[str, Any], at: Parts) -> tuple[str, ...]:
    errors = value.get("ErrorEquals")
    if not isinstance(errors, list) or not errors or not all(isinstance(each, str) for each in errors):
        fields.report((*at, "ErrorEquals"), "it has to be a list of at least one error name")
        return ()
    if ALL in errors and len(errors) > 1:
        fields.report((*at, "ErrorEquals"), f"{ALL} has to stand alone")
    return tuple(errors)


def _check_last(fields: Fields, at: Parts, errors: list[tuple[str, ...]]) -> None:
    if any(ALL in each for each in errors[:-1]):
        fields.report(at, f"what comes after {ALL} is never reached")
