"""Commands and their replies: what is asked of one service, and what answers it.

A command is declared like an event, with the service that it goes to and the events that may answer it::

    class ReserveStock(Command[StockReserved | StockRefused], key="order_id", to="inventory"):
        order_id: str
        quantity: int
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar, dataclass_transform

import msgspec

from antiphon.errors import DeclarationError
from antiphon.model.delivery import Status
from antiphon.model.events import Event, EventMeta, EventType, event, event_type_of

R_co = TypeVar("R_co", covariant=True)
_C = TypeVar("_C", bound=type)


class Refused(Event, type="antiphon.refused"):
    """The answer to a command that became a dead letter: it was refused (ERROR), or its attempts, its age or its
    deadline are used up (FAILED). Nothing of its handler's work was kept."""

    request_id: str
    command: str
    status: Status
    reason: str


class TimedOut(Event, type="antiphon.timed-out", domain=True):
    """No answer came to a command within the time that its requester gave it. One may still come: it is late."""

    request_id: str
    command: str


#: The types that may answer any command, beside those that it names.
OUTCOMES = (event_type_of(Refused), event_type_of(TimedOut))


class CommandMeta(EventMeta):
    """Takes ``to`` out of the class statement, and the replies out of ``Command[...]``."""

    def __new__(
        mcls: Any,
        name: str,
        bases: tuple[Any, ...],
        namespace: dict[str, Any],
        /,
        *,
        to: str | None = None,
        **options: Any,
    ) -> Any:
        cls: Any = super().__new__(mcls, name, bases, namespace, **options)
        if not any(isinstance(base, CommandMeta) for base in bases):
            return cls  # Command itself
        parent = next((known for base in bases if (known := getattr(base, "__event_type__", None))), None)
        replies = _replies_of_bases(namespace.get("__orig_bases__", ()), name) or (parent.replies if parent else ())
        _address(cls.__event_type__, to or (parent.target if parent else None), replies)
        return cls


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Command(msgspec.Struct, Generic[R_co], frozen=True, metaclass=CommandMeta):
    """The base of commands: something asked of one service, which may refuse it.

    ``Command[A | B]`` names the events that answer it; ``to`` is the service whose handler does. All other options
    are those of `Event`.
    """


def command(
    *, to: str, reply: Any, key: str | None = None, version: int = 1, type: str | None = None
) -> Callable[[_C], _C]:
    """Make a command of a Pydantic model or a dataclass: *to* is the service that it goes to, *reply* the event
    class that answers it, or a union of several.

    Raises DeclarationError as `event` does.
    """

    def declare(cls: _C) -> _C:
        declared = event(key=key, version=version, type=type)(cls)
        _address(event_type_of(declared), to, tuple(_event_types(reply, cls.__qualname__)))
        return declared

    return declare


def answers(event_type: EventType) -> tuple[EventType, ...]:
    """All types of which the answer to a command may be: those that it names, and the outcomes of any command."""
    return (*event_type.replies, *OUTCOMES)


def _address(event_type: EventType, to: str | None, replies: tuple[EventType, ...]) -> None:
    where = event_type.cls.__qualname__
    if not isinstance(to, str) or not to:
        raise DeclarationError(
            "a command goes to one service, which is not said", where=where, mend='Name it: to="inventory"'
        )
    if not replies:
        raise DeclarationError(
            "no event is named that answers it", where=where, mend="Name one or more: Command[StockReserved | ...]"
        )
    if event_type.domain:
        raise DeclarationError("a command cannot stay inside its service: domain= is an event's option", where=where)
    event_type.target = to
    event_type.replies = replies


def _replies_of_bases(bases: tuple[Any, ...], where: str) -> tuple[EventType, ...]:
    for base in bases:
        if isinstance(typing.get_origin(base), CommandMeta):
            return tuple(_event_types(typing.get_args(base)[0], where))
    return ()


def _event_types(annotation: Any, where: str) -> Iterator[EventType]:
    """The event types that *annotation*, a class or a union of classes, names."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        for member in typing.get_args(annotation):
            yield from _event_types(member, where)
        return
    try:
        found = event_type_of(annotation)
    except DeclarationError:
        found = None
    if found is None or found.target is not None:
        raise DeclarationError(
            f"{annotation!r} cannot answer a command",
            where=where,
            mend="Name event classes that are defined above it, joined by |",
        )
    yield found
