"""Reads the rules of Choice states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from antiphon.policy.asl import choices, quantities, templates
from antiphon.policy.asl.fields import Fields, variable
from antiphon.policy.asl.scope import Expression, constant
from antiphon.policy.asl.templates import Parts

_DEEPEST = 12
_COMBINERS = ("And", "Or", "Not")


def by_jsonata(fields: Fields, rule: Mapping[str, Any], at: Parts) -> choices.Condition:
    """The condition of a rule in JSONata."""
    fields.is_object(rule, at, {"Condition", "Next", "Output", "Assign", "Comment"})
    value = rule.get("Condition")
    condition = fields.compiled(value, (*at, "Condition"))
    if condition is None and not isinstance(value, bool):
        fields.report((*at, "Condition"), "it has to be an expression in {% %}, true or false")
    return quantities.condition(condition or constant(value), str(value))


def by_path(fields: Fields, rule: Mapping[str, Any], at: Parts, *, is_first: bool = True) -> choices.Condition:
    """The condition of a rule in JSONPath, or of one of the rules that it is made of."""
    words = rule.keys() - {"Comment", "Variable", "Next", "Assign"}
    if len(words) != 1:
        fields.report(at, f"a rule has one operator; this has {', '.join(sorted(words)) or 'none'}")
        return lambda _: False
    (word,) = words
    if not is_first and rule.keys() & {"Next", "Assign"}:
        fields.report(at, "only the outermost rule has Next and Assign")
    if word in _COMBINERS:
        return _combined(fields, word, rule, at)
    looked_at = fields.read_text((*at, "Variable"), variable, rule.get("Variable"))
    compared = _compared(fields, word, rule[word], (*at, word))
    if looked_at is None or compared is None:
        return lambda _: False
    name = word.removesuffix("Path")
    if name == "IsPresent":
        return choices.present(looked_at, compared)
    make = choices.typed if name in choices.TESTS else choices.comparison
    return make(looked_at, name, compared)


def _combined(fields: Fields, word: str, rule: Mapping[str, Any], at: Parts) -> choices.Condition:
    value = rule[word]
    if "Variable" in rule:
        fields.report((*at, "Variable"), f"{word} has none")
    if sum(part in _COMBINERS for part in at) >= _DEEPEST:
        fields.report(at, f"rules are nested deeper than {_DEEPEST} levels")
        return lambda _: False
    if word == "Not":
        if not isinstance(value, dict):
            fields.report((*at, word), "it has to be a rule")
            return lambda _: False
        inner = by_path(fields, value, (*at, word), is_first=False)
        return lambda scope: not inner(scope)
    if not isinstance(value, list) or not value or not all(isinstance(each, dict) for each in value):
        fields.report((*at, word), "it has to be a list of at least one rule")
        return lambda _: False
    rules = [by_path(fields, each, (*at, word, number), is_first=False) for number, each in enumerate(value)]
    if word == "And":
        return lambda scope: all(each(scope) for each in rules)
    return lambda scope: any(each(scope) for each in rules)


def _compared(fields: Fields, word: str, value: Any, at: Parts) -> Expression | None:
    """What an operator compares with."""
    name = word.removesuffix("Path")
    if name == "IsPresent" or name in choices.TESTS:
        if isinstance(value, bool) and name == word:
            return constant(value)
        fields.report(at, "it has to be true or false")
    elif name not in choices.COMPARISONS or word == "StringMatchesPath":
        fields.report(at, f"there is no operator {word}")
    elif name != word:
        return fields.read_text(at, templates.path_or_call, value)
    elif choices.COMPARISONS[name][0](value):
        return constant(value)
    else:
        fields.report(at, f"{value!r} is nothing that {word} compares with")
    return None
