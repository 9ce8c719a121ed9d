"""What a function takes and what it publishes, read from its annotations."""

from __future__ import annotations

import inspect
import typing
from collections import abc
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import NoneType, UnionType
from typing import Any, Never, NoReturn, Union

from antiphon.errors import DeclarationError
from antiphon.model.events import EventType, event_type_of
from antiphon.model.handlers import ParameterKind

#: (top package, class) -> what a parameter of that type receives. Compared by name, so that nothing is
#: imported for it: a service that has no SQLAlchemy handler needs no SQLAlchemy.
_KINDS: dict[tuple[str, str], ParameterKind] = {
    ("antiphon", "Transaction"): "transaction",
    ("antiphon", "SyncTransaction"): "sync_transaction",
    ("antiphon", "Delivery"): "delivery",
    ("antiphon", "Effects"): "effects",
    ("sqlalchemy", "AsyncSession"): "session",
}
_ONLY_ASYNC: frozenset[ParameterKind] = frozenset({"transaction", "session", "effects"})
_NOTHING = (None, NoneType, Never, NoReturn)
_MANY = (list, tuple, abc.Sequence, abc.Iterable, abc.Collection)
_ALLOWED = "Transaction, SyncTransaction (in a plain def), Delivery, Effects or SQLAlchemy's AsyncSession"
_ONLY_HANDLERS: dict[ParameterKind, str] = {"delivery": "a Delivery", "effects": "an Effects"}


class UnresolvedName(DeclarationError):
    """An annotation names something that does not exist (yet)."""


def resolve(
    fn: Callable[..., Any], local_names: Mapping[str, Any], where: str, *, extras: bool = False
) -> dict[str, Any]:
    """The annotations of *fn* as objects; with *extras* as they stand within ``Annotated``.

    Raises UnresolvedName where one is not defined yet, DeclarationError where one makes no sense.
    """
    try:
        return typing.get_type_hints(fn, localns=dict(local_names) or None, include_extras=extras)
    except (NameError, AttributeError) as error:
        raise UnresolvedName(
            f"an annotation cannot be resolved: {error}",
            where=where,
            mend="Import the class when the program runs, not only under TYPE_CHECKING",
        ) from error
    except Exception as error:
        raise DeclarationError(f"an annotation cannot be read: {error}", where=where) from error


def event_type_or_none(annotation: object) -> EventType | None:
    """The event type that *annotation* names, None if it is no event class."""
    if not isinstance(annotation, type):
        return None
    try:
        return event_type_of(annotation)
    except DeclarationError:
        return None


def published(hints: Mapping[str, Any], where: str) -> tuple[EventType, ...]:
    """The event types that the return annotation of a handler names; none without an annotation.

    Raises DeclarationError for an annotation that is not made of events.
    """
    types: dict[EventType, None] = {}
    for leaf in _leaves(hints.get("return")):
        event_type = event_type_or_none(leaf)
        if event_type is None:
            raise DeclarationError(
                f"the return annotation names {_shown(leaf)}, which is not an event class",
                where=where,
                mend="A handler returns event classes, a union of them, None, or a list, tuple, Sequence or "
                "Iterable of them",
            )
        types[event_type] = None
    return tuple(types)


def check_commands(takes: Iterable[EventType], publishes: Iterable[EventType], service: str, where: str) -> None:
    """Raise DeclarationError for a command that goes to another service, or that its handler can never answer."""
    named = set(publishes)
    for command in takes:
        if command.target is None:
            continue
        if command.target != service:
            raise DeclarationError(
                f"{command.name} goes to service {command.target!r}, not to {service!r}",
                where=where,
                mend=f"Handle it there, or declare it with to={service!r}",
            )
        if named.isdisjoint(command.replies):
            raise DeclarationError(
                f"nothing that it returns answers {command.name}",
                where=where,
                mend=f"Its answers are {_listed(reply.name for reply in command.replies)}: name them in the return "
                "annotation",
            )


def events_in_result(hints: Mapping[str, Any]) -> tuple[EventType, ...]:
    """The event types among what a route's return annotation names; other classes are its response's."""
    found = (event_type_or_none(leaf) for leaf in _leaves(hints.get("return")))
    return tuple(dict.fromkeys(event_type for event_type in found if event_type is not None))


def may_publish_nothing(fn: Callable[..., Any]) -> bool:
    """Whether the return annotation of a handler lets it publish nothing: None, or a list that may be empty.

    An annotation that cannot be resolved here counts as one that does.
    """
    try:
        hints = resolve(fn, {}, "")
    except DeclarationError:
        return True
    members = list(_members(hints.get("return")))
    return any(member in _NOTHING or typing.get_origin(member) in _MANY for member in members)


def events_of_first_parameter(fn: Callable[..., Any], hints: Mapping[str, Any], where: str) -> tuple[EventType, ...]:
    """The event types that the first parameter of *fn* is annotated with.

    Raises DeclarationError if it names none.
    """
    first = next(iter(inspect.signature(fn).parameters), None)
    members = [] if first is None else list(_members(hints.get(first)))
    types = [event_type for member in members if (event_type := event_type_or_none(member)) is not None]
    if not types or len(types) < len(members):
        raise DeclarationError(
            "which event it handles is not said",
            where=where,
            mend="Name the event classes in on(...), or annotate the first parameter with them",
        )
    return tuple(types)


def parameters(
    fn: Callable[..., Any], hints: Mapping[str, Any], events: tuple[EventType, ...], where: str
) -> tuple[tuple[str, ParameterKind], ...]:
    """What each parameter of *fn* receives, in order.

    Raises DeclarationError naming the parameter that nothing can be given for.
    """
    found: list[tuple[str, ParameterKind]] = []
    for parameter in inspect.signature(fn).parameters.values():
        kind = _kind(parameter, hints, events, where)
        _check_colour(kind, parameter.name, inspect.iscoroutinefunction(fn), where)
        if any(kind == other for _, other in found):
            raise DeclarationError(f"parameter {parameter.name!r} is the second one that takes the {kind}", where=where)
        found.append((parameter.name, kind))
    return tuple(found)


def injected(
    fn: Callable[..., Any], hints: Mapping[str, Any], where: str, *, has_effects: bool = False
) -> tuple[tuple[str, ParameterKind], ...]:
    """The parameters of a route, or of a workflow's step (which *has_effects*), that the runtime gives; all others are
    the web framework's, or the caller's.

    Raises DeclarationError for one that it has no use for.
    """
    found: list[tuple[str, ParameterKind]] = []
    for name in inspect.signature(fn).parameters:
        kind = _given_kind(hints.get(name))
        if kind is None:
            continue
        if kind in _ONLY_HANDLERS and not (has_effects and kind == "effects"):
            raise DeclarationError(
                f"parameter {name!r} is {_ONLY_HANDLERS[kind]}, which only a handler has",
                where=where,
                mend="Leave it out",
            )
        _check_colour(kind, name, inspect.iscoroutinefunction(fn), where)
        found.append((name, kind))
    return tuple(found)


def _given_kind(annotation: object) -> ParameterKind | None:
    """What a parameter of that type is given, whatever the function; None: nothing."""
    for cls in getattr(annotation, "__mro__", ()):
        if kind := _KINDS.get((cls.__module__.partition(".")[0], cls.__name__)):
            return kind
    return None


def _kind(
    parameter: inspect.Parameter, hints: Mapping[str, Any], events: tuple[EventType, ...], where: str
) -> ParameterKind:
    name = parameter.name
    if parameter.kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD:
        raise DeclarationError(
            f"parameter {name!r} is {parameter.kind.description}",
            where=where,
            mend="Write plain parameters, without *, ** and /",
        )
    if name not in hints:
        raise _not_allowed(name, "has no annotation", events, where)
    annotation = hints[name]
    if kind := _given_kind(annotation):
        return kind
    members = tuple(member for member in _members(annotation) if isinstance(member, type))
    missing = [event_type.name for event_type in events if not issubclass(event_type.cls, members)]
    if missing and (len(missing) < len(events) or any(map(event_type_or_none, members))):
        raise DeclarationError(
            f"parameter {name!r} takes {_shown(annotation)}, but the handler is bound to {_listed(missing)}",
            where=where,
            mend="Annotate it with a union of the events in on(...)",
        )
    if missing:
        raise _not_allowed(name, f"is annotated {_shown(annotation)}", events, where)
    return "event"


def _not_allowed(name: str, what: str, events: tuple[EventType, ...], where: str) -> DeclarationError:
    own = _listed(event_type.cls.__name__ for event_type in events)
    return DeclarationError(
        f"parameter {name!r} {what}", where=where, mend=f"Annotate it with its event ({own}), {_ALLOWED}"
    )


def _check_colour(kind: ParameterKind, name: str, is_async: bool, where: str) -> None:
    if is_async and kind == "sync_transaction":
        raise DeclarationError(
            f"parameter {name!r} is a SyncTransaction, which blocks the event loop in an async def",
            where=where,
            mend="Take a Transaction, or write a plain def",
        )
    if not is_async and kind in _ONLY_ASYNC:
        raise DeclarationError(
            f"parameter {name!r} has to be awaited, which a plain def cannot do",
            where=where,
            mend="Take a SyncTransaction, or write async def",
        )


def _members(annotation: object) -> Iterator[object]:
    """The members of a union, or the annotation itself."""
    annotation = getattr(annotation, "__value__", annotation)  # type X = ... (PEP 695)
    if typing.get_origin(annotation) in (Union, UnionType):
        for member in typing.get_args(annotation):
            yield from _members(member)
    else:
        yield annotation


def _leaves(annotation: object) -> Iterator[object]:
    """The classes that a result is made of: unions, lists and tuples opened, None left out."""
    for member in _members(annotation):
        if typing.get_origin(member) in _MANY:
            for part in typing.get_args(member):
                yield from _leaves(part)
        elif member not in _NOTHING and member is not Ellipsis:
            yield member


def _shown(annotation: object) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
