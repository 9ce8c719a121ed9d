"""How a state machine is declared: its definition, what its tasks call, and what starts it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from antiphon.errors import DeclarationError
from antiphon.model.events import EventType, event_type_of
from antiphon.policy.asl.loading import load
from antiphon.policy.asl.machine import Machine, Task
from antiphon.runtime.workflow.resources import Asked, Published, Resource, resources_of
from antiphon.runtime.workflow.steps import write

#: A definition: its JSON text, what is in it, or the file that holds it.
Definition = str | bytes | Mapping[str, Any] | Path


@dataclass(frozen=True)
class StateMachine:
    """A definition, and what its tasks call; a service carries it when it is added to one."""

    name: str
    machine: Machine
    resources: Mapping[str, Resource]
    starts: tuple[EventType, ...]
    awaits: tuple[EventType, ...]
    publishes: tuple[EventType, ...]
    key: str | Callable[[Any], Any] | None
    version: int
    concurrency: int
    input_of: Callable[[Any], Any] | None

    def input(self, event: Any) -> Any:
        """The input of the run that *event* begins: its data, unless a function says otherwise."""
        if self.input_of is not None:
            return msgspec.json.decode(write(self.input_of(event)))
        return msgspec.json.decode(event_type_of(event).encode(event))


def declared(
    definition: Definition,
    name: str,
    resources: Mapping[str, Any],
    starts: type[Any] | tuple[type[Any], ...],
    *,
    undo: Mapping[str, Any],
    publishes: tuple[type[Any], ...],
    key: str | Callable[[Any], Any] | None,
    version: int,
    concurrency: int,
    input_of: Callable[[Any], Any] | None,
) -> StateMachine:
    """See `Workflow.from_asl`."""
    where = f"state machine {name!r}"
    text = definition.read_bytes() if isinstance(definition, Path) else definition
    machine = load(text, where)
    found = resources_of(resources, undo)
    if missing := {each.function or each.resource: None for each in machine.tasks if not _is_known(each, found)}:
        raise DeclarationError(
            f"its tasks call {', '.join(missing)}, for which there is no function",
            where=where,
            mend="Say resources={the resource: the function}",
        )
    told = [kind for each in found.values() if isinstance(each, Asked | Published) for kind in each.publishes]
    awaited = [kind for each in found.values() if isinstance(each, Asked) for kind in each.awaits]
    first = starts if isinstance(starts, tuple) else (starts,)
    if not first:
        raise DeclarationError("no event starts it", where=where, mend="Say starts=TheEvent")
    return StateMachine(
        name=name,
        machine=machine,
        resources=found,
        starts=tuple(event_type_of(each) for each in first),
        awaits=tuple(dict.fromkeys(awaited)),
        publishes=tuple(dict.fromkeys([*told, *(event_type_of(each) for each in publishes)])),
        key=key,
        version=version,
        concurrency=concurrency,
        input_of=input_of,
    )


def _is_known(task: Task, resources: Mapping[str, Resource]) -> bool:
    """Whether there is something for *task* to call, as far as it is known before it runs."""
    return task.resource in resources or (task.invokes and (task.function is None or task.function in resources))
