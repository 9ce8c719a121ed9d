"""Contracts between services: what a consumer reads of a producer's events, in a file that both builds check.

The consumer records its expectations and commits the file; the producer checks its event classes against it, and
is told by name what is missing, renamed, of another type, or never sent.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import msgspec

from antiphon.app import App
from antiphon.errors import DeclarationError
from antiphon.model.events import EventType, event_type_of
from antiphon.model.shape import all_fields
from antiphon.service import Service
from antiphon.testing.jsontypes import Describer, JsonType, misfit

Producer = App | Service | type[Any]


class ContractBroken(AssertionError):
    """What a producer sends is not what a consumer reads, or the file is not what the consumer's code says."""


class Contract:
    """What *consumer* reads of the events of *producer*, both named as services are."""

    def __init__(self, consumer: str, producer: str) -> None:
        self._consumer = consumer
        self._producer = producer
        self._events: dict[str, dict[str, Any]] = {}

    def reads(self, example: object, *fields: str) -> Contract:
        """It reads these *fields* (none: all) of events such as *example*. Said again, both add up.

        Raises InvalidEvent for an example that could not be published, DeclarationError for a field that is none.
        """
        event_type = event_type_of(example)
        json_names = dict(all_fields(event_type.cls))
        if unknown := [name for name in fields if name not in json_names]:
            raise DeclarationError(
                f"no field {', '.join(unknown)}", where=event_type.name, mend=f"Its fields are {', '.join(json_names)}"
            )
        described = Describer(reading=True).fields(event_type.cls)
        data = json.loads(event_type.encode(example))
        read = [json_names[name] for name in fields or json_names]
        expected = self._events.setdefault(
            event_type.name, {"versions": event_type.known_versions, "fields": {}, "examples": []}
        )
        for name in read:
            expected["fields"][name] = described[name]
        shown = {name: data[name] for name in read if name in data}
        if shown not in expected["examples"]:
            expected["examples"].append(shown)
        return self

    def save(self, path: str | Path) -> None:
        """Write the file, to be committed and given to the producer."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(self._text(), encoding="utf-8")

    def assert_saved(self, path: str | Path) -> None:
        """The file says what this code says. Raises ContractBroken if it has to be written again."""
        found = Path(path).read_text(encoding="utf-8") if Path(path).exists() else None
        if found != self._text():
            why = "is not there" if found is None else "says something else"
            raise ContractBroken(f"{path} {why}; write it with contract.save(...), and tell {self._producer}")

    def _text(self) -> str:
        value = {"consumer": self._consumer, "producer": self._producer, "events": self._events}
        return json.dumps(value, indent=2, sort_keys=True) + "\n"


def assert_kept(path: str | Path, *producers: Producer) -> None:
    """The event classes of *producers* (an app, services, or the classes) give the consumer what it reads.

    *path* is a contract's file, or a directory of them. Raises ContractBroken with everything that does not fit,
    FileNotFoundError if there is no contract.
    """
    files = sorted(Path(path).glob("*.json")) if Path(path).is_dir() else [Path(path)]
    if not files:
        raise FileNotFoundError(f"no contract in {path}")
    known = {event_type.name: event_type for each in producers for event_type in _published(each)}
    problems = [problem for file in files for problem in _problems(json.loads(file.read_text("utf-8")), known)]
    if problems:
        raise ContractBroken("\n".join(problems))


def _published(producer: Producer) -> Iterable[EventType]:
    if isinstance(producer, type):
        return [event_type_of(producer)]
    specs = producer.specs if isinstance(producer, App) else [producer.spec]
    publishes = [each.publishes for spec in specs for each in spec.handlers]
    publishes += [each.publishes for spec in specs for each in spec.routes]
    return [event_type for types in publishes for event_type in types]


def _problems(contract: dict[str, Any], known: dict[str, EventType]) -> list[str]:
    found = []
    for name, expected in contract["events"].items():
        reader = f"{contract['consumer']} reads {name}"
        if name not in known:
            similar = get_close_matches(name, known, 1)
            hint = f"; perhaps it was renamed to {similar[0]}" if similar else ""
            found.append(f"{reader}, which nobody here publishes{hint}")
            continue
        found += [f"{reader}{problem}" for problem in _event_problems(expected, known[name])]
    return found


def _event_problems(expected: dict[str, Any], event_type: EventType) -> Iterable[str]:
    if event_type.version not in expected["versions"]:
        versions = ", ".join(map(str, expected["versions"]))
        yield f" in version {versions}; it is published in version {event_type.version}"
    written = Describer(reading=False).fields(event_type.cls)
    for name, wanted in expected["fields"].items():
        if name not in written:
            if not _may_be_missing(wanted):
                yield f".{name}, which it does not have{_renamed(name, wanted, written, expected['fields'])}"
        elif why := misfit(written[name], wanted):
            yield f".{name}{why}"
        else:
            values = [example[name] for example in expected["examples"] if name in example]
            yield from (
                f".{name} as {json.dumps(v)}, which it cannot be: {e}" for v, e in _unsent(event_type, name, values)
            )


def _renamed(name: str, wanted: JsonType, written: dict[str, JsonType], read: dict[str, JsonType]) -> str:
    """The field that the one of *name* has become, if that can be guessed: by its name, or by its type alone."""
    others = [other for other in written if other not in read]
    similar = get_close_matches(name, others, 1)
    alike = [other for other in others if written[other] == wanted]
    guess = similar or (alike if len(alike) == 1 else [])
    return f"; perhaps it was renamed to {guess[0]}" if guess else ""


def _may_be_missing(wanted: JsonType) -> bool:
    return isinstance(wanted, dict) and "optional" in wanted


def _unsent(event_type: EventType, name: str, values: list[Any]) -> Iterable[tuple[Any, str]]:
    """Of *values* those that the field of this JSON name never has, and why."""
    attribute = next(each for each, json_name in all_fields(event_type.cls) if json_name == name)
    for value in values:
        try:
            _decode(event_type, attribute, json.dumps(value).encode())
        except ValueError as error:  # msgspec's and Pydantic's ValidationErrors are
            details = getattr(error, "errors", None)
            yield value, details()[0]["msg"] if details else str(error)


def _decode(event_type: EventType, attribute: str, data: bytes) -> None:
    if event_type.kind == "pydantic":
        from pydantic import TypeAdapter

        info = event_type.cls.__pydantic_fields__[attribute]  # type: ignore[attr-defined]
        declared: Any = Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation
        TypeAdapter[Any](declared).validate_json(data, strict=True)
    else:
        msgspec.json.decode(data, type=get_type_hints(event_type.cls, include_extras=True)[attribute])
